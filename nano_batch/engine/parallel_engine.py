"""An engine whose model is split among devices, one process each (tensor parallelism).

Every rank runs the same scheduler over the same requests, which is deterministic: given the same commands in
the same order and the same sampled tokens, all plan the same steps. The commands are rank 0's; so are the
tokens, which it broadcasts on the devices, for no two devices need agree on the last bit of a logit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore, rendezvous  # type: ignore[attr-defined]

from nano_batch.engine.inference_engine import InferenceEngine
from nano_batch.engine.outputs import RequestOutput
from nano_batch.engine.rank_processes import START_S, RankProcesses
from nano_batch.engine.ranks import HOST, Command, Ranks
from nano_batch.engine.runner import Launched, StepRunner
from nano_batch.engine.sampling_params import SamplingParams
from nano_batch.engine.text import Tokenizer
from nano_batch.errors import DeviceError, InvalidArgumentError, NanoBatchError, ParallelError, StalledError
from nano_batch.models import PagedMistral
from nano_batch.models.checkpoint import config_for
from nano_batch.models.parallel import Shard

_STEP: Command = ("step", ())
_LOOK_S = 2.0  # what fails here may have failed because another rank is dying


class ParallelEngine(InferenceEngine):
    """One rank of an engine; `InferenceEngine.from_pretrained(tensor_parallel_size=...)` makes it.

    Rank 0 is used like any engine. Started by `torchrun`, the others call `follow()`. What fails on one rank,
    but for a `StalledError`, ends all: `ParallelError`.

    Args:
        model: this rank's part.
        tokenizer: the same on all ranks: each finds stop strings for itself.
        ranks: the channels to the others.
        **options: of `InferenceEngine`, the same on all ranks.
    """

    def __init__(
        self, model: PagedMistral, tokenizer: Tokenizer | None = None, *, ranks: Ranks, **options: Any
    ) -> None:
        """Make this rank's engine."""
        self.ranks = ranks
        self._untold: list[Command] = []
        super().__init__(model, tokenizer, **options)
        # Also at the end of the program, for an engine that nobody has closed.
        self._end_ranks = weakref.finalize(self, _end, self.runner, model, ranks)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which takes requests."""
        return self.ranks.leads

    def _queue(
        self, request_id: str, tokens: list[int], params: SamplingParams, options: dict[str, Any]
    ) -> RequestOutput:
        self._check_leads()
        output = super()._queue(request_id, tokens, params, options)
        self._untold.append(("add", (request_id, tokens, params, options)))
        return output

    def abort(self, request_id: str) -> RequestOutput:
        """End a request at once; the other ranks hear of it before the next step. Raises as the base."""
        output = super().abort(request_id)
        self._untold.append(("abort", (request_id,)))
        return output

    def step(self) -> list[RequestOutput]:
        """Tell the other ranks what came since the last step, and do it with them.

        Raises:
            StalledError: as on one device; the engine goes on.
            ParallelError: this rank or another one failed, or the engine is closed.
        """
        self._check_leads()
        with _uninterrupted(), self._all_or_none():
            self.ranks.tell([*self._untold, _STEP])
            self._untold.clear()
            return super().step()

    def follow(self) -> None:
        """On a rank above 0: do what rank 0 tells, until it closes the engine.

        Raises:
            ParallelError: this rank or another one failed.
        """
        if self.leads:
            raise ParallelError("rank 0 leads; follow() is for the ranks above it")
        with self._all_or_none():
            while not self.ranks.closed:
                for name, arguments in self.ranks.told():
                    self._obey(name, arguments)

    def _obey(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "close":
            self.close()
        elif name == "add":
            super()._queue(*arguments)
        elif name == "abort":
            super().abort(*arguments)
        else:
            with contextlib.suppress(StalledError):  # rank 0 raises it, too, and may go on
                super().step()

    def _await(self, launched: Launched) -> None:
        if launched.ready is not None:
            self.ranks.wait(launched.ready)

    def _abandon(self, step: int, lanes: list[int], samples: int, reason: str) -> None:
        """A step that this rank could not run: others wait for its part, so all end."""

    def _check_leads(self) -> None:
        if not self.leads:
            raise ParallelError(f"rank {self.ranks.shard.rank} takes no requests: it calls follow()")
        if self.ranks.closed:
            raise ParallelError("the engine is closed")

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """Whatever fails in here ends all ranks: one of them may have missed what another one did."""
        try:
            yield
        except StalledError:
            raise
        except Exception as error:
            reason = self.ranks.lost(_LOOK_S) or f"rank {self.ranks.shard.rank}: {error}"
            _let_go(self.runner, self.model)
            self.ranks.fail()
            raise ParallelError(f"the engine has ended: {reason}") from error
        except BaseException:
            _let_go(self.runner, self.model)
            self.ranks.fail()
            raise

    def close(self) -> None:
        """End all ranks; requests that have not ended stay as they are."""
        _end(self.runner, self.model, self.ranks)


def _end(runner: StepRunner, model: PagedMistral, ranks: Ranks) -> None:
    """End all ranks, once."""
    if not ranks.closed:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        _let_go(runner, model)
        ranks.close()


def _let_go(runner: StepRunner, model: PagedMistral) -> None:
    """Drop what holds the channel of the tensors: graphs, whose end it would wait for, and this part."""
    runner.decode_graphs = runner.mixed_graphs = None
    model.shard = model.shard.alone()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an interrupt from the keyboard wait: a step is done by all ranks or by none."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            before(*waiting[0])


def parallel_engine(
    folder_or_name: str | Path, size: int, device: torch.device | str, **arguments: Any
) -> ParallelEngine:
    """Make a rank of an engine: under `torchrun` that of this process, else rank 0, which starts the others.

    Args:
        folder_or_name, **arguments: of `InferenceEngine.from_pretrained`.
        size: how many ranks.
        device: "cuda", of which rank r takes the device r, or "cpu".

    Raises:
        InvalidArgumentError: the model cannot be split so, or torchrun has started another number.
        DeviceError: there are not so many devices.
        ParallelError: a rank could not start.
        Those of `load_mistral` and of the engine.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidArgumentError(f"tensor_parallel_size={size!r} is not a whole number from 1 up")
    kind = _kind(device, size)
    Shard(0, size).config(config_for(folder_or_name, arguments.get("load_format", "auto")))
    if dist.is_torchelastic_launched():
        return _launched(folder_or_name, size, kind, arguments)
    store = TCPStore(HOST, 0, size, is_master=True, wait_for_workers=False, timeout=_START)
    processes = RankProcesses(size, _spawned, (size, store.port, folder_or_name, kind, arguments))
    try:
        processes.await_start()
        ranks = Ranks(store, 0, size, _device(kind, 0), processes=processes)
        return ParallelEngine.loaded(folder_or_name, ranks.device, ranks.shard, ranks=ranks, **arguments)
    except BaseException as error:
        # What this package refuses, all ranks refuse alike; anything else may come of a rank that died.
        own = isinstance(error, NanoBatchError) or not isinstance(error, Exception)
        reason = None if own else processes.lost(_LOOK_S)
        processes.end(0.0)
        if reason is None:
            raise
        raise ParallelError(f"the engine could not start: {reason}") from error


