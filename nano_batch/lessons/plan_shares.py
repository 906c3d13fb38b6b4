"""The decode kernel's plan in plain Python (`attention/cuda/plan.cu`): who reads which tiles.

All tiles of all pairs of a key/value head and a row stand in one line, by head, then row; workers get equal
shares of it. A test holds this against the kernel's source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LEAST_TILES = 4
"""Fewer tiles are no share: as `nano_batch.attention.cuda` has it."""


@dataclass(frozen=True)
class Tile:
    """A tile in the line: the pair, and which of the row's tiles."""

    head: int
    row: int
    number: int


def line_of_tiles(contexts: Sequence[int], heads: int, tile: int) -> list[Tile]:
    """All tiles, by head, then row, then their place in the row's context."""
    counts = [-(-context // tile) for context in contexts]
    return [
        Tile(head, row, number)
        for head in range(heads)
        for row, count in enumerate(counts)
        for number in range(count)
    ]


def cuts(contexts: Sequence[int], heads: int, tile: int, workers: int) -> list[int]:
    """Where the workers' shares begin in the line, and its end; idle workers have none."""
    counts = [-(-context // tile) for context in contexts if context > 0]
    total, pairs = heads * sum(counts), heads * len(counts)
    active = _sharers(workers, total, pairs, len(set(counts)) == 1)
    return [worker * total // active for worker in range(active + 1)]


def shares(contexts: Sequence[int], heads: int, tile: int, workers: int) -> list[tuple[int, int, int, int]]:
    """Row, head, first tile and tiles of each worker that has some."""
    line = line_of_tiles(contexts, heads, tile)
    return [
        (line[begin].row, line[begin].head, line[begin].number, end - begin)
        for begin, end in pairwise(cuts(contexts, heads, tile, workers))
        if end > begin
    ]


def _sharers(workers: int, total: int, pairs: int, equal: bool) -> int:
    """How many share the line: fewer where there is little, or where cuts then fall between equal pairs."""
    most = max(1, min(workers, -(-total // LEAST_TILES)))
    if not equal:
        return most
    least = -(-most * 7 // 8)
    if 0 < pairs <= most:
        even = most // pairs * pairs
        return even if even >= least else most
    each = -(-pairs // most)
    while each > 0 and pairs // each >= least:
        if pairs % each == 0:
            return pairs // each
        each += 1
    return most
