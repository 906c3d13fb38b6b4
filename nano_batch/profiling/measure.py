"""The tables of a `Profile`, measured on the CUDA device that is there (docs/costs.md)."""

from __future__ import annotations

import datetime
import platform
from typing import Any

import numpy as np
import torch

from nano_batch.benchmarks.report import commit, torch_versions
from nano_batch.core import Engine
from nano_batch.errors import DeviceError
from nano_batch.profiling.parts import StepParts
from nano_batch.profiling.timing import event_seconds, graph_seconds, host_seconds
from nano_batch.simulator.cards import ModelCard, ModelName, model_card
from nano_batch.simulator.costs import StepFeatures
from nano_batch.simulator.profiles import PROFILE_VERSION, Profile

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
SEQUENCES = (1, 4, 16, 64, 256)
CONTEXTS = (128, 512, 1024, 2048, 4096)
PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
ROWS = (1, 16, 64, 256)
# Steps measured whole, to hold the sum of the tables against: (decodes, their context, prompt tokens).
WHOLE = ((1, 700, 0), (8, 300, 0), (32, 900, 0), (48, 1500, 0), (128, 700, 0), (200, 1500, 0), (256, 400, 0),
         (0, 0, 700), (0, 0, 3000), (16, 800, 512), (64, 800, 1024), (192, 600, 2048))  # fmt: skip
BLOCK_SIZE = 16


def measure_profile(model: ModelName = "mistral-7b-v0.3") -> Profile:
    """Measure torch's own kernels for a model's shape; about two minutes on an H100.

    Raises:
        DeviceError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise DeviceError("a profile is measured on a CUDA device; this machine has none")
    device, card = torch.device("cuda"), model_card(model)
    parts = StepParts(card, device)
    with torch.inference_mode():
        content = {**_about(card, device), **_tables(parts), **_moves(card, device), **measure_host()}
        content["rates"] = _rates(device)
        content["fit_error"] = _fit_error(parts, Profile(content))
    return Profile(content)


def _about(card: ModelCard, device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "version": PROFILE_VERSION,
        "name": f"{card.name}, torch's own kernels",
        "device": properties.name,
        "memory_bytes": properties.total_memory,
        "model": card.title,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "versions": {**torch_versions(), "python": platform.python_version()},
        "batch_sizes": [],
    }


def _tables(parts: StepParts) -> dict[str, Any]:
    decode = [[_decode(parts, sequences, context) for context in CONTEXTS] for sequences in SEQUENCES]
    return {
        "tables": {
            "linear": {"tokens": TOKENS, "seconds": [_linear(parts, tokens) for tokens in TOKENS]},
            "decode_attention": {"sequences": SEQUENCES, "context": CONTEXTS, "seconds": decode},
            "prefill_attention": {
                "pairs": [tokens * (tokens + 1) // 2 for tokens in PROMPTS],
                "seconds": [_prefill(parts, tokens) for tokens in PROMPTS],
            },
            "sampling": {"rows": ROWS, "seconds": [_sampling(parts, rows) for rows in ROWS]},
        },
        "overhead_s": _overhead(parts),
    }


def _linear(parts: StepParts, tokens: int) -> float:
    x, angles = parts.empty(tokens, parts.card.hidden_size), parts.empty(tokens, 1, parts.card.head_dim)
    return graph_seconds(lambda: parts.linear(x, angles))


def _decode(parts: StepParts, sequences: int, context: int) -> float:
    q, cache = query_inputs(parts, sequences), parts.cache(sequences, context)
    return graph_seconds(lambda: parts.decode(q, cache))


def query_inputs(parts: StepParts, sequences: int) -> torch.Tensor:
    """One query a sequence: [B, kv heads, heads a kv head, head_dim]."""
    card = parts.card
    return parts.empty(sequences, card.num_kv_heads, card.num_heads // card.num_kv_heads, card.head_dim)


def prompt_inputs(parts: StepParts, tokens: int) -> list[torch.Tensor]:
    """Queries, keys and values of a prompt: [1, heads of each, T, head_dim]."""
    heads = (parts.card.num_heads, parts.card.num_kv_heads, parts.card.num_kv_heads)
    return [parts.empty(1, count, tokens, parts.card.head_dim) for count in heads]


def _prefill(parts: StepParts, tokens: int) -> float:
    q, keys, values = prompt_inputs(parts, tokens)
    return graph_seconds(lambda: parts.prefill(q, keys, values))


def _sampling(parts: StepParts, rows: int) -> float:
    x = parts.empty(rows, parts.card.hidden_size)
    return graph_seconds(lambda: parts.sample(x))


def _overhead(parts: StepParts) -> float:
    """A replayed graph that does nothing much, and a copy to the device, as large as many prompts' arrays."""
    arrays = torch.zeros(64 * 1024, dtype=torch.int32).pin_memory()
    there = torch.empty_like(arrays, device=parts.device)
    copy = event_seconds(lambda: there.copy_(arrays, non_blocking=True))
    return copy + graph_seconds(lambda: there[:1].add_(1))


