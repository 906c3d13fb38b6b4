"""The tables *requests* and *steps* of docs/records.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_batch.records.columns import Columns


@dataclass(frozen=True, eq=False, repr=False)
class Requests(Columns):
    """One row a sequence. Times are seconds since the run's start, NaN where it did not happen."""

    sequence: NDArray[np.uint32]
    request_id: NDArray[np.str_]
    arrival_s: NDArray[np.float64]
    first_scheduled_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    max_tokens: NDArray[np.int64]
    preemptions: NDArray[np.int64]
    finish_reason: NDArray[np.str_]

    DTYPES: ClassVar[dict[str, Any]] = {
        "sequence": np.uint32,
        "request_id": np.str_,
        "arrival_s": np.float64,
        "first_scheduled_s": np.float64,
        "first_token_s": np.float64,
        "finish_s": np.float64,
        "prompt_tokens": np.int64,
        "cached_tokens": np.int64,
        "output_tokens": np.int64,
        "max_tokens": np.int64,
        "preemptions": np.int64,
        "finish_reason": np.str_,
    }


@dataclass(frozen=True, eq=False, repr=False)
class Steps(Columns):
    """One row a step. Sequences, blocks and slots are counted after the step was planned."""

    step: NDArray[np.uint32]
    start_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    prefill_tokens: NDArray[np.int64]
    decode_tokens: NDArray[np.int64]
    running: NDArray[np.int64]
    waiting: NDArray[np.int64]
    blocks_used: NDArray[np.int64]
    blocks_cached: NDArray[np.int64]
    blocks_free: NDArray[np.int64]
    slots_used: NDArray[np.int64]
    slots_reserved: NDArray[np.int64]
    slots_internal: NDArray[np.int64]
    slots_external: NDArray[np.int64]
    slots_wanted: NDArray[np.int64]
    slots_largest_hole: NDArray[np.int64]
    preemptions: NDArray[np.int64]

    DTYPES: ClassVar[dict[str, Any]] = {
        "step": np.uint32,
        "start_s": np.float64,
        "duration_s": np.float64,
        "prefill_tokens": np.int64,
        "decode_tokens": np.int64,
        "running": np.int64,
        "waiting": np.int64,
        "blocks_used": np.int64,
        "blocks_cached": np.int64,
        "blocks_free": np.int64,
        "slots_used": np.int64,
        "slots_reserved": np.int64,
        "slots_internal": np.int64,
        "slots_external": np.int64,
        "slots_wanted": np.int64,
        "slots_largest_hole": np.int64,
        "preemptions": np.int64,
    }
