"""A view that can be steered: its controls, what a moved one asks for, what is held against what."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import traitlets

from nano_batch.viz.base import View
from nano_batch.viz.controls import Control


class SteeredView(View):
    """A view with controls, each a trait of its name.

    Setting one, from Python or in the page, makes the picture anew at once. If that raises, the error stands
    in the view, above the last good picture, and the controls go back to what is shown; set from Python, it
    is raised as well. A subclass says what is made (`_make`), shown (`_show`) and held against what stood
    before (`_facts`, `difference`).

    Args:
        controls: the settings that a reader can move.
        about: one line that names the workload, its seed and the policy.
        source: where the numbers come from.
        recreate: a line of Python that makes this view, with `...` where settings go: "Copy as code".
        made_with: further settings that such a line names.
    """

    pinned = traitlets.Bool(False).tag(sync=True)
    _controls: traitlets.List[Any] = traitlets.List().tag(sync=True)
    _settings_line = traitlets.Unicode("").tag(sync=True)
    _difference = traitlets.Unicode("").tag(sync=True)
    _source = traitlets.Unicode("").tag(sync=True)
    _answers = traitlets.Int(0).tag(sync=True)  # to what the page asked: an answer may change nothing else
    _code = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self,
        *,
        controls: tuple[Control, ...] = (),
        about: str = "",
        source: str = "live, this machine",
        recreate: str = "",
        made_with: Mapping[str, Any] | None = None,
        **traits: Any,
    ) -> None:
        self._from_page = False
        self._about = about
        self._recreate, self._made_with = recreate, dict(made_with or {})
        self._before: tuple[str, Any] | None = None
        self._homes = {control.name: control.default for control in controls}
        super().__init__(_controls=[asdict(control) for control in controls], _source=source, **traits)

    def _steerable(self) -> None:
        """Called once, when the first picture is shown: from here on settings make others."""
        self._shown = self._settings()
        self._write_code()
        if self._homes:
            self.observe(self._steered, names=list(self._homes))
        self.observe(self._pin, names="pinned")
        self.on_msg(lambda _, content, __: self._answer(content))

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._homes}

    def _make(self, **settings: Any) -> Any:
        """What is to be shown under `settings`; raises whatever refuses them."""
        raise NotImplementedError

    def _show(self, made: Any) -> None:
        """Show what `_make` gave."""
        raise NotImplementedError

    def _facts(self) -> Any:
        """What of the picture shown is kept to hold the next one against."""
        raise NotImplementedError

    def difference(self) -> str:
        """One line: what is shown against the setting before, or the pinned one; empty without one."""
        raise NotImplementedError

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
        if settings == self._shown:
            return
        before = self._before
        try:
            made = self._make(**settings)
            if not self.pinned:
                self._before = ("the setting before", self._facts())
            self._show(made)
        except Exception as error:  # a reader's own code may raise anything; the page must say it
            self._before = before
            self._refuse(f"{type(error).__name__}: {error}")
            if not self._from_page:
                raise
            return
        self._shown = settings
        self._note_settings()

    def _note_settings(self) -> None:
        """Called when another picture is shown than before."""
        self._write_code()

    def _pin(self, change: Any) -> None:
        """Keep what is shown now as what others are held against, or let it go."""
        if change["new"]:
            pinned = ", ".join(
                f"{name} {value}" for name, value in self._shown.items() if name in self._moved()
            )
            self._before = (f"the pinned run ({pinned or 'default settings'})", self._facts())
        else:
            self._before = None
        self._difference = self.difference()

    def _moved(self) -> dict[str, Any]:
        """The settings shown that are not at their defaults."""
        return {name: value for name, value in self._shown.items() if value != self._homes[name]}

    def _stands(self) -> dict[str, Any]:
        """What a line of code has to say beside the settings to recreate the view as it stands."""
        return {}

    def code(self) -> str:
        """One line of Python that recreates the view as it stands; empty where nothing says how."""
        if not self._recreate:
            return ""
        stands = {**self._made_with, **self._moved(), **self._stands()}
        return self._recreate.replace("...", ", ".join(f"{name}={value!r}" for name, value in stands.items()))

    def _write_code(self) -> None:
        self._code = self.code()

    def _file_name(self) -> str:
        """What a file of the view is called, without its ending."""
        raise NotImplementedError

    def _answer(self, content: Any) -> None:
        """What the page asks in words: a file of the view, for its download menu."""
        form = content.get("save")
        if form not in ("png", "svg", "html", "csv"):
            return
        name = f"{self._file_name()}.{form}"
        with TemporaryDirectory() as folder:
            data = self.save(Path(folder) / name).read_bytes()
        self.send({"file": name, "data": b64encode(data).decode()})

    def _refuse(self, message: str) -> None:
        with self.hold_sync():
            for name, value in self._shown.items():
                setattr(self, name, value)
            self.error = message
            for name in self._shown:  # also when the page alone held the refused value
                self.send_state(name)