def _moves(card: ModelCard, device: torch.device) -> dict[str, float]:
    """Seconds a block, of many blocks moved together."""
    size = card.kv_bytes_per_token * BLOCK_SIZE // 2
    blocks = torch.zeros(128, size, dtype=torch.bfloat16, device=device)
    host = torch.zeros(32, size, dtype=torch.bfloat16).pin_memory()
    chosen = torch.randperm(128, device=device)
    source, target = chosen[:64], chosen[64:]
    copied = event_seconds(lambda: blocks.index_copy_(0, target, blocks[source])) / 64
    swapped = event_seconds(lambda: host.copy_(blocks[:32], non_blocking=True)) / 32
    return {"block_copy_s": copied, "block_swap_s": swapped}


def measure_host() -> dict[str, float]:
    """A straight line through the engine's own step at several batch sizes, in the array form."""
    running = np.array([1, 16, 64, 256])
    line = np.polyfit(running, [_engine_seconds(int(count)) for count in running], 1)
    return {"host_s": max(float(line[1]), 0.0), "host_per_sequence_s": max(float(line[0]), 0.0)}


def _engine_seconds(running: int) -> float:
    engine = Engine(running * 64, BLOCK_SIZE, max_num_seqs=running, max_model_len=1024)
    engine.bind([engine.array_buffers() for _ in range(2)])
    for number in range(running):
        engine.add_request(str(number), num_prompt_tokens=64, max_tokens=900)
    tokens = np.zeros(running, np.int32)

    def step() -> None:
        counts = engine.step_arrays()
        engine.update_arrays(counts.step, tokens[: counts.samples])

    while engine.num_waiting:
        step()
    return host_seconds(step)


def _rates(device: torch.device) -> dict[str, float]:
    """What the device reaches on its own: copying memory (read and written), and bf16 products."""
    source, target = torch.zeros(2, 1 << 29, dtype=torch.int32, device=device)
    copy = event_seconds(lambda: target.copy_(source))
    rates = {"copy_bytes_per_s": 2 * 4 * source.numel() / copy}
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device=device) for _ in range(2))
    rates["product_flops_per_s"] = 2 * 8192**3 / event_seconds(lambda: a @ b)
    return rates


def _fit_error(parts: StepParts, profile: Profile) -> dict[str, Any]:
    errors, rows = [], []
    for decodes, context, prompt in WHOLE:
        measured = _whole(parts, decodes, context, prompt)
        features = StepFeatures(
            prefill_tokens=prompt,
            prefill_sequences=int(prompt > 0),
            decode_sequences=decodes,
            decode_context=decodes * context,
            prefill_pairs=prompt * (prompt + 1) // 2,
            sampled=decodes + int(prompt > 0),
        )
        told = profile.core().step_time(features)[1] - float(profile.content["overhead_s"])
        errors.append(abs(told - measured) / measured)
        rows.append(
            {"decodes": decodes, "context": context, "prompt": prompt, "measured_s": measured, "told_s": told}
        )
    return {"median": float(np.median(errors)), "max": float(max(errors)), "steps": rows}


def _whole(parts: StepParts, decodes: int, context: int, prompt: int) -> float:
    """A step in one graph: its linear layers, its attention, its samples."""
    tokens = decodes + prompt
    x, angles = parts.empty(tokens, parts.card.hidden_size), parts.empty(tokens, 1, parts.card.head_dim)
    sampled = decodes + int(prompt > 0)
    q, cache = (query_inputs(parts, decodes), parts.cache(decodes, context)) if decodes else (None, [])
    triple = prompt_inputs(parts, prompt) if prompt else None

    def step() -> None:
        y = parts.linear(x, angles)
        if q is not None:
            parts.decode(q, cache)
        if triple is not None:
            parts.prefill(*triple)
        parts.sample(y[:sampled])

    return graph_seconds(step)
