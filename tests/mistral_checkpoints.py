"""Random small Mistral checkpoints, written by Transformers, whose numbers are the reference."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest
import torch

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
VARIANTS = {
    "plain": {},
    "window": {"sliding_window": 7},
    "wide heads": {"head_dim": 20},
    "one head each": {"num_key_value_heads": 4},
    "tied": {"tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    "theta": {"rope_parameters": {**ROPE, "rope_theta": 1e6}},
    "linear": {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 3.0}},
    "llama3": {
        "rope_parameters": {
            **ROPE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "yarn": {
        "rope_parameters": {
            **ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
        }
    },
    "yarn in full": {
        "rope_parameters": {
            **ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
            "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False, "mscale": 1.5, "mscale_all_dim": 0.5,
        }
    },
}  # fmt: skip


def config_of(**changes):
    """A configuration of three small layers: 4 / 2 heads of 16, 97 words, no window."""
    sizes = {
        "vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "sliding_window": None, "rope_parameters": dict(ROPE),
    }  # fmt: skip
    return transformers.MistralConfig(**{**sizes, **changes})


def reference_of(seed=0, dtype=torch.float32, **changes):
    """A `MistralForCausalLM` whose weights all matter: strong layers, norms that are not 1."""
    model = transformers.MistralForCausalLM(config_of(**changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.uniform_(0.5, 1.5, generator=generator)
            else:
                weight.normal_(0, 1.5 * weight.shape[1] ** -0.5, generator=generator)
    return model.to(dtype)


class Reference:
    """The reference as a model that gives the logits of whole sequences: [tokens, vocab_size]."""

    def __init__(self, model):
        self.model = model

    def dense(self, token_ids):
        with torch.no_grad():
            return self.model(torch.tensor([token_ids])).logits[0]


def saved(folder, model, **options):
    model.save_pretrained(folder, **options)
    return folder
