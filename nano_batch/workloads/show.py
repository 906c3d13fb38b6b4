"""What was understood of a workload, in three lines or a small table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nano_batch.display import html_table, number

if TYPE_CHECKING:
    from nano_batch.workloads.workload import Workload

_QUANTILES = (0.5, 0.95, 0.99)


def text(workload: Workload) -> str:
    """A stable description of at most 3 lines."""
    first = f"Workload {workload.name}: {', '.join(facts(workload))}"
    if not len(workload):
        return first
    return "\n".join(
        [
            first,
            f"  prompt tokens: {_line(workload.prompt_tokens)}",
            f"  output tokens: {_line(workload.output_tokens)}",
        ]
    )


def facts(workload: Workload) -> list[str]:
    """Requests, arrivals, content and skipped lines, in words."""
    found = [f"{len(workload):,} requests"]
    if workload.users is not None:
        found.append(f"closed loop of {workload.users:,} users")
    elif workload.span_s > 0:
        found.append(f"{number(workload.rate_per_s)}/s over {number(workload.span_s)} s")
        found.append(f"CV {number(workload.arrival_cv)}")
    elif len(workload):
        found.append(f"all at {number(float(workload.arrival_s[0]))} s")
    if workload.block_ids is not None:
        unique = len(np.unique(workload.block_ids))
        found.append(f"{unique:,} distinct blocks of {workload.block_size} tokens")
    if workload.skipped_lines:
        found.append(f"{workload.skipped_lines:,} lines skipped")
    return found


def _numbers(tokens: NDArray[np.int64]) -> list[str]:
    return [number(float(tokens.mean()))] + [number(float(q)) for q in np.quantile(tokens, _QUANTILES)]


def _line(tokens: NDArray[np.int64]) -> str:
    mean, median, p95, p99 = _numbers(tokens)
    return f"median {median}, mean {mean}, p95 {p95}, p99 {p99}, total {number(float(tokens.sum()))}"


def html(workload: Workload) -> str:
    """The same as a table."""
    caption = f"Workload {workload.name}: {', '.join(facts(workload))}"
    if not len(workload):
        return html_table(caption, ["tokens"], [])
    rows = [
        [name, *_numbers(tokens), number(float(tokens.sum()))]
        for name, tokens in (("prompt", workload.prompt_tokens), ("output", workload.output_tokens))
    ]
    return html_table(caption, ["tokens", "mean", "median", "p95", "p99", "total"], rows)
