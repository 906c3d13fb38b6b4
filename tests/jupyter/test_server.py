"""JupyterLab's command line: a free port, the address, the browser."""

import socket
import subprocess
import sys
import urllib.request

import pytest

from nano_batch import errors
from nano_batch.jupyter import server


def test_takes_another_port_when_the_usual_one_is_taken():
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert server.free_port(port) != port
    assert server.free_port(port) == port


def test_opens_the_notebook_only_with_a_browser(tmp_path):
    line = server.command(tmp_path, 1234, "token", open_path="00.ipynb")
    assert "--LabApp.default_url=/lab/tree/00.ipynb" in line
    assert "--no-browser" not in line
    assert "--no-browser" in server.command(tmp_path, 1234, "token")


def test_the_lab_prints_an_address_that_answers(tmp_path):
    (tmp_path / "00.ipynb").write_text("{}", encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from nano_batch.jupyter.server import serve;"
        "sys.exit(serve(Path(sys.argv[1]), '00.ipynb', browser=False))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        address = process.stdout.readline().split()[-1]
        try:
            assert address.startswith("http://127.0.0.1:")
            assert "/lab/tree/00.ipynb?token=" in address
            assert answers(address)
        finally:
            token = address.split("token=")[1]
            base = address.split("/lab")[0]
            stop = urllib.request.Request(f"{base}/api/shutdown?token={token}", method="POST")
            urllib.request.urlopen(stop, timeout=10).close()
            assert process.wait(30) is not None


def answers(address):
    for _ in range(300):
        try:
            with urllib.request.urlopen(address, timeout=1) as reply:
                return reply.status == 200
        except OSError:
            import time

            time.sleep(0.1)
    return False


def test_a_port_that_is_taken_meanwhile_is_passed_over(tmp_path, monkeypatch):
    """By another such server, too, which answers whoever has its token."""
    with server.private_lab(tmp_path) as other:
        taken = int(other.split(":")[2].split("/")[0])
        ports = [taken, server.free_port(0)]
        monkeypatch.setattr(server, "free_port", lambda wanted: ports.pop(0))
        with server.private_lab(tmp_path) as address:
            assert f":{taken}/" not in address
        assert not ports


def test_a_server_that_never_starts_is_told_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "command", lambda *_: [sys.executable, "-c", "print('no such server')"])
    told = pytest.raises(errors.LabError, match=r"ended before it answered:\nno such server")
    with told, server.private_lab(tmp_path):
        pass


def test_a_server_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    silent = [sys.executable, "-c", "import time; print('silent', flush=True); time.sleep(600)"]
    monkeypatch.setattr(server, "command", lambda *_: silent)
    monkeypatch.setattr(server, "START_SECONDS", 2)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **options: started.append(popen(*args, **options)) or started[-1]
    )
    told = pytest.raises(errors.LabError, match=r"did not answer within 2 s:\nsilent")
    with told, server.private_lab(tmp_path):
        pass
    assert [process.poll() is not None for process in started] == [True]
