"""Why no kernel runs, found out without a GPU."""

from __future__ import annotations

import sys

import pytest
import torch

from nano_batch import errors
from nano_batch.cuda import available
from nano_batch.cuda.available import why_not

DEVICE = torch.device("cuda", 1)


@pytest.fixture(autouse=True)
def a_device(monkeypatch):
    monkeypatch.setattr(available, "_known", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 6))
    monkeypatch.setattr(torch.version, "hip", None)


def test_a_device_that_can(monkeypatch):
    monkeypatch.setattr(available, "_installed", lambda name: True)
    assert why_not(DEVICE) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (1, 0))
    assert why_not(DEVICE) is None, "found out once"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_another_kind_of_device(device):
    reason = why_not(torch.device(device))
    assert isinstance(reason, errors.DeviceError)
    assert str(reason) == f"the tensors are on {device}, not on a CUDA device"


def test_a_device_that_is_too_old(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    reason = why_not(DEVICE)
    assert isinstance(reason, errors.DeviceError)
    assert str(reason) == "device 1 has compute capability (7, 5), below (8, 0)"
    assert why_not(DEVICE) is not reason, "a raised error grows a traceback"


def test_another_maker(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "AMD" in str(why_not(DEVICE))


@pytest.mark.parametrize("missing", ["cuda", "cuda.core", "cuda.bindings"])
def test_the_extra_is_missing(missing, monkeypatch):
    pytest.importorskip("cuda.core")
    monkeypatch.delitem(sys.modules, "cuda.core", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    reason = why_not(DEVICE)
    assert isinstance(reason, errors.MissingExtraError)
    assert "pip install 'nano-batch[cuda]'" in str(reason)
