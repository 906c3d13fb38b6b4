"""Drive an engine over a workload in virtual time, and keep the records.

The driver knows no schedule: it adds what has arrived, asks for a step, says how long the step took, gives
the tokens. Times are its own; the engine has no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from nano_batch.errors import EventLogOffError, InvalidArgumentError, StalledError
from nano_batch.records.events import EventLog
from nano_batch.records.run import Run
from nano_batch.records.tables import Requests, Steps
from nano_batch.workloads import Workload

_MAX_EMPTY_STEPS = 16
# slots_external, slots_wanted and slots_largest_hole: any free block serves.
_PAGED = (0, 0, 0)
_SETTINGS = ("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "policy")


class StepOutput(Protocol):
    """What the driver reads of an engine's step."""

    @property
    def step(self) -> int:
        """Its number."""

    @property
    def scheduled_requests(self) -> Sequence[str]:
        """Ids, decodes first."""

    @property
    def num_tokens_per_request(self) -> Sequence[int]:
        """Tokens computed for each."""

    @property
    def num_computed_tokens(self) -> Sequence[int]:
        """The position of each one's first token of this step."""

    @property
    def num_decodes(self) -> int:
        """How many of them decode."""

    @property
    def sampled_requests(self) -> Sequence[str]:
        """Ids that await a token."""

    @property
    def preempted(self) -> Sequence[str]:
        """Ids that lost their blocks."""

    @property
    def finished(self) -> Sequence[tuple[str, str]]:
        """(id, reason) of what ended."""


