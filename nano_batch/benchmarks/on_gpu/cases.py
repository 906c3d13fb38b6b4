"""The cases of `nano-batch bench attention`, and the rows that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nano_batch._choices import unknown_option
from nano_batch.benchmarks.report import Row

Kind = Literal["copy", "decode", "write", "plan", "prefill"]
HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 16
COPIED_BYTES = 2 * 2**30
COLD_BYTES = 2**28
"""What caches read by turns total at least: no device's second-level cache holds them."""
ITEM_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1}
SHAPES = ((1, 1024), (1, 32768), (8, 2048), (32, 1024), (64, 2048), (128, 1024), (256, 1024), (256, 4096))
BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        name: the row's `case`; several cases share one.
        contexts: of each row, the new tokens included; for "write": of each row the tokens written.
        queries: of each row, for "prefill".
        dtype: of the cache: "bf16", "fp16", "fp32", or "fp8" beside queries in bf16.
        cold: calls rotate over caches of at least `COLD_BYTES` in all.
    """

    name: str
    kind: Kind = "decode"
    contexts: tuple[int, ...] = ()
    queries: tuple[int, ...] = ()
    block_size: int = BLOCK_SIZE
    dtype: str = "bf16"
    cold: bool = False

    @property
    def batch(self) -> int:
        """Rows."""
        return len(self.contexts)

    @property
    def context(self) -> int:
        """The longest row."""
        return max(self.contexts, default=0)

    @property
    def cache_bytes(self) -> int:
        """Keys and values of all rows."""
        return sum(self.contexts) * KV_HEADS * HEAD_DIM * 2 * ITEM_BYTES[self.dtype]

    @property
    def moved_bytes(self) -> int | None:
        """What must be read, and for a copy or a write be written; None where that is no measure."""
        if self.kind == "copy":
            return 2 * COPIED_BYTES
        return {"decode": self.cache_bytes, "write": 2 * self.cache_bytes}.get(self.kind)

    @property
    def copies(self) -> int:
        """Caches that the calls take by turns."""
        return -(-COLD_BYTES // self.cache_bytes) if self.cold else 1


@dataclass(frozen=True)
class Times:
    """What was measured of a case: microseconds of one call, and how wrong its result was.

    Attributes:
        error: norm of the difference over norm of float64 attention; None where nothing is computed.
        apart: how far the slowest of the middle half of the replays is from the fastest, in per cent.
    """

    us: float
    flashinfer_us: float | None = None
    torch_us: float | None = None
    error: float | None = None
    apart: float | None = None


def all_cases() -> list[Case]:
    """Every case, the ones that matter most first."""
    even = [(context,) * batch for batch, context in SHAPES]
    bound = [(context,) * 256 for context in (1024, 4096)]
    middle = (1024,) * 128
    return [
        Case("copy", "copy"),
        *(Case("hot", contexts=each) for each in even),
        *(Case("cold", contexts=each, cold=True) for each in even),
        Case("write_kv", "write", contexts=(8192,), cold=True),
        Case("write_kv", "write", contexts=(1,) * 256, cold=True),
        *(Case("fp8", contexts=each, dtype="fp8") for each in bound),
        Case("fp16", contexts=middle, dtype="fp16"),
        Case("fp32", contexts=middle, dtype="fp32"),
        Case("skew", contexts=(65536, *(512,) * 255)),
        *(Case("block_size", contexts=middle, block_size=size) for size in BLOCK_SIZES),
        *(Case("plan", "plan", contexts=(1024,) * batch) for batch in (1, 256)),
        Case("prefill", "prefill", (2048,), (2048,)),
        Case("prefill", "prefill", (8192 + 512,), (512,)),
        Case("prefill", "prefill", (300,) * 8, (300,) * 8),
    ]


def selected(only: str) -> list[Case]:
    """The cases of the names in `only`, parted by commas; all where it is empty.

    Raises:
        UnknownOptionError: there is no such name.
    """
    cases = all_cases()
    names = tuple(dict.fromkeys(case.name for case in cases))
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    for name in wanted:
        if name not in names:
            raise unknown_option("case", name, names)
    return [case for case in cases if not wanted or case.name in wanted]


def row(case: Case, times: Times) -> Row:
    """The case with what was measured; rates in TB/s (10^12)."""
    nothing = case.kind == "copy"
    made: dict[str, Any] = {
        "case": case.name,
        "batch": None if nothing else case.batch,
        "context": None if nothing else case.context,
        "block_size": None if nothing else case.block_size,
        "dtype": None if nothing else case.dtype,
        "us": _rounded(times.us),
        "tb_per_s": None if case.moved_bytes is None else _rounded(case.moved_bytes / times.us / 1e6),
        "flashinfer_us": _rounded(times.flashinfer_us),
        "torch_us": _rounded(times.torch_us),
        "error": _rounded(times.error),
        "cache_bytes": None if nothing else case.cache_bytes,
        "replays_apart_percent": _rounded(times.apart),
    }
    if case.queries:
        made["queries"] = sum(case.queries)
        made["tflop_per_s"] = _rounded(4 * HEADS * HEAD_DIM * pairs(case) / times.us / 1e6)
    return made


def pairs(case: Case) -> int:
    """Pairs of a query and a key that it sees."""
    both = zip(case.contexts, case.queries, strict=True)
    return sum(new * (context - new) + new * (new + 1) // 2 for context, new in both)


def rows_of(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of a case."""
    return [each for each in rows if each["case"] == name]


def _rounded(value: float | None) -> float | None:
    """Four significant digits: more would be noise."""
    return None if value is None else float(f"{value:.4g}")
