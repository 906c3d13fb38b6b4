"""The small decode step of `07_paged_attention_kernel`: a few uneven contexts, their blocks in random order.

The order in which the kernel's warps read these blocks is recorded from the kernel's own source, run on a CPU
(tests/cuda_on_cpu/record_reads.py), and kept in data/recorded/decode_reads.json: a reader needs no compiler.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano_batch.errors import LabError

DATA = Path(__file__).parents[2] / "data"
RECORDED = DATA / "recorded" / "decode_reads.json"
CONTEXTS = (200, 40, 96, 16)
BLOCK_SIZE, NUM_BLOCKS, SEED = 16, 32, 7
KV_HEADS, GROUP, HEAD_DIM = 2, 4, 64
WORKERS = 5


@dataclass(frozen=True)
class Read:
    """A tile of keys and values that a warp asks for.

    Attributes:
        order: its place in the sequence of what the warp asks for, from 0.
        row, head, block: whose it is, the key/value head, and the physical block.
        tile: which tile of the row's context.
        tokens: how many of them are read.
    """

    worker: int
    warp: int
    order: int
    row: int
    head: int
    tile: int
    block: int
    tokens: int


@dataclass(frozen=True)
class Recording:
    """What the kernel did: the plan's shares [worker: row, head, first tile, tiles] and all reads."""

    warps: int
    tile: int
    shares: tuple[tuple[int, int, int, int], ...]
    reads: tuple[Read, ...]


def block_table() -> NDArray[np.int32]:
    """[rows, most blocks] int32: physical blocks in random order, -1 where a row has none."""
    counts = [-(-context // BLOCK_SIZE) for context in CONTEXTS]
    order = iter(np.random.default_rng(SEED).permutation(NUM_BLOCKS).tolist())
    table = np.full((len(CONTEXTS), max(counts)), -1, np.int32)
    for row, count in enumerate(counts):
        table[row, :count] = [next(order) for _ in range(count)]
    return table


def to_text(recording: Recording) -> str:
    """A recording as the committed file holds it: one read a line."""
    case = {
        "contexts": CONTEXTS, "block_size": BLOCK_SIZE, "num_blocks": NUM_BLOCKS, "kv_heads": KV_HEADS,
        "group": GROUP, "head_dim": HEAD_DIM, "warps": recording.warps, "tile": recording.tile,
    }  # fmt: skip
    head = json.dumps({"kernel": "decode.cu", **case, "table": block_table().tolist()})[1:-1]
    shares = json.dumps([list(share) for share in recording.shares])
    reads = ",\n".join(json.dumps(list(vars(read).values())) for read in recording.reads)
    columns = json.dumps(list(Read.__dataclass_fields__))
    return f'{{{head},\n"shares": {shares},\n"columns": {columns},\n"reads": [\n{reads}\n]}}\n'


@cache
def recording() -> Recording:
    """What is committed.

    Raises:
        LabError: it is not there, for this is no checkout.
    """
    if not RECORDED.exists():
        raise LabError("the recorded reads of the kernel are in data/recorded of the project's checkout")
    kept = json.loads(RECORDED.read_text(encoding="utf-8"))
    shares = tuple(tuple(share) for share in kept["shares"])
    return Recording(kept["warps"], kept["tile"], shares, tuple(Read(*read) for read in kept["reads"]))