def _launched(folder_or_name: str | Path, size: int, kind: str, arguments: dict[str, Any]) -> ParallelEngine:
    """The rank that torchrun has made of this process."""
    world = int(os.environ["WORLD_SIZE"])
    if world != size:
        raise InvalidArgumentError(f"tensor_parallel_size={size}, but torchrun has started {world} processes")
    store, rank, _ = next(rendezvous("env://", timeout=_START))
    ranks = Ranks(store, rank, size, _device(kind, int(os.environ["LOCAL_RANK"])))
    return ParallelEngine.loaded(folder_or_name, ranks.device, ranks.shard, ranks=ranks, **arguments)


def _spawned(
    rank: int, size: int, port: int, folder_or_name: str | Path, kind: str, arguments: dict[str, Any]
) -> None:
    """What a process started by rank 0 does."""
    store = TCPStore(HOST, port, size, is_master=False, timeout=_START)
    ranks = Ranks(store, rank, size, _device(kind, rank))
    ParallelEngine.loaded(folder_or_name, ranks.device, ranks.shard, ranks=ranks, **arguments).follow()


def _kind(device: torch.device | str, size: int) -> str:
    asked = torch.device(device)
    if asked.index is not None:
        raise DeviceError(f"device={device!s} is one device; tensor_parallel_size={size} takes several")
    if asked.type == "cuda" and torch.cuda.device_count() < size:
        raise DeviceError(f"tensor_parallel_size={size}; there are {torch.cuda.device_count()} CUDA devices")
    return asked.type


def _device(kind: str, index: int) -> torch.device:
    if kind != "cuda":
        return torch.device(kind)
    torch.cuda.set_device(index)
    return torch.device(kind, index)


_START = timedelta(seconds=START_S)
