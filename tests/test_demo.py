"""The demo runs, and says so when a check fails."""

from __future__ import annotations

import torch

from nano_batch.examples import core_engine_demo


def test_every_check_of_the_demo_holds(capsys):
    assert core_engine_demo.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("[ok]") == 11
    assert "11 of 11 checks hold" in printed
    for part in ("allocation", "scheduling", "attention", "release"):
        assert f"\n{part}" in printed


def test_a_failed_check_is_seen(capsys, monkeypatch):
    monkeypatch.setattr(core_engine_demo, "dense_attention", lambda query, *_: torch.zeros_like(query))
    assert core_engine_demo.main() == 1
    printed = capsys.readouterr().out
    assert printed.count("[FAILED]") == 1
    assert "10 of 11 checks hold" in printed
