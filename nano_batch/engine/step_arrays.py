"""The arrays that a planned step is written to, and their copy on the device.

All arrays of a set lie in one allocation, pinned where the device is a CUDA device: a step goes to the device
in one copy, up to the last row of its block table that it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nano_batch.core import Engine

_TYPES = {4: (np.int32, torch.int32), 8: (np.int64, torch.int64)}
_LAST = "block_table"


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


def places_of(engine: Engine) -> dict[str, Place]:
    """Where each array that `Engine.bind` takes lies: int64 first, the block table last.

    Raises `InvalidBufferError` where a sequence's blocks have no bound.
    """
    made = engine.array_buffers()
    order = sorted(made, key=lambda name: (name == _LAST, -made[name].itemsize))
    places, at = {}, 0
    for name in order:
        places[name] = Place(at, made[name].shape, made[name].itemsize)
        at = places[name].end
    return places


class HostArrays:
    """One set for `Engine.bind`, as NumPy arrays over one tensor of bytes."""

    def __init__(self, places: dict[str, Place], *, pinned: bool) -> None:
        """Allocate it; the block table begins empty, as the engine takes it to be."""
        self.memory = torch.zeros(_size(places), dtype=torch.uint8, pin_memory=pinned)
        self.places = places
        raw = self.memory.numpy()
        self.arrays: dict[str, npt.NDArray[Any]] = {
            name: raw[place.start : place.end].view(_TYPES[place.itemsize][0]).reshape(place.shape)
            for name, place in places.items()
        }
        self.arrays[_LAST].fill(-1)

    def pad(self, rows: int, padded: int) -> None:
        """Make the rows of a step of decodes, from `rows` to `padded`, such that they change nothing."""
        arrays = self.arrays
        arrays["lanes"][rows:padded] = -1
        arrays["sample_lanes"][rows:padded] = -1
        arrays["token_ids"][rows:padded] = 0
        arrays["positions"][rows:padded] = 0
        arrays["slot_mapping"][rows:padded] = -1
        arrays["context_lens"][rows:padded] = 0


class DeviceArrays:
    """The same arrays on the device, always at the same addresses; on a CPU they are the host's own."""

    def __init__(self, places: dict[str, Place], device: torch.device) -> None:
        """Allocate them."""
        self.places, self.device = places, device
        self.memory = torch.empty(
            max(place.end for place in places.values()), dtype=torch.uint8, device=device
        )
        self.tensors = self._views(self.memory)

    def take(self, host: HostArrays, rows: int) -> dict[str, torch.Tensor]:
        """Return the step's arrays as tensors, its first `rows` rows copied on the current stream."""
        if self.device.type == "cpu":
            return self._views(host.memory)
        table = self.places[_LAST]
        size = table.start + rows * table.shape[1] * table.itemsize
        self.memory[:size].copy_(host.memory[:size], non_blocking=True)
        return self.tensors

    def _views(self, memory: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: memory[place.start : place.end].view(_TYPES[place.itemsize][1]).view(place.shape)
            for name, place in self.places.items()
        }


def _size(places: dict[str, Place]) -> int:
    return max(place.end for place in places.values())
