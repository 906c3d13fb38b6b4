"""How the ranks of a tensor-parallel engine find each other, hear of each other, and end together.

Two channels: the device's own (NCCL; gloo on a CPU) for tensors, which is part of the model, and gloo on the
host for what rank 0 tells the others, so that nothing but tensors waits in a stream. All ranks are processes
of one host.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from nano_batch.engine.rank_processes import GRACE_S, START_S, RankProcesses, parent_lost
from nano_batch.errors import ParallelError
from nano_batch.models.parallel import Shard

HOST = "127.0.0.1"
TIMEOUT_S = 60.0
"""For another rank to do its part of a step."""
_IDLE = timedelta(days=365)  # an engine may wait so long for its next request; a death ends the wait at once
_END = timedelta(seconds=10)
_LENGTH_BYTES, _FIRST_BYTES = 8, 4096

Command = tuple[str, tuple[Any, ...]]
CLOSE: Command = ("close", ())


class Ranks:
    """One rank's ends of both channels; made on all ranks at once.

    Args:
        store: where they find each other.
        rank, size: which of how many.
        device: where this rank computes.
        processes: the other ranks as rank 0 has started them; None where somebody else has.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        device: torch.device,
        *,
        processes: RankProcesses | None = None,
    ) -> None:
        """Connect."""
        self.device, self.processes, self.closed = device, processes, False
        # What ranks do first, loading their weights, may take one of them much longer than another.
        timeout = timedelta(seconds=START_S)
        self._control: Any = _gloo(PrefixStore("control", store), rank, size, timeout)
        group: Any = self._control
        if device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = timeout
            group = dist.ProcessGroupNCCL(PrefixStore("tensors", store), rank, size, options)
        self.shard = Shard(rank, size, group)
        # The first time the channel takes its memory, which the KV cache is not to count on.
        self.shard.least(0, device)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which takes requests."""
        return self.shard.rank == 0

    def __repr__(self) -> str:
        return f"Ranks: {self.shard.rank} of {self.shard.size}, on {self.device}"

    def lost(self, grace_s: float = 0.0) -> str | None:
        """Which rank is known to be dead `grace_s` seconds from now, and of what; None: none is."""
        return parent_lost() if self.processes is None else self.processes.lost(grace_s)

    def tell(self, commands: list[Command]) -> None:
        """Send commands to all other ranks: one broadcast, a second one where they are long."""
        told = pickle.dumps(commands)
        framed = len(told).to_bytes(_LENGTH_BYTES, "little") + told
        first = torch.frombuffer(
            bytearray(framed[:_FIRST_BYTES].ljust(_FIRST_BYTES, b"\0")), dtype=torch.uint8
        )
        self._broadcast(first, timedelta(seconds=TIMEOUT_S))
        if len(framed) > _FIRST_BYTES:
            rest = torch.frombuffer(bytearray(framed[_FIRST_BYTES:]), dtype=torch.uint8)
            self._broadcast(rest, timedelta(seconds=TIMEOUT_S))

    def told(self) -> list[Command]:
        """Wait for rank 0's next commands."""
        first = torch.empty(_FIRST_BYTES, dtype=torch.uint8)
        self._broadcast(first, _IDLE)
        framed = first.numpy().tobytes()
        end = _LENGTH_BYTES + int.from_bytes(framed[:_LENGTH_BYTES], "little")
        if end > _FIRST_BYTES:
            rest = torch.empty(end - _FIRST_BYTES, dtype=torch.uint8)
            self._broadcast(rest, timedelta(seconds=TIMEOUT_S))
            framed += rest.numpy().tobytes()
        # What comes here was sent by rank 0 of the same engine, which is the same user's.
        commands: list[Command] = pickle.loads(framed[_LENGTH_BYTES:end])
        return commands

    def _broadcast(self, tensor: torch.Tensor, timeout: timedelta) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.timeout = 0, timeout
        self._control.broadcast([tensor], options).wait()

    def wait(self, ready: torch.cuda.Event) -> None:
        """Wait for a device that waits for others: where one of these is dead, it would wait for ever.

        Raises:
            ParallelError: a rank died, or took longer than `TIMEOUT_S`.
        """
        end = time.perf_counter() + TIMEOUT_S
        look = 0.0
        while not ready.query():  # type: ignore[no-untyped-call]
            now = time.perf_counter()
            if now > end:
                raise ParallelError(f"a step is not done after {TIMEOUT_S:g} s: another rank hangs")
            if now > look:
                look = now + 0.1
                if (reason := self.lost()) is not None:
                    raise ParallelError(reason)

    def close(self) -> None:
        """End together: rank 0 says so, all wait for each other, and processes started here are ended."""
        if self.closed:
            return
        self.closed = True
        # Whatever fails here: somebody is gone already.
        with contextlib.suppress(RuntimeError):
            if self.leads:
                self.tell([CLOSE])
            options = dist.BarrierOptions()
            options.timeout = _END
            self._control.barrier(options).wait()
        self._release(GRACE_S)

    def fail(self) -> None:
        """End without waiting for anybody; whoever waits for this rank is told at once."""
        self.closed = True
        self._release(0.0)

    def _release(self, grace_s: float) -> None:
        if self.processes is not None:
            self.processes.end(grace_s)
        if self.device.type == "cuda":
            # Ends what waits on the device for a rank that is gone, and needs none of them.
            self.shard.group.abort()
        # Sockets are closed with their last owner, and whoever waits at the other end is told.
        self._control, self.shard = None, self.shard.alone()


def _gloo(store: Store, rank: int, size: int, timeout: timedelta) -> Any:
    # Its declaration knows neither these options nor this way to make it.
    kind: Any = dist.ProcessGroupGloo
    options = kind._Options()
    options._devices = [kind.create_device(hostname=HOST)]
    options._timeout = timeout
    return kind(store, rank, size, options)
