"""Steps of decodes and prompt chunks as a CUDA graph holds them: any mix in arrays of a fixed size.

The decode form of attention takes as many rows as may run at all, of which those that are no decodes have
length -1; the prefill form takes all tokens, of which the decodes belong to no row. Each writes the results
of its own tokens. Where the chunks' keys lie is looked up on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nano_batch.attention import PrefillPlan
from nano_batch.core import StepCounts
from nano_batch.engine.step_arrays import HostArrays, Shapes, Tensors

MOST_TOKENS = 2048
"""Of a step in a graph: with more, the device computes longer than the host takes to launch."""
MOST_CHUNKS = 16
"""Rows with prompts."""
SEEN_FOR_TOKEN = 2
"""Keys that the chunks of a step may see, for each token that it has room for."""


def token_sizes(most_tokens: int) -> list[int]:
    """Sizes in tokens: steps of 32, 64 and 128."""
    most = min(most_tokens, MOST_TOKENS)
    sizes = [*range(64, 512, 32), *range(512, 1024, 64), *range(1024, most, 128)]
    return [size for size in sizes if size < most] + [most]


def shapes(max_num_seqs: int) -> Shapes:
    """The arrays that such a step needs beside the engine's."""
    return {
        "seen_slots": ((SEEN_FOR_TOKEN * MOST_TOKENS,), 8),  # of the keys that chunks see, one after another
        "token_lanes": ((MOST_TOKENS,), 4),
        "decode_lens": ((max_num_seqs,), 4),  # context lengths of the decodes, -1 for other rows
        "logit_tokens": ((max_num_seqs,), 4),  # the token of each sample
        "chunk_starts": ((MOST_CHUNKS + 1,), 4),  # first token of each chunk
        "seen_starts": ((MOST_CHUNKS + 1,), 4),  # first of its keys in `seen_slots`
    }


def fill(counts: StepCounts, host: HostArrays, padded: int, block_size: int, window: int | None) -> bool:
    """Write these arrays for a planned step; False where there is no room for its chunks or keys."""
    arrays, rows, decodes = host.arrays, counts.rows, counts.decodes
    starts, lens = arrays["query_start_loc"][: rows + 1], arrays["context_lens"][:rows]
    chunks, queries = rows - decodes, np.diff(starts)
    oldest = np.zeros(chunks, np.int32)
    if window is not None:
        oldest = np.maximum(lens[decodes:] - queries[decodes:] - window + 1, 0)
    seen = lens[decodes:] - oldest
    ends = np.cumsum(seen)
    total = int(ends[-1]) if chunks else 0
    if chunks > MOST_CHUNKS or total > SEEN_FOR_TOKEN * padded:
        return False
    row = np.repeat(np.arange(chunks), seen)
    position = np.arange(total) + (oldest - ends + seen)[row]
    table = arrays["block_table"][decodes:rows]
    slots = table[row, position // block_size].astype(np.int64) * block_size + position % block_size
    _put(arrays["seen_slots"][: SEEN_FOR_TOKEN * padded], slots, -1)
    _put(arrays["seen_starts"], np.concatenate([[0], ends]), total)
    _put(arrays["chunk_starts"], starts[decodes:], counts.tokens)
    _put(arrays["token_lanes"][:padded], np.repeat(arrays["lanes"][:rows], queries), -1)
    _put(arrays["decode_lens"], lens[:decodes], -1)
    _put(arrays["logit_tokens"], starts[arrays["sample_rows"][: counts.samples] + 1] - 1, 0)
    arrays["sample_lanes"][counts.samples :] = -1
    host.pad_tokens(counts.tokens, padded)
    return True


def clear(host: HostArrays, padded: int) -> None:
    """Write a step of nothing."""
    for name in ("logit_tokens", "chunk_starts", "seen_starts"):
        host.arrays[name].fill(0)
    for name in ("decode_lens", "token_lanes", "seen_slots"):
        host.arrays[name].fill(-1)
    host.pad_tokens(0, padded)


def _put(array: npt.NDArray[Any], values: npt.NDArray[Any], rest: int) -> None:
    array[: len(values)] = values
    array[len(values) :] = rest


def prefill_plan(tensors: Tensors, tokens: int, window: int | None) -> PrefillPlan:
    """The plan of such a step's chunks, over its arrays."""
    return PrefillPlan.of_arrays(
        tensors["chunk_starts"], tensors["seen_starts"], tensors["seen_slots"][: SEEN_FOR_TOKEN * tokens],
        tokens=tokens, sliding_window=window,
    )  # fmt: skip
