"""A view of a run that can be steered: its controls, and reruns of the same requests under other settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import traitlets

from nano_batch.errors import ViewError
from nano_batch.records import EventLog
from nano_batch.viz.base import View
from nano_batch.viz.usage import Usage, usage
from nano_batch.viz.wire import pack


@dataclass(frozen=True)
class Control:
    """One setting of a rerun: the trait's name, how it is labelled, its values and what it trades."""

    name: str
    label: str
    unit: str
    values: tuple[int, ...]
    default: int
    note: str


def event_log(run: Any) -> EventLog:
    """The event log of a `Run`, of an engine, or the log itself.

    Raises:
        ViewError: if `run` has none, or an empty one.
        EventLogOffError: if it is an engine whose log is off.
    """
    log = getattr(run, "events", run)
    log = log() if callable(log) else log
    if not hasattr(log, "keyframes"):
        raise ViewError(f"a {type(run).__name__} without an event log: make the engine with event_log=True")
    if len(log.step) == 0:
        raise ViewError("the run has no events yet: add requests and step the engine first")
    return EventLog.of(log)


class RunView(View):
    """A view that sends a whole run to the browser, where it plays; only another setting asks the kernel.

    Setting a control's trait, from Python or in the page, calls `rerun(**settings)` at once and shows the
    run that it returns. If that raises, the error stands in the view, above the last good picture, and the
    controls go back to what is shown; set from Python, it is raised as well.
    """

    step = traitlets.Int(0).tag(sync=True)
    _run = traitlets.Dict().tag(sync=True)
    _controls: traitlets.List[Any] = traitlets.List().tag(sync=True)
    _settings_line = traitlets.Unicode("").tag(sync=True)
    _source = traitlets.Unicode("").tag(sync=True)
    _answers = traitlets.Int(0).tag(sync=True)  # to what the page asked: an answer may change nothing else

    def __init__(
        self,
        run: Any,
        *,
        rerun: Callable[..., Any] | None = None,
        controls: tuple[Control, ...] = (),
        about: str = "",
        source: str = "live, this machine",
        **traits: Any,
    ) -> None:
        self._from_page = self._settled = False
        self._rerun = rerun
        self._about = about
        self._before: Usage | None = None
        self._control_names = tuple(control.name for control in controls) if rerun else ()
        shown = [asdict(control) for control in controls] if rerun else []
        super().__init__(_controls=shown, _source=source, **traits)
        self._show(event_log(run))
        self.step = self._usage.opening_step
        self._shown = self._settings()
        if self._control_names:
            self.observe(self._steered, names=list(self._control_names))
        self._settled = True

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._control_names}

    def _describe(self) -> str:
        """The line of settings in the view's head."""
        raise NotImplementedError

    def _show(self, log: EventLog) -> None:
        new = usage(log)
        with self.hold_sync():
            self._log = log
            self._usage = new
            self._run = pack(log, new.opening_step)
            self._settings_line = self._describe()
            self.error = ""
            self.step = min(self.step, new.steps)

    @traitlets.validate("step")
    def _clamp_step(self, proposal: Any) -> int:
        first, last = self._run.get("first_step", 0), self._run.get("last_step", 0)
        return int(min(max(proposal["value"], first), last))

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take a change that was made in the page: an error of it is shown there, not raised here."""
        self._from_page = True
        try:
            super().set_state(sync_data)
        finally:
            self._from_page = False
        if not set(self._control_names).isdisjoint(sync_data):
            self._answers += 1

    def _steered(self, change: Any) -> None:
        settings = self._settings()
        if settings == self._shown or self._rerun is None:
            return
        try:
            log = event_log(self._rerun(**settings))
        except Exception as error:  # a reader's own rerun may raise anything; the page must say it
            self._refuse(f"{type(error).__name__}: {error}")
            if not self._from_page:
                raise
            return
        self._before = self._usage
        self._shown = settings
        self._show(log)

    def _refuse(self, message: str) -> None:
        with self.hold_sync():
            for name, value in self._shown.items():
                setattr(self, name, value)
            self.error = message
            for name in self._shown:  # also when the page alone held the refused value
                self.send_state(name)
