"""What a quantised KV cache changes: the error of logits, and how often the likeliest token stays the same.

Random prompts of 256 tokens go through a model with random weights twice, over a cache in the model's dtype
and over one in float8_e4m3fn (scale 1). Every token's keys and values are read back from the cache, so that
the errors of all layers add up. `logits_error`: norm of the difference over norm of the logits, of all
tokens. `greedy_agreement_percent`: tokens after which both caches have the same likeliest token. Random
weights give flat distributions: of a trained model more tokens agree.

`nano-batch bench kv_cache --model small`: another shape, of at most 4 layers; by default "mistral-7b-v0.1" on
CUDA, and "tiny" on a CPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nano_batch.benchmarks.report import Row, report, torch_versions
from nano_batch.models import MistralConfig, PagedInputs, PagedMistral
from nano_batch.models.checkpoint import draw_weights

PROMPTS, TOKENS, BLOCK_SIZE = 8, 256, 16
MOST_LAYERS = 4
"""Of the 7B shape: its weights are drawn in seconds, and every layer adds as the ones before it did."""
DTYPES = {"auto": None, "fp8_e4m3": torch.float8_e4m3fn}


def run(model: str | None = None) -> dict[str, Any]:
    """Compare the caches.

    Args:
        model: a name of `nano_batch.models.mistral.SHAPES`.

    Raises:
        UnknownOptionError: there is no such shape.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name: Any = model or ("mistral-7b-v0.1" if device == "cuda" else "tiny")
    config = MistralConfig.named(name)
    made = PagedMistral(replace(config, num_layers=min(config.num_layers, MOST_LAYERS)), device=device)
    draw_weights(made, seed=0)
    about = {"model": repr(made.config), "device": device, "versions": torch_versions()}
    return {**report("kv_cache", compared(made)), **about}


def compared(model: PagedMistral) -> list[Row]:
    """A row for each `kv_cache_dtype`; of "auto" there is nothing to differ from."""
    tokens = torch.randint(
        model.config.vocab_size, (PROMPTS, TOKENS), generator=torch.Generator().manual_seed(0)
    )
    exact = logits_of(model, tokens, None)
    return [{"kv_cache_dtype": name, **_difference(exact, logits_of(model, tokens, dtype))}
            for name, dtype in DTYPES.items()]  # fmt: skip


def _difference(exact: torch.Tensor, other: torch.Tensor) -> Row:
    error = (other.double() - exact.double()).norm() / exact.double().norm()
    agree = (other.argmax(1) == exact.argmax(1)).double().mean()
    return {
        "tokens": len(exact),
        "logits_error": float(f"{float(error):.4g}"),
        "greedy_agreement_percent": round(100 * float(agree), 2),
    }


def logits_of(model: PagedMistral, tokens: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """[prompts * tokens, vocab_size] of prompts [prompts, tokens] over a cache in `dtype`."""
    prompts, length = tokens.shape
    blocks = -(-length // BLOCK_SIZE)
    cache = model.new_cache(prompts * blocks, BLOCK_SIZE, dtype=dtype)
    table = torch.arange(prompts * blocks, dtype=torch.int32).view(prompts, blocks)
    positions = torch.arange(length).expand(prompts, length)
    slots = table.gather(1, positions // BLOCK_SIZE).long() * BLOCK_SIZE + positions % BLOCK_SIZE
    starts = torch.arange(0, prompts * length + 1, length, dtype=torch.int32)
    lens = torch.full((prompts,), length, dtype=torch.int32)
    token_ids, place, slot = (part.flatten().to(model.device) for part in (tokens, positions, slots))
    rows = (part.to(model.device) for part in (table, lens, starts))
    block_tables, context_lens, query_start_loc = rows
    inputs = PagedInputs(token_ids, place, slot, block_tables, context_lens, query_start_loc)
    with torch.no_grad():
        return model.paged(inputs, cache)
