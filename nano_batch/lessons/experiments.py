"""Small runs of the real scheduler, each made for one question about blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nano_batch.core import Engine
from nano_batch.errors import InvalidArgumentError
from nano_batch.metrics import waste
from nano_batch.records import Run, drive, walk
from nano_batch.viz.table import Table
from nano_batch.workloads import Workload


def last_block(workload: Workload, *, memory_tokens: int, block_sizes: Sequence[int]) -> Table:
    """Serve the same requests at each block size: what stands empty in the last block, and what it buys.

    "lost a sequence" is the mean, over steps and sequences that hold blocks, of token slots held and not
    written; beside it the model (block_size - 1) / 2 of a sequence that stops anywhere in its last block.
    """
    rows = []
    for block_size in block_sizes:
        run = drive(Engine(_blocks(memory_tokens, block_size), block_size, event_log=True), workload)
        table = int(-(-(workload.prompt_tokens + workload.output_tokens - 1).max() // block_size))
        rows.append(
            (
                f"{block_size:,}",
                f"{_lost_a_sequence(run):.1f}",
                f"{(block_size - 1) / 2:.1f}",
                f"{table:,}",
                f"{len(run.steps):,}",
            )
        )
    header = (
        "block size (tokens)",
        "lost a sequence (tokens)",
        "(size - 1) / 2 (tokens)",
        "longest table (blocks)",
        "steps",
    )
    return Table(f"{len(workload):,} requests on {memory_tokens:,} tokens of KV memory", header, tuple(rows))


def _lost_a_sequence(run: Run) -> float:
    assert run.events is not None
    held = unfilled = 0
    for state in walk(run.events):
        held += int((np.diff(state.table_offsets) > 0).sum())
        unfilled += waste(state, run.events.block_size).unfilled
    return unfilled / held if held else float("nan")


class Held(NamedTuple):
    """Blocks held while all of the requests run, prompt tokens computed until then, and the run."""

    blocks: int
    computed: int
    engine: Engine


def sharing(
    prefix_tokens: int, *, own_tokens: int, requests: int, memory_tokens: int, block_sizes: Sequence[int]
) -> Table:
    """Let requests begin with the same prefix: blocks held at each block size, with sharing and without.

    The first request computes the prefix; then the others arrive. All of them run when blocks are counted.
    """
    rows = []
    for size in block_sizes:
        counts = (prefix_tokens, own_tokens, requests, _blocks(memory_tokens, size), size)
        with_, without = hold_prefix(*counts), hold_prefix(*counts, share=False)
        saved, hits = without.blocks - with_.blocks, without.computed - with_.computed
        cells = (size, prefix_tokens // size, without.blocks, with_.blocks, saved, hits)
        rows.append(tuple(f"{cell:,}" for cell in cells))
    header = (
        "block size (tokens)",
        "full blocks of prefix",
        "blocks unshared",
        "blocks shared",
        "blocks saved",
        "tokens not computed",
    )
    return Table(f"{requests} requests with a prefix of {prefix_tokens} tokens", header, tuple(rows))


def hold_prefix(
    prefix_tokens: int,
    own_tokens: int,
    requests: int,
    num_blocks: int,
    block_size: int,
    *,
    share: bool = True,
) -> Held:
    """One such run up to the step in which the last prompt is computed."""
    engine = Engine(
        num_blocks,
        block_size,
        max_num_batched_tokens=requests * (prefix_tokens + own_tokens),
        enable_prefix_caching=share,
        event_log=True,
    )
    prefix = range(prefix_tokens)
    own = (range(start, start + own_tokens) for start in range(10**6, 2 * 10**6, own_tokens))
    computed = 0
    for number in range(requests):
        engine.add_request(f"r{number}", [*prefix, *next(own)], max_tokens=8)
        if number in (0, requests - 1):
            output = engine.step()
            prefill = output.num_tokens_per_request[output.num_decodes :]
            computed += sum(prefill)
            if number == 0 and requests > 1:
                engine.update(dict.fromkeys(output.sampled_requests, 7))
    if engine.num_running != requests:
        raise InvalidArgumentError(
            f"{num_blocks} blocks of {block_size} hold {engine.num_running} of {requests} requests at once"
        )
    return Held(engine.num_blocks - engine.num_free_blocks - engine.num_cached_blocks, computed, engine)


def _blocks(memory_tokens: int, block_size: int) -> int:
    if not 1 <= block_size <= memory_tokens:
        raise InvalidArgumentError(
            f"block_size is {block_size}; it must be from 1 to the memory's {memory_tokens:,} tokens"
        )
    return memory_tokens // block_size
