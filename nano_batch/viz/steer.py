"""A view of a run that can be steered: its controls, and reruns of the same requests under other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import traitlets

from nano_batch.errors import ViewError
from nano_batch.records import EventLog
from nano_batch.viz.base import View
from nano_batch.viz.controls import Control
from nano_batch.viz.selection import Selection, check_requests, selection_of
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


class RunView(View):
    """A view that sends a whole run to the browser, where it plays; only another setting asks the kernel.

    Setting a control's trait, from Python or in the page, calls `rerun(**settings)` at once and shows the
    run that it returns. If that raises, the error stands in the view, above the last good picture, and the
    controls go back to what is shown; set from Python, it is raised as well. Step and selection stay.

    Args:
        run: what is shown: a run, an engine with its event log on, or a log.
        rerun: serves the same requests under the controls' settings and returns the run; None: no controls.
        controls: the settings that a reader can move.
        about: one line that names the workload, its seed and the policy.
        source: where the numbers come from.
        recreate: a line of Python that makes this view, with `...` where settings go: "Copy as code".
        made_with: the settings of `run` that such a line names.
        selection: what is selected; by default shared by all views of `run`.
    """

    step = traitlets.Int(0).tag(sync=True)
    pinned = traitlets.Bool(False).tag(sync=True)
    _run = traitlets.Dict().tag(sync=True)
    _controls: traitlets.List[Any] = traitlets.List().tag(sync=True)
    _settings_line = traitlets.Unicode("").tag(sync=True)
    _difference = traitlets.Unicode("").tag(sync=True)
    _source = traitlets.Unicode("").tag(sync=True)
    _answers = traitlets.Int(0).tag(sync=True)  # to what the page asked: an answer may change nothing else
    _requests: traitlets.List[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _block = traitlets.Int(-1).tag(sync=True)
    _code = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self,
        run: Any,
        *,
        rerun: Callable[..., Any] | None = None,
        controls: tuple[Control, ...] = (),
        about: str = "",
        source: str = "live, this machine",
        recreate: str = "",
        made_with: Mapping[str, Any] | None = None,
        selection: Selection | None = None,
        **traits: Any,
    ) -> None:
        self._from_page = False
        self._rerun = rerun
        self._about = about
        self._recreate, self._made_with = recreate, dict(made_with or {})
        self._before: tuple[str, Usage] | None = None
        self._homes = {control.name: control.default for control in controls} if rerun else {}
        self._selection = selection or selection_of(run)
        shown = [asdict(control) for control in controls] if rerun else []
        super().__init__(_controls=shown, _source=source, **traits)
        self._show(event_log(run))
        self._share(self._selection)
        self._shown = self._settings()
        self._write_code()
        if self._homes:
            self.observe(self._steered, names=list(self._homes))
        self.observe(self._pin, names="pinned")
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

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._homes}

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

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take a change that was made in the page: an error of it is shown there, not raised here.

        What changes by it goes back in one message: each would cost the page a turn before it draws.
        """
        self._from_page = True
        with self.hold_sync():
            try:
                super().set_state(sync_data)
            except traitlets.TraitError as error:
                self._refuse(f"{type(error).__name__}: {error}")
            finally:
                self._from_page = False
            if self._asks(sync_data):
                self._answers += 1

    def _asks(self, names: Any) -> bool:
        """Whether the page awaits an answer to a change of these traits."""
        return not set(self._homes).isdisjoint(names)

    def _steered(self, change: Any) -> None:
        settings = self._settings()
        if settings == self._shown or self._rerun is None:
            return
        before = self._before
        try:
            log = event_log(self._rerun(**settings))
            if not self.pinned:
                self._before = ("the setting before", self._usage)
            self._show(log)
        except Exception as error:  # a reader's own rerun may raise anything; the page must say it
            self._before = before
            self._refuse(f"{type(error).__name__}: {error}")
            if not self._from_page:
                raise
            return
        self._shown = settings
        self._note_settings()

    def _note_settings(self) -> None:
        """Called when another run is shown than before."""
        self._write_code()

    def _pin(self, change: Any) -> None:
        """Keep the run shown now as what others are held against, or let it go."""
        if change["new"]:
            pinned = ", ".join(
                f"{name} {value}" for name, value in self._shown.items() if name in self._moved()
            )
            self._before = (f"the pinned run ({pinned or 'default settings'})", self._usage)
        else:
            self._before = None
        self._difference = self.difference()

    def _moved(self) -> dict[str, Any]:
        """The settings shown that are not at their defaults."""
        return {name: value for name, value in self._shown.items() if value != self._homes[name]}

    def code(self) -> str:
        """One line of Python that recreates the view as it stands; empty where nothing says how."""
        if not self._recreate:
            return ""
        stands = {**self._made_with, **self._moved(), "step": self.step}
        if self._requests:
            stands["requests"] = list(self._requests)
        return self._recreate.replace("...", ", ".join(f"{name}={value!r}" for name, value in stands.items()))

    def _write_code(self) -> None:
        self._code = self.code()

    def _refuse(self, message: str) -> None:
        with self.hold_sync():
            for name, value in self._shown.items():
                setattr(self, name, value)
            self.error = message
            for name in self._shown:  # also when the page alone held the refused value
                self.send_state(name)
