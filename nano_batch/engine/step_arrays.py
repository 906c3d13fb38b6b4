"""The arrays that a planned step is written to, their copy on the device, and the tokens that come back.

All arrays that go there lie in one allocation, pinned where the device is a CUDA device: a step goes there in
one launch. First come the arrays that only a step with prompts in a CUDA graph needs (`mixed_rows.py`), then
those that the engine fills: those of tokens, of which as many are copied as the step has, those of rows, and
the block table, up to the last row that it uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nano_batch.core import Engine
from nano_batch.cuda.vectors import ACCESS_BYTES, up_to
from nano_batch.engine.pinned import copy_pinned

Arrays = dict[str, npt.NDArray[Any]]
Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, tuple[tuple[int, ...], int]]
"""By name: shape, and bytes of an element."""
_TYPES = {4: (np.int32, torch.int32), 8: (np.int64, torch.int64)}
_OF_TOKENS, _LAST = ("slot_mapping", "token_ids", "positions"), "block_table"
"""Of the engine's arrays those with a place for each token that a step may have, which lie first, and the one
that lies last."""


@dataclass(frozen=True)
class Place:
    """Where an array lies in its set's memory."""

    start: int  # bytes
    shape: tuple[int, ...]
    itemsize: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + prod(self.shape) * self.itemsize


class Layout:
    """Where each array of a set lies.

    Args:
        engine: of whose arrays.
        extra: further arrays, which the engine does not know.

    Attributes:
        places: of all arrays, by name.
        start: where the engine's begin, in bytes.
        size: of all, in bytes.

    Raises:
        InvalidBufferError: the engine's sequences have no bound on their blocks.
    """

    def __init__(self, engine: Engine, extra: Shapes) -> None:
        """Set the places: extra ones first, then those of tokens, the block table last."""
        own = {name: (array.shape, array.itemsize) for name, array in engine.array_buffers().items()}
        self.of_engine = list(own)
        self.places: dict[str, Place] = {}
        self.start = self._place(extra, 0)
        self.size = self._place(own, self.start)

    def _place(self, shapes: Shapes, at: int) -> int:
        def order(name: str) -> tuple[bool, bool]:
            return name == _LAST, name not in _OF_TOKENS

        for name in sorted(shapes, key=order):
            self.places[name] = Place(at, *shapes[name])
            at = _whole(self.places[name].end)
        return at

    def parts(self, rows: int, tokens: int, *, extra: bool) -> list[slice]:
        """The bytes of a step of so many rows and tokens; `extra`: with what the engine does not know."""
        places = [self.places[name] for name in _OF_TOKENS]
        of_tokens = [slice(one.start, one.start + _whole(tokens * one.itemsize)) for one in places]
        table, rest = self.places[_LAST], _whole(max(one.end for one in places))
        of_rows = slice(rest, table.start + _whole(rows * table.shape[1] * table.itemsize))
        return [slice(0, self.start)] * extra + [*of_tokens, of_rows]

    def views(self, memory: torch.Tensor) -> Tensors:
        """The arrays in a set's memory."""
        return {
            name: memory[place.start : place.end].view(_TYPES[place.itemsize][1]).view(place.shape)
            for name, place in self.places.items()
        }


def _whole(size: int) -> int:
    """In whole accesses of the widest kind: each array begins with one."""
    return up_to(size, ACCESS_BYTES)


class HostArrays:
    """One set on the host: the engine fills its own part, `of_engine`; `tokens`, int64 [lanes], come back."""

    def __init__(self, layout: Layout, *, pinned: bool) -> None:
        """Allocate it; the block table begins empty, as the engine takes it to be."""
        self.memory = torch.zeros(layout.size, dtype=torch.uint8, pin_memory=pinned)
        self.tensors = layout.views(self.memory)
        self.arrays: Arrays = {name: view.numpy() for name, view in self.tensors.items()}
        self.arrays[_LAST].fill(-1)
        self.of_engine = {name: self.arrays[name] for name in layout.of_engine}
        self.tokens = torch.empty(len(self.arrays["sample_lanes"]), dtype=torch.int64, pin_memory=pinned)

    def pad_tokens(self, tokens: int, padded: int) -> None:
        """Make the tokens from `tokens` to `padded` such that they write nothing."""
        self.arrays["token_ids"][tokens:padded] = 0
        self.arrays["positions"][tokens:padded] = 0
        self.arrays["slot_mapping"][tokens:padded] = -1

    def pad_decodes(self, rows: int, padded: int) -> None:
        """Make the rows of a step of decodes from `rows` to `padded` such that they change nothing."""
        self.pad_tokens(rows, padded)
        self.arrays["lanes"][rows:padded] = -1
        self.arrays["context_lens"][rows:padded] = 0


class DeviceArrays:
    """The same arrays on the device, always at the same addresses; on a CPU they are the host's own."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        """Allocate them."""
        self.layout, self.device = layout, device
        self.memory = torch.zeros(layout.size, dtype=torch.uint8, device=device)
        self.tensors = layout.views(self.memory)

    def take(self, host: HostArrays, rows: int, tokens: int, *, extra: bool = False) -> Tensors:
        """Return a step's arrays as tensors, of so many rows and tokens, copied on the current stream.

        `extra`: with those arrays that the engine does not know.
        """
        if self.device.type == "cpu":
            return host.tensors
        copy_pinned(self.memory, host.memory, self.layout.parts(rows, tokens, extra=extra))
        return self.tensors