class DrivenEngine(Protocol):
    """What the driver needs of an engine; `nano_batch.Engine` has it."""

    num_blocks: int

    @property
    def has_unfinished(self) -> bool:
        """Whether any request is not at its end."""

    @property
    def num_running(self) -> int:
        """Sequences that run."""

    @property
    def num_waiting(self) -> int:
        """Sequences that wait."""

    @property
    def num_free_blocks(self) -> int:
        """Blocks without content."""

    @property
    def num_cached_blocks(self) -> int:
        """Blocks only the prefix cache keeps."""

    @property
    def slot_counts(self) -> tuple[int, int, int]:
        """Token slots of the blocks in use: used, reserved, internal."""

    def add_request(self, request_id: str, **request: Any) -> None:
        """Queue a request."""

    def step(self) -> Any:
        """Plan a step."""

    def update(self, tokens: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Give the tokens; (id, reason) of what ended."""

    def events(self) -> EventLog:
        """The event log, or `EventLogOffError`."""


StepTime = float | Callable[[Any], float]
Tokens = Callable[[str, int], int]


def drive(
    engine: DrivenEngine,
    workload: Workload,
    *,
    step_time_s: StepTime = 0.02,
    tokens: Tokens | None = None,
    max_steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """Serve the workload to its end, or for `max_steps` steps.

    A request is added before the first step that starts at or after its arrival; a closed loop's next row
    arrives when a request ends. A step's tokens are there when it ends. While nothing is unfinished, time
    jumps to the next arrival.

    Args:
        engine: a fresh engine; its event log, if it keeps one, goes into the run.
        workload: the requests; row i is called `r<i>`, and its output length is met exactly.
        step_time_s: seconds a step takes, or a function of the step's output that gives them.
        tokens: the token of a request's j-th output, from its id and j; by default unlike any other.
        max_steps: stop after so many steps and leave the rest unfinished.
        settings: JSON values that are kept in the run beside the driver's own.

    Raises:
        StalledError: the engine has unfinished requests, schedules none, and nothing more is to arrive.
        InvalidArgumentError: a step time that is not a finite number of at least 0.
    """
    driver = _Driver(engine, workload, step_time_s, tokens or unique_token)
    driver.serve(float("inf") if max_steps is None else max_steps)
    return driver.run(settings or {}, step_time_s)


def unique_token(request_id: str, index: int) -> int:
    """A token id that depends on both, the same in every run and on every system."""
    mixed = int.from_bytes(request_id.encode(), "little") * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9
    return (mixed ^ (mixed >> 29) ^ (mixed >> 47)) & 0x3FFFFFFF


class _Driver:
    def __init__(
        self, engine: DrivenEngine, workload: Workload, step_time_s: StepTime, tokens: Tokens
    ) -> None:
        self.engine, self.workload, self.tokens = engine, workload, tokens
        self.step_time = step_time_s if callable(step_time_s) else (lambda _: float(step_time_s))
        self.now = 0.0
        self.empty_steps = 0
        users = workload.users
        known = len(workload) if users is None else users
        self.to_arrive = deque(enumerate(workload.arrival_s[:known].tolist()))
        self.for_users = deque(range(known, len(workload)))
        self.rows: dict[str, int] = {}
        self.step_rows: list[tuple[float, ...]] = []
        count = len(workload)
        self.times = {name: np.full(count, np.nan) for name in ("arrival", "scheduled", "token", "finish")}
        self.counts = {name: np.zeros(count, np.int64) for name in ("cached", "output", "preempted")}
        self.reasons = [""] * count

    def serve(self, max_steps: float) -> None:
        while len(self.step_rows) < max_steps:
            self.add_arrived()
            if not self.engine.has_unfinished:
                if not self.to_arrive:
                    return
                self.now = self.to_arrive[0][1]
                continue
            output = self.engine.step()
            if self.is_stalled(output):
                self.now = self.to_arrive[0][1]
            else:
                self.take(output)

    def add_arrived(self) -> None:
        while self.to_arrive and self.to_arrive[0][1] <= self.now:
            row, arrival_s = self.to_arrive.popleft()
            request = self.workload.request(row, arrival_s)
            self.engine.add_request(**request)
            self.rows[request["request_id"]] = row
            self.times["arrival"][row] = arrival_s

    def is_stalled(self, output: StepOutput) -> bool:
        """Whether nothing was scheduled and time must jump; an error where there is nowhere to jump to."""
        if output.scheduled_requests:
            self.empty_steps = 0
            return False
        self.empty_steps += 1
        if self.to_arrive:
            return True
        # A step may only move blocks; the step after it then schedules something.
        if self.empty_steps > _MAX_EMPTY_STEPS:
            raise StalledError(
                f"{self.engine.num_waiting} requests wait and {self.engine.num_running} run, "
                f"but {self.empty_steps} steps in a row scheduled none (limit {_MAX_EMPTY_STEPS})"
            )
        return False

    def take(self, output: StepOutput) -> None:
        """One step: stamp it, give it its tokens, see who ended."""
        duration = self.step_time(output)
        if not (np.isfinite(duration) and duration >= 0):
            raise InvalidArgumentError(f"step_time_s is {duration}; it must be a finite number of at least 0")
        self.note_step(output, duration)
        self.note_scheduled(output)
        for request_id, reason in output.finished:
            self.end(request_id, reason)
        self.now += duration
        sampled = [(request_id, self.rows[request_id]) for request_id in output.sampled_requests]
        given = {name: self.tokens(name, int(self.counts["output"][row])) for name, row in sampled}
        ended = self.engine.update(given)
        for _, row in sampled:
            self.counts["output"][row] += 1
            if np.isnan(self.times["token"][row]):
                self.times["token"][row] = self.now
        for request_id, reason in ended:
            self.end(request_id, reason)

    def note_step(self, output: StepOutput, duration: float) -> None:
        decode = sum(output.num_tokens_per_request[: output.num_decodes])
        prefill = sum(output.num_tokens_per_request) - decode
        engine = self.engine
        cached, free = engine.num_cached_blocks, engine.num_free_blocks
        used = engine.num_blocks - cached - free
        self.step_rows.append(
            (
                output.step,
                self.now,
                duration,
                prefill,
                decode,
                engine.num_running,
                engine.num_waiting,
                used,
                cached,
                free,
                *engine.slot_counts,
                *_PAGED,
                len(output.preempted),
            )
        )

    def note_scheduled(self, output: StepOutput) -> None:
        for request_id, position in zip(output.scheduled_requests, output.num_computed_tokens, strict=True):
            row = self.rows[request_id]
            if np.isnan(self.times["scheduled"][row]):
                self.times["scheduled"][row] = self.now
                # What it starts behind was cached; a static batch admits it steps before it runs.
                self.counts["cached"][row] = position
        for request_id in output.preempted:
            self.counts["preempted"][self.rows[request_id]] += 1

    def end(self, request_id: str, reason: str) -> None:
        row = self.rows[request_id]
        if self.reasons[row]:
            return
        self.reasons[row] = reason
        self.times["finish"][row] = self.now
        if self.for_users:
            self.to_arrive.append((self.for_users.popleft(), self.now))

    def run(self, settings: Mapping[str, Any], step_time_s: StepTime) -> Run:
        log = self.event_log()
        names = {name: getattr(self.engine, name) for name in _SETTINGS if hasattr(self.engine, name)}
        time = getattr(step_time_s, "__name__", "a function") if callable(step_time_s) else float(step_time_s)
        own = {"engine": names, "workload": dict(self.workload.spec), "step_time_s": time}
        columns: Any = zip(*self.step_rows, strict=True) if self.step_rows else [[]] * len(Steps.DTYPES)
        steps = Steps(*columns)
        return Run(self.requests(log), steps, log, {**own, **settings})

    def event_log(self) -> EventLog | None:
        try:
            return self.engine.events()
        except EventLogOffError:
            return None

    def requests(self, log: EventLog | None) -> Requests:
        """The requests that were added, in that order; numbered as in the events where there are any."""
        ids, rows = list(self.rows), np.array(list(self.rows.values()), np.int64)
        numbers = {name: number for number, name in log.request_ids.items()} if log else {}
        return Requests(
            sequence=np.array([numbers.get(name, place) for place, name in enumerate(ids)], np.uint32),
            request_id=np.array(ids, np.str_),
            arrival_s=self.times["arrival"][rows],
            first_scheduled_s=self.times["scheduled"][rows],
            first_token_s=self.times["token"][rows],
            finish_s=self.times["finish"][rows],
            prompt_tokens=self.workload.prompt_tokens[rows],
            cached_tokens=self.counts["cached"][rows],
            output_tokens=self.counts["output"][rows],
            max_tokens=self.workload.output_tokens[rows],
            preemptions=self.counts["preempted"][rows],
            finish_reason=np.array([self.reasons[row] for row in rows], np.str_),
        )
