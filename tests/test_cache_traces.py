"""Eviction against an independent result, to the token, and by hand."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nano_batch import BlockCache, Engine
from nano_batch.core import belady_hits
from nano_batch.errors import InvalidArgumentError

TRACES = Path(__file__).parents[1] / ".." / "shared" / "traces"
TRACE = TRACES / "mooncake_fast25_synthetic_trace.jsonl.gz"
RESULT = TRACES / "kvcache_simulator_mooncake_synthetic_llama-3.1-8b.json"
BLOCK = 512
#: The result counts the last half of the requests.
FIRST_COUNTED = 1996
CEILING = 31_535_563
THROUGH_ENGINE = 31_493_120

needs_traces = pytest.mark.skipif(
    not (TRACE.exists() and RESULT.exists()), reason=f"no trace files at {TRACES.name} beside the repository"
)


@cache
def requests() -> list[tuple[int, npt.NDArray[np.int32]]]:
    """(prompt tokens, block ids) of each request of the trace."""
    with gzip.open(TRACE, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["input_length"], np.array(row["hash_ids"], np.int32)) for row in rows]


@cache
def result() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return loaded


def hit_tokens(num_blocks: int, eviction: str) -> int:
    """The trace replayed on the cache alone: tokens found by the counted requests."""
    blocks = BlockCache(num_blocks, eviction)
    total = 0
    for number, (length, ids) in enumerate(requests()):
        hits = blocks.access(ids)
        if number >= FIRST_COUNTED:
            total += min(hits * BLOCK, length)
    return total


@needs_traces
def test_every_size_and_policy_of_the_independent_result() -> None:
    compared = 0
    for point in result()["points"]:
        for eviction in ("fifo", "lru"):
            size, expected = point["cacheBlocks"], point["results"][eviction]["hitTokens"]
            if (size, eviction) == (64, "lru"):
                # One request is larger than the cache: which of its blocks stay is each side's own.
                assert expected == 243_200
                expected = 244_736
            assert hit_tokens(size, eviction) == expected, f"{eviction} with {size} blocks"
            compared += 1
    assert compared == 20


@needs_traces
def test_the_optimal_bound_at_every_size_of_the_independent_result() -> None:
    chains = [ids for _, ids in requests()]
    offsets = np.cumsum([0, *map(len, chains)])
    lengths = np.array([length for length, _ in requests()])
    for point in result()["points"]:
        found = belady_hits(offsets, np.concatenate(chains), point["cacheBlocks"]).astype(np.int64)
        tokens = np.minimum(found * BLOCK, lengths)[FIRST_COUNTED:].sum()
        assert tokens == point["results"]["optimal"]["hitTokens"], point["cacheBlocks"]


def brute_force(chains: list[list[int]], num_blocks: int) -> list[int]:
    """The rule of `belady_hits` in its own words, with the future looked up anew every time."""
    cached: dict[int, int] = {}
    hits = []
    for number, chain in enumerate(chains):
        hits.append(next((k for k, one in enumerate(chain) if one not in cached), len(chain)))
        cached |= {one: depth for depth, one in enumerate(chain)}
        while len(cached) > num_blocks:
            later = chains[number + 1 :]
            waits = {
                one: next((k for k, chain in enumerate(later) if one in chain), len(later)) for one in cached
            }
            del cached[max(cached, key=lambda one: (waits[one], cached[one], one))]
    return hits


def random_chains(seed: int) -> list[list[int]]:
    """Chains over a small tree: an id stands for its whole path."""
    rng = np.random.default_rng(seed)
    paths: dict[tuple[int, ...], int] = {}
    chains = []
    for _ in range(40):
        steps = rng.integers(0, 3, rng.integers(1, 6)).tolist()
        chains.append([paths.setdefault(tuple(steps[: k + 1]), len(paths)) for k in range(len(steps))])
    return chains


@pytest.mark.parametrize("seed", range(20))
def test_the_optimal_bound_by_its_rule_and_above_every_policy(seed: int) -> None:
    chains = random_chains(seed)
    offsets, ids = np.cumsum([0, *map(len, chains)]), np.concatenate(chains).astype(np.int32)
    for size in (5, 8, 20):
        best = belady_hits(offsets, ids, size)
        assert best.tolist() == brute_force(chains, size)
        for eviction in ("lru", "lfu", "fifo"):
            blocks = BlockCache(size, eviction)
            assert sum(blocks.access(np.array(chain, np.int32)) for chain in chains) <= best.sum()


def test_bad_offsets_are_refused_by_name() -> None:
    with pytest.raises(InvalidArgumentError, match="offsets is 2 entries"):
        belady_hits(np.array([0, 5]), np.zeros(4, np.int32), 3)
    with pytest.raises(InvalidArgumentError, match="num_blocks is 0"):
        belady_hits(np.array([0, 4]), np.zeros(4, np.int32), 0)


@needs_traces
@pytest.mark.parametrize("eviction", ["lru", "fifo", "lfu"])
def test_the_ceiling_without_eviction(eviction: str) -> None:
    distinct = len({int(one) for _, ids in requests() for one in ids})
    assert hit_tokens(distinct, eviction) == result()["ceiling"]["hitTokens"] == CEILING


@needs_traces
def test_one_request_at_a_time_through_the_engine() -> None:
    """Only full blocks are found, and the last prompt token is always computed."""
    longest = max(length for length, _ in requests())
    engine = Engine(200_000, BLOCK, max_num_batched_tokens=longest)
    total = 0
    for number, (length, ids) in enumerate(requests()):
        name = f"r{number}"
        engine.add_request(
            name, prompt_block_ids=ids, prompt_block_size=BLOCK, num_prompt_tokens=length, max_tokens=1
        )
        output = engine.step()
        assert output.sampled_requests == [name]
        engine.update({name: 0})
        if number >= FIRST_COUNTED:
            total += output.num_cached_tokens[0]
    assert total == THROUGH_ENGINE


def access(blocks: BlockCache, *ids: int) -> int:
    return blocks.access(np.array(ids, np.int32))


def test_hits_are_the_unbroken_prefix_before_insertion() -> None:
    blocks = BlockCache(10)
    assert access(blocks, 1, 2, 3) == 0
    assert access(blocks, 1, 2, 3) == 3
    assert access(blocks, 1, 2, 9, 3) == 2
    assert access(blocks, 2, 3) == 0, "ids are chained: 2 behind 1 is another block than 2 at the start"
    assert blocks.num_cached == 7


def test_lru_evicts_the_tail_before_the_head() -> None:
    blocks = BlockCache(4, "lru")
    access(blocks, 1, 2, 3)
    access(blocks, 7, 8)
    assert blocks.num_cached == 4
    assert access(blocks, 1, 2, 3) == 2, "block 3 went; 1 and 2 stayed"


def test_lru_refreshes_on_a_hit_and_fifo_does_not() -> None:
    for eviction, hits in (("lru", 1), ("fifo", 0)):
        blocks = BlockCache(2, eviction)
        access(blocks, 1)
        access(blocks, 2)
        access(blocks, 1)
        access(blocks, 3)
        assert access(blocks, 1) == hits, eviction


def test_fifo_evicts_the_head_first() -> None:
    blocks = BlockCache(3, "fifo")
    access(blocks, 1, 2, 3)
    access(blocks, 9)
    assert access(blocks, 1, 2, 3) == 0, "without its head nothing of a chain is found"


def test_lfu_keeps_what_is_used_often() -> None:
    blocks = BlockCache(2, "lfu")
    for _ in range(3):
        access(blocks, 1)
    access(blocks, 2)
    access(blocks, 3)
    assert access(blocks, 1) == 1
    assert access(blocks, 2) == 0


def test_a_request_larger_than_the_cache() -> None:
    blocks = BlockCache(2, "lru")
    access(blocks, 1, 2, 3)
    assert access(blocks, 1, 2, 3) == 2, "tail first: the head is newest"
    blocks = BlockCache(2, "fifo")
    access(blocks, 1, 2, 3)
    assert access(blocks, 1, 2, 3) == 0, "head first: the head is gone"


def test_a_size_that_is_none() -> None:
    for size in (0, -1, 2**40):
        with pytest.raises(InvalidArgumentError, match=f"num_blocks is {size}"):
            BlockCache(size)


@pytest.mark.parametrize("eviction", ["lru", "lfu", "fifo"])
def test_many_requests_at_once_are_those_one_by_one(eviction):
    rng = np.random.default_rng(5)
    chains = [rng.integers(0, 6, size).astype(np.int32) for size in rng.integers(0, 9, 200)]
    offsets = np.cumsum([0, *map(len, chains)])
    one, many = BlockCache(12, eviction), BlockCache(12, eviction)
    hits = many.access_all(offsets, np.concatenate(chains))
    assert hits.dtype == np.uint32
    assert hits.tolist() == [one.access(chain) for chain in chains]
    assert hits.any()
    assert many.num_cached == one.num_cached
    with pytest.raises(InvalidArgumentError, match="offsets is 2 entries; it must be ascending from 0"):
        many.access_all(np.array([0, 4]), np.arange(5, dtype=np.int32))
