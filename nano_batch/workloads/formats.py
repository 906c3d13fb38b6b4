"""The public formats of traces: how each is recognised, and what a line of it says.

Azure: https://github.com/Azure/AzurePublicDataset. Mooncake: https://github.com/kvcache-ai/Mooncake.
BurstGPT: https://github.com/HPMLL/BurstGPT.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

from nano_batch.workloads.lengths import MAX_TOKENS


class Row(NamedTuple):
    """A request: its time in the format's ticks, tokens, and block ids if the format has them."""

    ticks: float
    prompt: int
    output: int
    ids: Sequence[int] | None = None


Parser = Callable[[str], Row | None]
"""A line to its request; None for a request that the format marks as failed; ValueError for a malformed
one.
"""


class Format(NamedTuple):
    """How the lines after `header_lines` are parsed. `from_zero`: times are counted from the first
    arrival.
    """

    name: str
    parse: Parser
    ticks_per_s: int
    header_lines: int = 1
    block_size: int | None = None
    from_zero: bool = True


def recognise(first_line: str) -> Format | None:
    """The format that begins with this line."""
    if first_line.startswith("{"):
        return Format("mooncake", parse_mooncake, 1000, header_lines=0, block_size=512)
    header = [cell.strip() for cell in first_line.split(",")]
    for columns, make in (
        (("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _azure),
        (("Timestamp", "Request tokens", "Response tokens"), _burst_gpt),
        (("arrival_s", "prompt_tokens", "output_tokens"), _own),
    ):
        if set(columns) <= set(header):
            return make(header, [header.index(column) for column in columns])
    return None


def _cells(line: str, header: Sequence[str]) -> list[str]:
    cells = line.split(",") if '"' not in line else next(csv.reader([line]))
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} fields instead of {len(header)}")
    return cells


def _tokens(what: str, value: Any, low: int = 1) -> int:
    """`value` as a number of tokens; text must be a whole number, JSON an int."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{what} is {value!r}, not a whole number")
    if not low <= value <= MAX_TOKENS:
        raise ValueError(f"{what} is {value}; it must be from {low} to {MAX_TOKENS}")
    return value


def _azure(header: Sequence[str], at: Sequence[int]) -> Format:
    def parse(line: str) -> Row:
        cells = _cells(line, header)
        return Row(
            _nanoseconds(cells[at[0]]),
            _tokens("ContextTokens", cells[at[1]]),
            _tokens("GeneratedTokens", cells[at[2]]),
        )

    return Format("azure", parse, 10**9)


_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T]([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))?",
    re.ASCII,
)


_EPOCH = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=64)
def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal() - _EPOCH


def _nanoseconds(text: str) -> int:
    """UTC nanoseconds of an ISO time: whole numbers, since a float of this size has no 100 ns left."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"TIMESTAMP is {text!r}, not a time such as 2023-11-16 18:15:46.6805900")
    day, hour, minute, second, fraction, sign, ahead_h, ahead_min = match.groups()
    seconds = _day(day) * 86_400 + int(hour) * 3600 + int(minute) * 60 + int(second)
    if sign:
        ahead = int(ahead_h) * 3600 + int(ahead_min) * 60
        seconds -= ahead if sign == "+" else -ahead
    return seconds * 10**9 + (int(fraction.ljust(9, "0")) if fraction else 0)


def _number(what: str, value: Any) -> float:
    """A finite time in the format's ticks, not negative."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{what} is {value!r}, not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{what} is {value!r}, not a number") from None
    if not 0 <= number < float("inf"):
        raise ValueError(f"{what} is {value!r}; it must be finite and not negative")
    return number


def _burst_gpt(header: Sequence[str], at: Sequence[int]) -> Format:
    def parse(line: str) -> Row | None:
        cells = _cells(line, header)
        time = _number("Timestamp", cells[at[0]])
        prompt = _tokens("Request tokens", cells[at[1]], low=0)
        output = _tokens("Response tokens", cells[at[2]], low=0)
        return Row(time, prompt, output) if prompt and output else None

    return Format("burstgpt", parse, 1)


def parse_mooncake(line: str) -> Row:
    """One JSON object: timestamp in ms, input_length, output_length, hash_ids of 512-token blocks."""
    try:
        item = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(item, dict):
        raise ValueError("not a JSON object")
    missing = [key for key in ("timestamp", "input_length", "output_length", "hash_ids") if key not in item]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    prompt = _tokens("input_length", item["input_length"])
    ids = _block_ids("hash_ids", item["hash_ids"], prompt, 512)
    return Row(
        _number("timestamp", item["timestamp"]), prompt, _tokens("output_length", item["output_length"]), ids
    )


def _block_ids(what: str, ids: Any, prompt: int, size: int) -> Sequence[int]:
    if not isinstance(ids, list) or not all(type(block) is int and 0 <= block < 2**63 for block in ids):
        raise ValueError(f"{what} is not a list of block numbers")
    if len(ids) != -(-prompt // size):
        raise ValueError(
            f"{what} has {len(ids)} ids; {prompt} tokens fill {-(-prompt // size)} blocks of {size}"
        )
    return ids


def _own(header: Sequence[str], at: Sequence[int]) -> Format | None:
    """The format `Workload.to_csv` writes; an empty arrival waits for a user of the closed loop."""
    content = re.fullmatch(r"block_ids_of_([1-9]\d{0,9})", header[-1])
    size = int(content[1]) if content else None

    def parse(line: str) -> Row:
        cells = _cells(line, header)
        time = _number("arrival_s", cells[at[0]]) if cells[at[0]] else float("nan")
        prompt, output = _tokens("prompt_tokens", cells[at[1]]), _tokens("output_tokens", cells[at[2]])
        if size is None:
            return Row(time, prompt, output)
        return Row(
            time, prompt, output, _block_ids(header[-1], [int(i) for i in cells[-1].split()], prompt, size)
        )

    return Format("nano_batch", parse, 1, block_size=size, from_zero=False)
