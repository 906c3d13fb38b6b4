"""The kernels of a decoder layer, run on the CPU (cuda_on_cpu), against the plain forms."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from cuda_on_cpu.device import cpu_device
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import (
    BF16,
    DTYPES,
    FP16,
    FP32,
    assert_close,
    check_embedded,
    check_norm_of_parts,
    check_norms,
    check_taken,
    rows,
)

from nano_batch.models.cuda import SOURCES, layer

orders = pytest.mark.parametrize("backwards", [False, True])
some = settings(max_examples=4, deadline=None)
SIZES = {  # elements of a row, and between rows: wide and narrow vectors, one a thread, two, any number
    FP32: [(260, 0), (4100, 8), (1030 * 8 + 4, 4)],
    FP16: [(64, 8), (37, 0), (16392, 0)],
    BF16: [(520, 0), (2054, 2), (8200, 8)],
}


def norm(hidden, weight, eps):
    return layer.rms_norm(hidden, None, weight, eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@orders
@given(data=st.data())
@some
def test_norms_equal_the_plain_form(libraries, dtype, backwards, data):
    size, apart = data.draw(st.sampled_from(SIZES[dtype]))
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    with cpu_device(libraries, backwards=backwards):
        check_norms(norm, layer.rms_norm, F.rms_norm, data.draw(st.integers(0, 3)), size, dtype, apart)
        check_embedded(layer.embed_rms_norm, F.rms_norm, data.draw(st.integers(0, 3)), size, dtype, apart)


@pytest.mark.parametrize(("dtype", "size", "parts"), [(BF16, 520, 2), (FP32, 4100, 3), (FP16, 16392, 2)])
@orders
def test_norms_of_parts_equal_the_plain_form(libraries, dtype, size, parts, backwards):
    torch.manual_seed(size)
    with cpu_device(libraries, backwards=backwards):
        for tokens in (0, 1, 3):
            check_norm_of_parts(layer.rms_norm, F.rms_norm, parts, tokens, size, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("sizes", "apart"), [((64, 96), 8), ((7, 12), 0), ((2054, 2), 2), ((8, 4096), 0), ((2048, 2056), 0)]
)
@orders
def test_rows_are_taken(libraries, dtype, sizes, apart, backwards):
    """Of less than a block's vectors, of some blocks', and where one table ends within a block."""
    torch.manual_seed(sum(sizes))
    with cpu_device(libraries, backwards=backwards):
        for count in (0, 1, 3):
            check_taken(layer.take_rows, count, sizes, dtype, apart)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@orders
@given(data=st.data())
@some
def test_silu_mul_equals_the_plain_form(libraries, dtype, backwards, data):
    size, tokens = data.draw(st.sampled_from([16, 48, 7])), data.draw(st.integers(0, 90))
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    gate_up = 20 * rows(tokens, 2 * size, dtype, apart=data.draw(st.sampled_from([0, 16])))
    gate, up = gate_up.chunk(2, dim=1)
    with cpu_device(libraries, backwards=backwards):
        # Where silu rounds to its neighbour, the product may once more.
        assert_close(layer.silu_mul(gate_up), F.silu(gate) * up, scale=0.01, roundings=2)


@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
@orders
@given(data=st.data())
@some
def test_few_rows_equal_the_plain_form(libraries, dtype, backwards, data):
    count, n = data.draw(st.integers(0, 8)), data.draw(st.integers(1, 40))
    k = data.draw(st.sampled_from([8, 56, 512, 2200]))
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    x, weight = rows(count, k, dtype, apart=8), rows(n, k, dtype)
    weight = weight.contiguous()
    with cpu_device(libraries, backwards=backwards):
        assert_close(layer.few_rows(x, weight), F.linear(x.float(), weight.float()).to(dtype), scale=k**0.5)


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        (1, (32, 1)),
        (32, (32, 1)),
        (33, (32, 2)),
        (512, (256, 2)),
        (1025, (544, 2)),
        (2048, (1024, 2)),
        (2049, (1024, 0)),
    ],
)
def test_every_vector_of_a_row_has_a_thread(vectors, expected):
    threads, each = layer.row_threads(vectors)
    assert (threads, each) == expected
    assert each == 0 or threads * each >= vectors


SYNC = "    __syncthreads();\n"
MISTAKES = [
    ("rms_norm.cu", SYNC, ""),
    ("rms_norm.cu", "piece.store(sum_row, from, size);", ""),
    ("rms_norm.cu", "row + part * apart", "row + part / 2 * apart"),
    ("rms_norm.cu", "id < table_rows", "id <= table_rows"),
    ("take_rows.cu", "id < table_rows", "id <= table_rows"),
    ("take_rows.cu", "at : at - one_size;", "at : 0;"),
    ("few_rows.cu", SYNC, ""),
    ("few_rows.cu", "lane / 4 + 8, n - 1", "lane / 4 + 7, n - 1"),
    ("silu_mul.cu", "at % lanes * VEC", "at % (lanes - 1) * VEC"),
]


@pytest.mark.parametrize(("file", "text", "mistake"), [("rms_norm.cu", "", ""), *MISTAKES])
def test_a_planted_mistake_is_found(libraries, tmp_path, file, text, mistake):
    sources = shutil.copytree(SOURCES, tmp_path / "sources")
    changed = (sources / file).read_text(encoding="utf-8")
    assert changed.count(text) == 1 or not text
    (sources / file).write_text(changed.replace(text, mistake) if text else changed, encoding="utf-8")
    assert all(outcomes(libraries, sources)) == (not text)


def outcomes(libraries, sources):
    """For both orders of lanes: whether the kernels of these sources compute what they should."""
    torch.manual_seed(3)
    x, weight, gate_up = rows(4, 512, BF16), rows(20, 512, BF16), rows(3, 64, BF16)
    gate, up = gate_up.chunk(2, dim=1)
    for backwards in (False, True):
        with cpu_device(libraries, backwards=backwards, sources=sources):
            try:
                check_norms(norm, layer.rms_norm, F.rms_norm, 2, 520, BF16, 0)
                check_norm_of_parts(layer.rms_norm, F.rms_norm, 2, 2, 520, BF16)
                check_embedded(layer.embed_rms_norm, F.rms_norm, 2, 520, BF16)
                check_taken(layer.take_rows, 2, (520, 16), BF16)
                assert_close(layer.few_rows(x, weight), F.linear(x, weight), scale=512**0.5)
                assert_close(layer.silu_mul(gate_up), F.silu(gate) * up, scale=0.01)
                yield True
            except AssertionError:
                yield False
