"""How long a step of the scheduler takes, and how good its schedule is.

`decode`: microseconds for `step_arrays` + `update_arrays`, Python calls included, every array
filled, with n sequences decoding (prompts of 440 + i mod 16 tokens, blocks of 16, prefix cache on,
random tokens); the mean of 128 steps, the best of 8 fresh engines. `decode_busy`: the same beside
100,000 waiting requests and 1,000,000 blocks. `schedule`: a fixed workload of 1,000 requests at
t = 0 (log-normal lengths), counted in steps, preemptions and recomputed tokens.
"""

from __future__ import annotations

import time
from math import log
from typing import Any

import numpy as np

from nano_batch.benchmarks.report import Row, report
from nano_batch.core import Engine

STEPS = 128
RUNS = 8
RUNNING = (1, 16, 64, 256, 1024)
BLOCKS_PER_SEQUENCE = 64
BUDGET = 8192


def run() -> dict[str, Any]:
    """All rows (see the module)."""
    rows = [decode_row("decode", running) for running in RUNNING]
    rows += [
        decode_row("decode_busy", running, waiting=100_000, num_blocks=1_000_000) for running in (16, 256)
    ]
    rows += [schedule_row(blocks, watermark) for blocks in (16_384, 4_096) for watermark in (0.0, 0.01)]
    return report("scheduler", rows)


def decode_row(case: str, running: int, *, waiting: int = 0, num_blocks: int = 0) -> Row:
    """The best of several fresh runs."""
    num_blocks = num_blocks or running * BLOCKS_PER_SEQUENCE
    seconds = min(decode_seconds(running, waiting, num_blocks) for _ in range(RUNS))
    return {
        "case": case,
        "running": running,
        "waiting": waiting,
        "blocks": num_blocks,
        "us_per_step": round(seconds * 1e6, 3),
    }


def decode_seconds(running: int, waiting: int, num_blocks: int) -> float:
    """Seconds for one decode step of `running` sequences, the mean of `STEPS`."""
    rng = np.random.default_rng(0)
    engine = Engine(
        num_blocks, 16, max_num_seqs=running, max_num_batched_tokens=BUDGET, max_model_len=1024, watermark=0.0
    )
    engine.bind([engine.array_buffers() for _ in range(2)])
    for i in range(running + waiting):
        prompt = rng.integers(0, 32_000, 440 + i % 16) if i < running else None
        length = None if i < running else 440 + i % 16
        engine.add_request(str(i), prompt, 500, num_prompt_tokens=length, arrival_time=float(i))
    tokens = rng.integers(0, 32_000, (STEPS, running)).astype(np.int32)
    while True:
        counts = engine.step_arrays()
        engine.update_arrays(counts.step, tokens[0, : counts.samples])
        if counts.decodes == running:
            break
    start = time.perf_counter()
    for row in tokens:
        counts = engine.step_arrays()
        engine.update_arrays(counts.step, row)
    seconds = (time.perf_counter() - start) / STEPS
    if counts.decodes != running:
        raise RuntimeError(f"{counts.decodes} sequences decoded in the last step; {running} were to be timed")
    return seconds


def schedule_row(num_blocks: int, watermark: float) -> Row:
    """Steps, preemptions and recomputed tokens for the fixed workload."""
    rng = np.random.default_rng(0)
    prompts = np.clip(rng.lognormal(log(500), 1, 1000), 16, 4000).astype(int)
    outputs = np.clip(rng.lognormal(log(150), 1, 1000), 8, 1000).astype(int)
    engine = Engine(
        num_blocks,
        16,
        max_num_seqs=256,
        max_num_batched_tokens=BUDGET,
        watermark=watermark,
        enable_prefix_caching=False,
        max_model_len=5000,
    )
    engine.bind([engine.array_buffers() for _ in range(2)])
    for i, (prompt, output) in enumerate(zip(prompts.tolist(), outputs.tolist(), strict=True)):
        engine.add_request(str(i), num_prompt_tokens=prompt, max_tokens=output)
    steps = preemptions = computed = finished = 0
    tokens = np.zeros(256, np.int32)
    while engine.has_unfinished:
        counts = engine.step_arrays()
        finished += len(engine.update_arrays(counts.step, tokens[: counts.samples]))
        steps += 1
        preemptions += counts.preempted
        computed += counts.tokens
    if finished != len(prompts):
        raise RuntimeError(f"{finished} requests finished of {len(prompts)}")
    return {
        "case": "schedule",
        "blocks": num_blocks,
        "watermark": watermark,
        "steps": steps,
        "preemptions": preemptions,
        "recomputed_tokens": computed - int((prompts + outputs - 1).sum()),
    }
