"""The same weights in Transformers' own model: nothing is copied."""

from __future__ import annotations

from typing import Any

import torch

from nano_batch.benchmarks.engines.work import LONGEST
from nano_batch.errors import BenchmarkError, MissingExtraError
from nano_batch.models import MistralConfig, PagedMistral

PAD = 0


def transformers_module() -> Any:
    """The package. Raises `MissingExtraError` where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("Transformers' engines need it: pip install transformers") from error
    return transformers


def transformers_model(model: PagedMistral) -> Any:
    """A `MistralForCausalLM` whose parameters are views of the model's weights.

    No window is asked for where no sequence reaches it: the result is the same, and Transformers is faster.

    Raises:
        MissingExtraError: Transformers is not installed.
        BenchmarkError: the window is shorter than the longest sequence, or a weight has no value.
    """
    transformers = transformers_module()
    window = model.config.sliding_window
    if window is not None and window < LONGEST:
        raise BenchmarkError(f"the window has {window} tokens; the longest sequence has {LONGEST}")
    config = transformers.MistralConfig(**_config(model.config), dtype=model.dtype)
    with torch.device("meta"):
        theirs = transformers.MistralForCausalLM(config)
    theirs.load_state_dict(model.state_dict(), assign=True)
    if model.config.tie_word_embeddings:
        theirs.tie_weights()
    # The rotary frequencies are in no checkpoint: they are computed anew, off the meta device.
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config).to(model.device)
    theirs.requires_grad_(False).eval()
    theirs.generation_config.eos_token_id = None
    _check_filled(theirs)
    return theirs


def greedy_config(**lengths: int) -> Any:
    """A `GenerationConfig` of the likeliest tokens that nothing but their number ends."""
    config = transformers_module().GenerationConfig
    return config(do_sample=False, eos_token_id=None, pad_token_id=PAD, use_cache=True, **lengths)


def _config(shape: MistralConfig) -> dict[str, Any]:
    if shape.rope_scaling.rope_type != "default":
        raise BenchmarkError(f"rope_type is {shape.rope_scaling.rope_type!r}; it must be 'default'")
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": shape.rms_norm_eps,
        "max_position_embeddings": shape.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tie_word_embeddings,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": PAD,
    }


def _check_filled(theirs: Any) -> None:
    empty = [name for name, tensor in (*theirs.named_parameters(), *theirs.named_buffers()) if tensor.is_meta]
    if empty:
        raise BenchmarkError(f"these weights of Transformers' model have no value: {', '.join(empty)}")
