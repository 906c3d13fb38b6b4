"""A widget that holds a workload: the last one that could be read or drawn, and what was understood of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, get_args

import anywidget
import traitlets

from nano_batch._choices import check_choice
from nano_batch.errors import NanoBatchError, WorkloadError
from nano_batch.workloads import TraceName, Workload
from nano_batch.workloads.reader import OnError

UPLOAD_BYTES = 5_000_000


def _shipped(name: str) -> str:
    text = files("nano_batch.picker").joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def pick_workload(
    num_requests: int = 1000, *, like: TraceName = "azure_conv", on_error: OnError = "skip", **options: Any
) -> WorkloadPicker:
    """A widget to choose a workload with; a cell that ends with it shows it.

    Args:
        num_requests: rows of a built-in workload; a file is taken whole.
        like: the built-in workload that it starts with.
        on_error: what a file's malformed lines do: `skip` counts them, `raise` refuses the file.
        options: those of `Workload.synthetic`.

    Raises:
        NanoBatchError: what `Workload.synthetic` refuses, by name.
    """
    return WorkloadPicker(num_requests, like=like, on_error=on_error, **options)


class WorkloadPicker(anywidget.AnyWidget):
    """A workload to choose: `builtin`, `path` and `upload(name, content)` set it, from Python or in the page.

    What cannot be read is said in the widget, by name, and `workload` stays what it was; set from Python, it
    is raised as well. `observe(function, "workload")` follows the choice.
    """

    _esm: ClassVar[Any] = _shipped("pick.js")
    _css: ClassVar[Any] = _shipped("pick.css")
    builtin = traitlets.Unicode("").tag(sync=True)
    path = traitlets.Unicode("").tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)
    workload = traitlets.Any()
    _builtins = traitlets.List(list(get_args(TraceName))).tag(sync=True)
    _uploaded = traitlets.Unicode("").tag(sync=True)
    _understood = traitlets.Unicode("").tag(sync=True)
    _upload_bytes = traitlets.Int(UPLOAD_BYTES).tag(sync=True)
    _answers = traitlets.Int(0).tag(sync=True)  # to what the page asked: an answer may change nothing else

    def __init__(self, num_requests: int, *, like: TraceName, on_error: OnError, **options: Any) -> None:
        self._from_page = False
        self._settling = False
        self._synthetic = {"num_requests": num_requests, **options}
        self._on_error = on_error
        check_choice("on_error", on_error, OnError)
        first = self._draw(like)
        super().__init__(builtin=like, workload=first, _understood=first._repr_html_())
        self._chosen = {"builtin": like, "path": "", "_uploaded": ""}
        self.observe(self._builtin_set, names="builtin")
        self.observe(self._path_set, names="path")
        self.on_msg(self._message)

    def upload(self, name: str, content: bytes) -> None:
        """Take the bytes of a file, at most 5 MB; `name` is what the workload is called.

        Raises:
            WorkloadError: the file is larger, or no trace.
        """
        self._choose({"_uploaded": name}, lambda: self._read_upload(name, content))

    def _draw(self, name: Any) -> Workload:
        return Workload.synthetic(like=name, **self._synthetic)

    def _read_upload(self, name: str, content: bytes) -> Workload:
        self._check_size(name, len(content))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / _plain_name(name)
            path.write_bytes(content)
            return Workload.read(path, self._on_error)

    def _check_size(self, name: str, size: int) -> None:
        if size > UPLOAD_BYTES:
            limit = f"an upload may have {UPLOAD_BYTES / 1e6:g} MB"
            raise WorkloadError(f"{name} has {size / 1e6:.1f} MB; {limit}: give its path instead")

    def _read_path(self, path: str) -> Workload:
        try:
            return Workload.read(Path(path).expanduser(), self._on_error)
        except OSError as error:
            raise WorkloadError(f"{path} cannot be opened: {error.strerror or error}") from error

    def _builtin_set(self, change: Any) -> None:
        if not self._settling:
            name = change["new"]
            self._choose({"builtin": name}, lambda: self._draw(name))

    def _path_set(self, change: Any) -> None:
        if not self._settling:
            path = change["new"]
            self._choose({"path": path}, lambda: self._read_path(path))

    def _choose(self, choice: dict[str, str], make: Callable[[], Workload]) -> None:
        """Take what `make` gives, or say why not and go back to the last good choice."""
        try:
            workload = make()
        except NanoBatchError as error:
            self._settle(self._chosen, f"{type(error).__name__}: {error}")
            if not self._from_page:
                raise
            return
        self._chosen = {"builtin": "", "path": "", "_uploaded": "", **choice}
        self._settle(self._chosen, "")
        self._understood = workload._repr_html_()
        self.workload = workload

    def _settle(self, chosen: dict[str, str], error: str) -> None:
        self._settling = True
        try:
            with self.hold_sync():
                self.error = error
                for name, value in chosen.items():
                    setattr(self, name, value)
                for name in chosen:  # also when the page alone held the refused value
                    self.send_state(name)
        finally:
            self._settling = False

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take a change that was made in the page: an error of it is shown there, not raised here."""
        self._from_page = True
        try:
            super().set_state(sync_data)
        finally:
            self._from_page = False
        self._answers += 1

    def _message(self, _: Any, content: Any, buffers: list[Any]) -> None:
        """An upload from the page: its bytes, or only its size where that is too large to send."""
        name, size = str(content["name"]), int(content["size"])
        self._from_page = True
        try:
            if buffers:
                self.upload(name, bytes(buffers[0]))
            else:
                self._choose({"_uploaded": name}, lambda: self._refuse_size(name, size))
        finally:
            self._from_page = False
        self._answers += 1

    def _refuse_size(self, name: str, size: int) -> Workload:
        self._check_size(name, size)
        raise WorkloadError(f"{name} arrived without its content")

    def __repr__(self) -> str:
        lines = f"Picked: {self.workload!r}".splitlines()
        return "\n".join([self.error.splitlines()[0], *lines[:2]] if self.error else lines)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        live: Any = super()._repr_mimebundle_(**kwargs)
        data, metadata = live if isinstance(live, tuple) else (live, {})
        return {**data, "text/plain": repr(self), "text/html": self.workload._repr_html_()}, metadata


def _plain_name(name: str) -> str:
    """The last part of a name that a browser or a reader on any system gave."""
    plain = PureWindowsPath(PurePosixPath(name).name).name
    return plain if plain.strip(". ") else "upload"
