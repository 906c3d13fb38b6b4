"""JupyterLab as a child process: for a reader, and private and bare for a test or the refresh tool."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nano_batch.errors import LabError

HOST = "127.0.0.1"
START_SECONDS = 90
STARTS = 3
"""Ports that a private server tries: a port that was free may be a connection's by the time it listens."""
PAGE_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Without windowing every cell is in the page, so that a test can find it.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


def free_port(wanted: int = 8888) -> int:
    """`wanted` if nothing listens there, else any free TCP port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise LabError("no free TCP port on this machine")


def command(root: Path, port: int, token: str, *, open_path: str | None = None) -> list[str]:
    """The command line that serves `root`, and opens `open_path` in a browser if one is given."""
    line = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ip={HOST}",
        f"--port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--FileContentsManager.pre_save_hook=nano_batch.jupyter.stable.before_save",
        "--LabApp.news_url=",
    ]
    line.append(f"--LabApp.default_url=/lab/tree/{open_path}" if open_path else "--no-browser")
    if getattr(os, "geteuid", lambda: 1)() == 0:
        line.append("--allow-root")  # a container's only user
    return line


def serve(root: Path, open_path: str, *, browser: bool) -> int:
    """Run JupyterLab on `root` until it ends; print its address first. Returns its exit status."""
    port, token = free_port(), secrets.token_hex(16)
    print(f"JupyterLab: http://{HOST}:{port}/lab/tree/{open_path}?token={token}", flush=True)
    process = subprocess.Popen(command(root, port, token, open_path=open_path if browser else None))
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        return process.wait()


@contextmanager
def private_lab(root: Path, *, theme: str = "JupyterLab Light") -> Iterator[str]:
    """JupyterLab on `root` with settings, kernels' history and workspaces of its own; yields its address.

    The address has the form `http://host:port/lab/tree/{path}?token=…&reset`, with `{path}` left to fill.

    Raises:
        LabError: if the server ends, or does not answer within 90 seconds; its log is in the message.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as private:
        home = Path(private)
        _write_settings(home / "settings", theme)
        process, port = _started(root, home, token)
        try:
            yield f"http://{HOST}:{port}/lab/tree/{{path}}?token={token}&reset"
        finally:
            process.terminate()
            process.wait(20)


def _started(root: Path, home: Path, token: str) -> tuple[subprocess.Popen[bytes], int]:
    """A private server that answers, and its port."""
    log = home / "lab.log"
    for _ in range(STARTS):
        port = free_port(0)
        line = [
            *command(root, port, token),
            "--LabApp.extension_manager=readonly",
            "--ServerApp.port_retries=0",
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(line, env=_environment(home), stdout=out, stderr=subprocess.STDOUT)
        answers = ended = False
        try:
            # It asks for the token: another server on this port would not give what is behind it.
            answers = _answers(f"http://{HOST}:{port}/api/status?token={token}", process)
            ended = process.poll() is not None
        finally:
            if not answers:
                process.kill()
                process.wait()
        if answers:
            return process, port
        if not ended:
            break
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    what = "ended before it answered" if ended else f"did not answer within {START_SECONDS} s"
    raise LabError(f"JupyterLab {what}:\n{tail}")


def _write_settings(folder: Path, theme: str) -> None:
    settings = {**PAGE_SETTINGS, "apputils-extension/themes": {"theme": theme}}
    for name, values in settings.items():
        path = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")


def _environment(home: Path) -> dict[str, str]:
    names = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {**os.environ, **{name: str(home / folder) for name, folder in names.items()}}


def _answers(address: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether the server answers before it ends, or in time."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=1):
                return process.poll() is None
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
    return False
