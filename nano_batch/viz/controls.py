"""The settings a rerun can have: how each is labelled, its values, what it trades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from nano_batch.core import Eviction, Policy, Preemption


@dataclass(frozen=True)
class Control:
    """One setting of a rerun: the trait's name, how it is labelled, its values and what it trades.

    Numbers are a slider over `values` with a field to type any other; words are a choice.
    """

    name: str
    label: str
    unit: str
    values: tuple[Any, ...]
    default: Any
    note: str


def powers_of_two(first: int, last: int) -> tuple[int, ...]:
    """The powers of two from `first` to `last`."""
    return tuple(1 << i for i in range(31) if first <= 1 << i <= last)


# In the order of the page: the first four show, the others lie under "More".
KNOWN = {
    control.name: control
    for control in (
        Control(
            "block_size", "Block size", "tokens", (), 16, "larger: shorter tables, more slots left empty"
        ),
        Control(
            "max_num_seqs",
            "Concurrency",
            "sequences",
            powers_of_two(1, 256),
            256,
            "more: fuller steps, less memory for each",
        ),
        Control(
            "policy", "Policy", "", get_args(Policy), "fcfs", "who is admitted first, and preempted last"
        ),
        Control(
            "preemption",
            "Preempted",
            "",
            get_args(Preemption),
            "recompute",
            "recompute: work is lost; swap: bytes move to a host pool as large",
        ),
        Control(
            "max_num_batched_tokens",
            "Step budget",
            "tokens",
            powers_of_two(16, 16384),
            8192,
            "more: prompts are read sooner, decodes wait longer",
        ),
        Control(
            "watermark",
            "Kept free",
            "of the blocks",
            (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
            0.01,
            "more: fewer preemptions, later admission",
        ),
        Control(
            "eviction", "Evicted first", "", get_args(Eviction), "lru", "which cached prefix is lost first"
        ),
        Control(
            "enable_prefix_caching",
            "Prefix cache",
            "",
            (True, False),
            True,
            "on: equal prefixes are stored once, and kept",
        ),
        Control(
            "output_spread",
            "Answers' spread",
            "sigma",
            (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
            1.0,
            "more: few long answers among many short ones; draws new requests",
        ),
        Control(
            "rate",
            "Request rate",
            "a second",
            tuple(float(rate) for rate in powers_of_two(1, 64)),
            8.0,
            "more: fuller slots, longer queues; draws new requests",
        ),
    )
}


def control(name: str, default: Any, values: tuple[Any, ...] | None = None) -> Control:
    """The control `name` with the run's own value as its default."""
    known = KNOWN[name]
    found = known.values if values is None else values
    if isinstance(default, str | bool):
        return Control(name, known.label, known.unit, found, default, known.note)
    return Control(name, known.label, known.unit, tuple(sorted({*found, default})), default, known.note)
