"""The exercises of `06_prefix_cache`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nano_batch.core import BlockCache, belady_hits
from nano_batch.lessons.truth import Exercise, Truth
from nano_batch.records import Run
from nano_batch.simulator import simulate
from nano_batch.viz.table import Table
from nano_batch.workloads import Families, Workload


def whole_blocks_only() -> Truth:
    """06-1: tokens of a prefix that are found on blocks that do not divide it."""
    prefix, own, size = 240, 40, 32
    families = Families(count=1, prefix_tokens=prefix)
    workload = Workload.synthetic(
        4, prompts=own, outputs=8, seed=1, arrivals="closed_loop", users=1, families=families
    )
    run = simulate(workload, num_blocks=64, block_size=size, event_log=True)
    cached = run.requests.cached_tokens
    mistakes = {
        float(prefix): "The last block of the prefix is not full: it holds other tokens in each request.",
        float(-(-prefix // size) * size): "So many tokens the prefix does not have.",
        float(prefix // size): "That is how many blocks; the question is their tokens.",
        0.0: "Nothing is found only where the prefix fills no block.",
    }
    rows = tuple((f"r{i}", f"{prefix + own}", f"{tokens:,}") for i, tokens in enumerate(cached.tolist()))
    table = Table(f"requests on blocks of {size}", ("request", "prompt (tokens)", "found in the cache"), rows)
    why = f"{prefix // size} blocks of {size} are full of the prefix."
    return Truth(int(cached[1]), why, mistakes, table, run)


def round_robin() -> Truth:
    """06-2: five prompts of a block each, four times round, on a cache of four: what the optimum finds."""
    kinds, rounds, size = 5, 4, 4
    asked = np.tile(np.arange(kinds, dtype=np.int32), rounds)
    offsets = np.arange(len(asked) + 1, dtype=np.int64)
    best = int(belady_hits(offsets, asked, size).sum())
    found = {name: _found(name, size, [[block] for block in asked]) for name in ("lru", "fifo", "lfu")}
    mistakes = {
        float(sum(found["lru"])): "That is what LRU finds: it drops each block just before it comes again.",
        float(kinds * (rounds - 1)): "The cache has one block less than there are prompts.",
        float(len(asked)): "The first time nothing can be found.",
        float(len(asked) - size): "Of five different prompts one does not fit, in each round.",
    }
    rows = (*((name, f"{sum(hits)}") for name, hits in found.items()), ("optimal", f"{best}"))
    table = Table(f"{len(asked)} requests on {size} blocks", ("eviction", "found"), tuple(rows))
    why = f"It keeps {size} of the {kinds} and gives up the one that was just used: its next use is farthest."
    return Truth(best, why, mistakes, table, _engine_run([[int(block)] for block in asked], 16))


def deepest_first() -> Truth:
    """06-3: what is left of a prefix when other blocks push some of its request's out."""
    first, second, third = [0, 1, 2, 3, 10, 11], [20, 21, 22, 23], [0, 1, 2, 3, 30, 31]
    hits = _found("lru", 8, [first, second, third])
    mistakes = {
        2.0: "Of one request's blocks, all used at one time, the last go first: without the beginning the "
        "rest cannot be found.",
        0.0: "Only as many are evicted as are needed: two.",
        6.0: "The third request's own blocks are new.",
    }
    rows = tuple((name, f"{count}") for name, count in zip(("p", "q", "r"), hits, strict=True))
    table = Table("LRU, 8 blocks", ("request", "blocks found"), rows)
    why = "q needs two blocks more than are free; they are the two last ones of p, beyond the prefix."
    return Truth(hits[2], why, mistakes, table, _engine_run([first, second, third], 16))


def _found(eviction: str, size: int, chains: Sequence[Sequence[int]]) -> list[int]:
    cache = BlockCache(size, eviction)
    return [cache.access(np.array(chain, np.int32)) for chain in chains]


def _engine_run(chains: Sequence[Sequence[int]], blocks: int) -> Run:
    """The same prompts one after the other on an engine, which holds what it runs beside what it caches."""
    ids = [number for chain in chains for number in chain]
    offsets = np.cumsum([0, *map(len, chains)])
    workload = Workload(
        np.arange(len(chains), dtype=float),
        np.array([16 * len(chain) for chain in chains]),
        np.full(len(chains), 2),
        block_offsets=offsets,
        block_ids=np.array(ids, np.int32),
        block_size=16,
        name="the exercise",
    )
    return simulate(workload, num_blocks=blocks, block_size=16, event_log=True)


EXERCISES = (
    Exercise(
        "06-1",
        asks="how many tokens of the prefix the second request finds",
        unit="tokens",
        hints=(
            "Only a full block has a hash, over its tokens and all before them.",
            "How many blocks of 32 do 240 tokens fill?",
        ),
        find=whole_blocks_only,
    ),
    Exercise(
        "06-2",
        asks="how often the best possible eviction finds its block",
        unit="times",
        hints=(
            "It knows what comes. When the fifth prompt has been served, which of the five comes last?",
            "It may give up the block that was just used.",
        ),
        find=round_robin,
    ),
    Exercise(
        "06-3",
        asks="how many of its blocks r finds",
        unit="blocks",
        hints=(
            "The cache has room for eight; p's six and q's four are ten.",
            "All of p's blocks were used at one time. Which of them is of least use without the others?",
        ),
        find=deepest_first,
    ),
)
