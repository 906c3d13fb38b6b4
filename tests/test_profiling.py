"""Measuring a device: what can be checked without one. The parts are those of a decoder, in its shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from nano_batch.cli import main  # noqa: E402
from nano_batch.errors import DeviceError  # noqa: E402
from nano_batch.profiling import measure_profile  # noqa: E402
from nano_batch.profiling.measure import measure_host, prompt_inputs, query_inputs  # noqa: E402
from nano_batch.profiling.parts import StepParts  # noqa: E402
from nano_batch.simulator import model_card  # noqa: E402


@pytest.fixture(scope="module")
def parts():
    small = replace(
        model_card("mistral-7b-v0.3"), num_layers=2, hidden_size=64, intermediate_size=96, num_heads=8,
        num_kv_heads=2, head_dim=16, vocab_size=100,
    )  # fmt: skip
    return StepParts(small, torch.device("cpu"))


def test_the_parts_have_a_decoders_shapes(parts):
    assert parts.linear(parts.empty(5, 64), parts.empty(5, 1, 16)).shape == (5, 64)
    assert parts.sample(parts.empty(3, 64)).shape == (3,)
    assert parts.prefill(*prompt_inputs(parts, 9)).shape == (1, 8, 9, 16)
    weights = sum(weight.numel() for layer in parts.layers for weight in layer)
    assert weights == parts.card.linear_parameters


def test_decodes_read_all_heads_of_a_group_at_once(parts):
    """As if each query head attended alone."""
    queries = query_inputs(parts, 3).float()
    keys, values = parts.empty(3, 2, 17, 16).float(), parts.empty(3, 2, 17, 16).float()
    one_layer = StepParts.__new__(StepParts)
    one_layer.card = replace(parts.card, num_layers=1)
    together = one_layer.decode(queries, [(keys, values)])
    for head in range(8):
        q, k, v = queries[:, head // 4, head % 4], keys[:, head // 4], values[:, head // 4]
        weights = torch.softmax(torch.einsum("bd,bkd->bk", q, k) / 4.0, 1)
        alone = torch.einsum("bk,bkd->bd", weights, v)
        torch.testing.assert_close(together[:, head // 4, head % 4], alone)


def test_keys_and_values_outgrow_a_devices_cache(parts):
    many = parts.cache(1, 16)
    assert len(many) == parts.card.num_layers


def test_the_host_takes_microseconds():
    host = measure_host()
    assert 0 <= host["host_per_sequence_s"] < 1e-5
    assert 0 <= host["host_s"] < 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to measure")
def test_without_a_device_it_says_so(tmp_path, capsys):
    with pytest.raises(DeviceError, match="measured on a CUDA device"):
        measure_profile()
    assert main(["profile", "--out", str(tmp_path / "p.json")]) == 1
    assert "DeviceError" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()
