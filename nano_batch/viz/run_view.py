"""A view of a run: its event log goes to the browser; another setting serves the same requests again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import traitlets

from nano_batch.errors import ViewError
from nano_batch.records import EventLog
from nano_batch.viz.controls import Control
from nano_batch.viz.selection import Selection, check_requests, selection_of
from nano_batch.viz.steer import SteeredView
from nano_batch.viz.usage import Usage, usage
from nano_batch.viz.wire import pack

_SHARED = {"step": "step", "_requests": "requests", "_block": "block"}  # trait here: trait of the selection


def event_log(run: Any) -> EventLog:
    """The event log of a `Run`, of an engine, or the log itself.

    Raises:
        ViewError: if `run` has none, or an empty one.
        EventLogOffError: if it is an engine whose log is off.
    """
    log = getattr(run, "events", run)
    log = log() if callable(log) else log
    if not isinstance(log, EventLog):
        raise ViewError(f"a {type(run).__name__} without an event log: make the engine with event_log=True")
    if len(log.step) == 0:
        raise ViewError("the run has no events yet: add requests and step the engine first")
    return log


class RunView(SteeredView):
    """A view that sends a whole run to the browser, where it plays; only another setting asks the kernel.

    Step and selection stay when a control is moved.

    Args:
        run: what is shown: a run, an engine with its event log on, or a log.
        rerun: serves the same requests under the controls' settings and returns the run; None: no controls.
        controls: the settings that a reader can move.
        selection: what is selected; by default shared by all views of `run`.
        options: what any view that can be steered takes: `about`, `source`, `recreate`, `made_with`.
    """

    step = traitlets.Int(0).tag(sync=True)
    _run = traitlets.Dict().tag(sync=True)
    _requests: traitlets.List[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _block = traitlets.Int(-1).tag(sync=True)

    def __init__(
        self,
        run: Any,
        *,
        rerun: Callable[..., Any] | None = None,
        controls: tuple[Control, ...] = (),
        selection: Selection | None = None,
        **options: Any,
    ) -> None:
        self._rerun = rerun
        self._selection = selection or selection_of(run)
        super().__init__(controls=controls if rerun else (), **options)
        self._show(event_log(run))
        self._share(self._selection)
        self._steerable()
        self.observe(lambda _: self._write_code(), names=["step", "_requests"])

    @property
    def selected(self) -> Selection:
        """The requests, block and step selected, shared by all views of the run; read it or set it."""
        return self._selection

    def _share(self, selection: Selection) -> None:
        """Follow the run's selection, which another view of the run may have moved already, and move it."""
        if selection.known:
            for own, name in _SHARED.items():
                setattr(self, own, getattr(selection, name))
        else:
            selection.known = tuple(self._log.request_ids.values())
            self.step = self._usage.opening_step
            selection.step = self.step
        for own, name in _SHARED.items():
            selection.observe(lambda change, own=own: setattr(self, own, change["new"]), names=name)
            self.observe(lambda change, name=name: setattr(selection, name, change["new"]), names=own)

    def _describe(self, log: EventLog) -> str:
        """The line of settings in the view's head; a ViewError if the view cannot show `log`."""
        raise NotImplementedError

    def _opens_at(self, log: EventLog, use: Usage) -> int:
        """The step at which the view of `log` stands at first, and after "Reset"."""
        return use.opening_step

    def _show(self, log: EventLog) -> None:
        line, new = self._describe(log), usage(log)
        with self.hold_sync():
            self._log = log
            self._usage = new
            self._run = pack(log, self._opens_at(log, new))
            self._settings_line = line
            self._difference = self.difference()
            self.error = ""
            self.step = min(self.step, new.steps)

    def difference(self) -> str:
        """One line: the run against the setting before, or the pinned one; empty where there is none."""
        if self._before is None:
            return ""
        name, old = self._before
        new = self._usage
        return (
            f"against {name}: {new.steps - old.steps:+,} steps, "
            f"{new.preemptions - old.preemptions:+,} preemptions, "
            f"{new.evictions - old.evictions:+,} evictions"
        )

    @traitlets.validate("step")
    def _clamp_step(self, proposal: Any) -> int:
        first, last = self._run.get("first_step", 0), self._run.get("last_step", 0)
        return int(min(max(proposal["value"], first), last))

    @traitlets.validate("_requests")
    def _check_requests(self, proposal: Any) -> list[str]:
        return check_requests(proposal["value"], self._selection.known)

    def _make(self, **settings: Any) -> EventLog:
        assert self._rerun is not None
        return event_log(self._rerun(**settings))

    def _facts(self) -> Usage:
        return self._usage

    def _stands(self) -> dict[str, Any]:
        chosen = {"requests": list(self._requests)} if self._requests else {}
        return {"step": self.step, **chosen}
