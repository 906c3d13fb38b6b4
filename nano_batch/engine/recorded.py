"""An inference engine that keeps the records of docs/records.md, with the times that its steps took."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nano_batch.core import StepCounts
from nano_batch.engine.inference_engine import InferenceEngine, Prompt
from nano_batch.engine.outputs import RequestOutput
from nano_batch.engine.sampling_params import SamplingParams
from nano_batch.records import EventLog, Kind, Requests, Run, Steps

# slots_external, slots_wanted and slots_largest_hole: any free block serves.
_PAGED = (0, 0, 0)
_TIMES = ("arrival_s", "first_scheduled_s", "first_token_s", "finish_s")
_SETTINGS = ("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "policy")


@dataclass(frozen=True)
class _Sequence:
    """A row of the table of requests: one sequence of a request."""

    output: RequestOutput
    index: int
    max_tokens: int


class RecordedEngine(InferenceEngine):
    """An `InferenceEngine` whose event log is on, and whose steps are counted and timed: see `run`.

    A step begins when it is planned, and ends when `step` returns. With `steps_in_flight=1` on a GPU that is
    the host's part of it, and the taking in of the step before.

    Arguments and errors: as `InferenceEngine`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Make the engine with `event_log=True`, unless the options say how many events it keeps."""
        super().__init__(*args, **{"event_log": True, **options})
        self._added: list[tuple[RequestOutput, int]] = []
        self._counted: list[tuple[int, ...]] = []
        self._times: list[tuple[float, float]] = []  # start and duration of each step counted

    def add_request(
        self, request_id: str, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> RequestOutput:
        """Queue a request, and note it. As `InferenceEngine.add_request`."""
        output = super().add_request(request_id, prompt, params, **options)
        self._added.append((output, (params or SamplingParams()).max_tokens))
        return output

    def step(self) -> list[RequestOutput]:
        """Plan and compute a step, and stamp it. As `InferenceEngine.step`."""
        counted, start = len(self._counted), time.perf_counter()
        try:
            return super().step()
        finally:
            if len(self._counted) > counted:
                self._times.append((start, time.perf_counter() - start))

    def _planned(self, counts: StepCounts) -> None:
        engine = self.engine
        cached, free = engine.num_cached_blocks, engine.num_free_blocks
        blocks = (engine.num_blocks - cached - free, cached, free)
        tokens = (counts.tokens - counts.decodes, counts.decodes)
        queues = (engine.num_running, engine.num_waiting)
        row = (counts.step, *tokens, *queues, *blocks, *engine.slot_counts, *_PAGED, counts.preempted)
        self._counted.append(row)

    def run(self, settings: Mapping[str, Any] | None = None) -> Run:
        """Everything so far as a `Run`, in seconds since the first arrival; it goes on being served.

        Args:
            settings: JSON values that are kept in the run beside the engine's own.
        """
        log = self.engine.events()
        origin = self._added[0][0].metrics.arrival_s if self._added else self._started
        own = {name: getattr(self.engine, name) for name in _SETTINGS}
        kept = {"engine": own, "model": repr(self.model), **(settings or {})}
        return Run(self._requests_table(log, origin), self._steps_table(origin), log, kept)

    def sequences(self) -> dict[str, tuple[int, RequestOutput, int]]:
        """By the scheduler's name: number in the events, output, index in it; the last of a name."""
        names = dict(sorted(self.engine.events().request_ids.items()))
        rows = self._sequences_named(list(names.values()))
        return {
            name: (number, row.output, row.index)
            for (number, name), row in zip(names.items(), rows, strict=True)
        }

    def _steps_table(self, origin: float) -> Steps:
        rows = [
            (step, start - origin, duration, *counts)
            for (step, *counts), (start, duration) in zip(self._counted, self._times, strict=True)
        ]
        columns: Any = zip(*rows, strict=True) if rows else [[]] * len(Steps.DTYPES)
        return Steps(*columns)

    def _requests_table(self, log: EventLog, origin: float) -> Requests:
        """A row a sequence, in the order of their numbers in the events."""
        numbers = sorted(log.request_ids)
        rows = self._sequences_named([log.request_ids[number] for number in numbers])
        metrics = [row.output.metrics for row in rows]
        ended = [row.output.sequences[row.index] for row in rows]
        preempted = log.sequence[log.kind == Kind.PREEMPTED]
        return Requests(
            sequence=np.array(numbers, np.uint32),
            request_id=np.array([log.request_ids[number] for number in numbers], np.str_),
            **{name: np.array([getattr(each, name) for each in metrics]) - origin for name in _TIMES},
            prompt_tokens=np.array([each.prompt_tokens for each in metrics], np.int64),
            cached_tokens=np.array([each.cached_tokens for each in metrics], np.int64),
            output_tokens=np.array([len(each.token_ids) for each in ended], np.int64),
            max_tokens=np.array([row.max_tokens for row in rows], np.int64),
            preemptions=np.array([(preempted == number).sum() for number in numbers], np.int64),
            finish_reason=np.array([each.finish_reason or "" for each in ended], np.str_),
        )

    def _sequences_named(self, names: list[str]) -> list[_Sequence]:
        """The sequence that each name of the scheduler's stands for; an id may come again after its end."""
        known: dict[str, deque[_Sequence]] = defaultdict(deque)
        for output, max_tokens in self._added:
            many = len(output.sequences) > 1
            # Before the prompt's end the request's own id stands for all of its sequences.
            known[output.request_id].append(_Sequence(output, 0, max_tokens))
            for one in output.sequences if many else ():
                name = f"{output.request_id}/{one.index}"
                known[name].append(_Sequence(output, one.index, max_tokens))
        return [known[name].popleft() for name in names]
