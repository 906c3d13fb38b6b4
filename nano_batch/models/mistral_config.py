"""A Hugging Face `config.json` read as a `MistralConfig`.

What a file leaves out has the value that Transformers gives it; what would change the computation and is not
built here is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch

from nano_batch.errors import CheckpointError, NanoBatchError
from nano_batch.models.mistral import MistralConfig
from nano_batch.models.rope_scaling import RopeScaling, RopeType

REQUIRED = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
ARCHITECTURE = "MistralForCausalLM"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def read_config(folder: str | Path) -> MistralConfig:
    """Read `config.json` of a checkpoint's folder.

    Raises `CheckpointError`, which lists every field that is missing, wrong or not built here.
    """
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; it needs an object")
    return config_of(content, str(path))


def config_of(content: Mapping[str, Any], path: str = "config.json") -> MistralConfig:
    """Make a `MistralConfig` of what a `config.json` holds. Raises as `read_config`; messages begin with
    `path`."""
    problems = [*_other_models(content), *_wrong_fields(content)]
    if problems:
        raise CheckpointError(f"{path}: " + "; ".join(problems))
    sizes = {ours: content[theirs] for theirs, ours in REQUIRED.items()}
    longest = content.get("max_position_embeddings", 131_072)
    scaling = content.get("rope_scaling") or content.get("rope_parameters") or {}
    kv_heads, head_dim = content.get("num_key_value_heads", 8), content.get("head_dim")
    try:
        return MistralConfig(
            **sizes,
            num_kv_heads=sizes["num_heads"] if kv_heads is None else kv_heads,
            head_dim=sizes["hidden_size"] // sizes["num_heads"] if head_dim is None else head_dim,
            rope_theta=float(scaling.get("rope_theta", content.get("rope_theta", 10_000.0))),
            rope_scaling=_rope_scaling(scaling, content, longest),
            rms_norm_eps=content.get("rms_norm_eps", 1e-6),
            sliding_window=content.get("sliding_window", 4096),
            tie_word_embeddings=content.get("tie_word_embeddings", False),
            max_position_embeddings=longest,
            dtype=DTYPES[_dtype(content)],
        )
    except (NanoBatchError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_eos_token_ids(folder: str | Path) -> tuple[int, ...]:
    """Read which tokens end an output: from `generation_config.json`, or else `config.json`; none is fine.

    Raises `CheckpointError` where a file is no JSON, or the entry is neither a token id nor a list of them.
    """
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        if not path.is_file():
            continue
        try:
            ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if ids is None:
            continue
        ids = ids if isinstance(ids, list) else [ids]
        if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
            raise CheckpointError(f"{path}: eos_token_id is {ids!r}; it needs token ids")
        return tuple(ids)
    return ()


def _other_models(content: Mapping[str, Any]) -> list[str]:
    """What says that the checkpoint is of another architecture."""
    problems = []
    if content.get("model_type") != "mistral":
        problems.append(f"model_type is {content.get('model_type')!r}; it needs 'mistral'")
    names = content.get("architectures") or [ARCHITECTURE]
    if names != [ARCHITECTURE]:
        problems.append(f"architectures is {names}; it needs [{ARCHITECTURE!r}]")
    if content.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act is {content['hidden_act']!r}; it needs 'silu'")
    if content.get("quantization_config") is not None:
        problems.append("quantization_config is given; quantised weights are not read")
    return problems


def _wrong_fields(content: Mapping[str, Any]) -> list[str]:
    """Fields without which there is no model, or of a kind that is not built."""
    wholes = [*REQUIRED, "num_key_value_heads", "head_dim", "sliding_window", "max_position_embeddings"]
    problems = [f"{name} is missing" for name in REQUIRED if name not in content]
    for name in wholes:
        value = content.get(name, 1)
        optional = name not in REQUIRED and value is None
        if not optional and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            problems.append(f"{name} is {value!r}; it needs a whole number of at least 1")
    if _dtype(content) not in DTYPES:
        problems.append(f"dtype is {_dtype(content)!r}; it needs one of {', '.join(DTYPES)}")
    scaling = content.get("rope_scaling") or content.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        return [*problems, f"rope_parameters is {scaling!r}; it needs an object"]
    if _rope_type(scaling) not in get_args(RopeType):
        known = ", ".join(get_args(RopeType))
        problems.append(f"rope_type is {_rope_type(scaling)!r}; it needs one of {known}")
    for holder in (content, scaling):
        if holder.get("partial_rotary_factor", 1.0) != 1.0:
            problems.append(f"partial_rotary_factor is {holder['partial_rotary_factor']}; it needs 1")
    needed = {"linear": ["factor"], "yarn": ["factor"]}
    needed["llama3"] = ["factor", "low_freq_factor", "high_freq_factor"]
    for name in needed.get(str(_rope_type(scaling)), []):
        if not isinstance(scaling.get(name), int | float):
            problems.append(f"{name} of rope_parameters is {scaling.get(name)!r}; it needs a number")
    return problems


def _rope_type(scaling: Mapping[str, Any]) -> Any:
    return scaling.get("rope_type", scaling.get("type", "default"))


def _rope_scaling(scaling: Mapping[str, Any], content: Mapping[str, Any], longest: int) -> RopeScaling:
    known = {field.name for field in fields(RopeScaling)} - {"rope_type", "original_max_position_embeddings"}
    given = {name: value for name, value in scaling.items() if name in known and value is not None}
    original = content.get(
        "original_max_position_embeddings", scaling.get("original_max_position_embeddings", longest)
    )
    return RopeScaling(_rope_type(scaling), original_max_position_embeddings=original, **given)


def _dtype(content: Mapping[str, Any]) -> Any:
    return content.get("dtype") or content.get("torch_dtype") or "float32"
