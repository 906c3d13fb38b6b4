"""A workload in words: in a caption, and as the Python that makes it again."""

from __future__ import annotations

from nano_batch.workloads import Workload


def requests_line(workload: Workload) -> str:
    """How many requests, of what, with which seed."""
    seed = workload.spec.get("seed")
    return f"{len(workload):,} requests of {workload.name}" + ("" if seed is None else f", seed {seed}")


def expression(workload: Workload) -> str:
    """Python that makes the workload again; for one of data of the reader's own, the name `workload`."""
    if workload.spec.get("source") != "synthetic":
        return "workload"
    return f"lab.Workload.from_spec({dict(workload.spec)!r})"
