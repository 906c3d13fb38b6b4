"""The exercises of `07_paged_attention_kernel`: answers from what the kernel did, and from its plan."""

from __future__ import annotations

from itertools import pairwise

from nano_batch.lessons import small_step as small
from nano_batch.lessons.plan_shares import cuts, line_of_tiles
from nano_batch.lessons.small_step import recording
from nano_batch.lessons.truth import Exercise, Truth
from nano_batch.viz.table import Table

BYTES = 2  # of a number in bf16


def bytes_read() -> Truth:
    """07-1: keys and values that the small step must read."""
    reads = recording().reads
    token = 2 * small.HEAD_DIM * BYTES  # key and value of one head
    whole = sum(read.tokens for read in reads) * token
    blocks = len(reads) * small.BLOCK_SIZE * token
    padded = len(small.CONTEXTS) * max(small.CONTEXTS) * small.KV_HEADS * token
    mistakes = {
        float(blocks): "Slots of a last block that hold no token are not read.",
        float(whole * small.GROUP): "Query heads that share a key/value head share its reads.",
        float(whole // 2): "Keys and values both.",
        float(padded): "A row ends where its context ends, not where the longest one does.",
    }
    rows = tuple(
        (f"{row}", f"{context}", f"{context * small.KV_HEADS * token:,}")
        for row, context in enumerate(small.CONTEXTS)
    )
    table = Table("the small step", ("row", "context (tokens)", "read (bytes)"), rows)
    why = f"{sum(small.CONTEXTS)} tokens of {small.KV_HEADS} heads, {token} bytes each."
    return Truth(whole, why, mistakes, table)


def busiest() -> Truth:
    """07-2: tiles of the busiest of four workers."""
    workers = 4
    tile = recording().tile
    borders = cuts(small.CONTEXTS, small.KV_HEADS, tile, workers)
    tiles = [end - begin for begin, end in pairwise(borders)]
    line = line_of_tiles(small.CONTEXTS, small.KV_HEADS, tile)
    longest = -(-max(small.CONTEXTS) // tile)
    mistakes = {
        float(2 * longest): "So many it reads with whole pairs; the line is cut wherever a share ends.",
        float(longest): "The longest context of a head is cut, too.",
        float(len(line) // workers): "They do not divide evenly.",
        float(len(line) // small.KV_HEADS): "That is the line of one head; there are two, and four workers.",
    }
    rows = tuple((f"{worker}", f"{count}") for worker, count in enumerate(tiles))
    table = Table(f"shares of {len(line)} tiles", ("worker", "tiles"), rows)
    return Truth(max(tiles), f"{len(line)} tiles / {workers}, rounded up.", mistakes, table)


def merged() -> Truth:
    """07-3: pairs of a head and a row that five workers split."""
    reads = recording().reads
    workers: dict[tuple[int, int], set[int]] = {}
    for read in reads:
        workers.setdefault((read.head, read.row), set()).add(read.worker)
    split = sum(len(mine) > 1 for mine in workers.values())
    mistakes = {
        float(small.WORKERS - 1): "So many cuts there are; one of them falls between two pairs.",
        float(small.WORKERS): "Not each worker has a part to be merged.",
        float(len(workers)): "A pair that one worker reads alone is written at once.",
    }
    rows = tuple(
        (f"{head}", f"{row}", " ".join(map(str, sorted(mine))))
        for (head, row), mine in sorted(workers.items())
    )
    table = Table("who reads a pair", ("head", "row", "workers"), rows)
    return Truth(split, "Each cut that falls into a pair makes two parts of it.", mistakes, table)


EXERCISES = (
    Exercise(
        "07-1",
        asks="how many bytes of keys and values one call must read",
        unit="bytes",
        hints=(
            "A token has a key and a value for each key/value head, whatever the number of query heads.",
            "Add the contexts; multiply by heads, by two for key and value, by dimension, by bytes.",
        ),
        find=bytes_read,
    ),
    Exercise(
        "07-2",
        asks="how many tiles the busiest of four workers reads",
        unit="tiles",
        hints=(
            "How many tiles has the line?",
            "Round each context up to whole tiles, add, and count both heads.",
        ),
        find=busiest,
    ),
    Exercise(
        "07-3",
        asks="how many pairs of a head and a row have several workers",
        unit="pairs",
        hints=(
            "Look for cells of two colours in one row of the picture of a head.",
            "Five shares have four cuts between them. Where does each fall?",
        ),
        find=merged,
    ),
)
