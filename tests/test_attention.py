"""Paged attention against plain dense attention in float64."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from attention_cases import Case, cases
from hypothesis import given, settings
from torch.utils._python_dispatch import TorchDispatchMode

from nano_batch import errors
from nano_batch.attention import dense_attention, paged_attention_fwd, paged_attention_prefill, torch_backend
from nano_batch.attention.cuda import prefill

SCALES = ("key_scale", "value_scale")
WHOLE = (16, 64, 80, 256)
"""Sizes of a head that the core's kernel takes."""


@given(case=cases(prefill=False))
@settings(max_examples=200, deadline=None)
def test_decode_equals_dense_attention(case):
    case.check(case.decode())
    case.check(case.decode(validate=False, backend="torch"))


@given(case=cases(prefill=True))
@settings(max_examples=200, deadline=None)
def test_prefill_equals_dense_attention(case):
    case.check(case.prefill())
    case.check(case.prefill(validate=False, backend="torch"))


@given(case=cases(prefill=True, dtypes=(torch.float32,), soft_caps=False, quantised=False, head_dims=WHOLE))
@settings(max_examples=200, deadline=None)
def test_the_core_s_kernel_equals_dense_attention(case):
    case.check(case.prefill(backend="cpu"))
    case.check(case.prefill(backend="cpu", validate=False))


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("window", [None, 1, 20])
def test_the_core_s_kernel_reads_any_layout_and_group(layout, window):
    for group, kv_heads in [(1, 3), (3, 2), (5, 1), (9, 2)]:
        sizes = {"group": group, "kv_heads": kv_heads, "head_dim": 32, "layout": layout, "window": window}
        case = Case(20, [300, 0, 41, 7], [40, 0, 1, 7], block_size=16, **sizes)
        case.check(case.prefill(backend="cpu"))
        case.table = torch.cat([case.table, case.table.fill_(0)], 1)[:, : case.columns]  # rows far apart
        decode = Case(21, [300, 0, 41], [1, 1, 1], block_size=7, **sizes)
        decode.check(decode.decode(backend="cpu"))


def test_what_the_core_s_kernel_does_not_take():
    fits = Case(22, [9], [1], head_dim=16)
    for case, error, message in [
        (
            Case(22, [9], [1], head_dim=8),
            errors.ShapeError,
            "head_dim is 8; the kernel takes multiples of 16",
        ),
        (Case(22, [9], [1], head_dim=16, dtype=torch.float64), errors.DtypeError, "are torch.float64"),
        (Case(22, [9], [1], head_dim=16, fp8=True), errors.DtypeError, "are torch.float8_e4m3fn"),
        (Case(22, [9], [1], head_dim=16, soft_cap=2.0), errors.InvalidArgumentError, "soft_cap=2.0"),
    ]:
        for form in (case.decode, case.prefill):
            with pytest.raises(error, match=f"backend='cpu': .*{message}"):
                form(backend="cpu")
            case.check(form())
    fits.query = fits.query.requires_grad_()
    with pytest.raises(errors.DeviceError, match="gradients are asked for"):
        fits.decode(backend="cpu")


def test_the_core_s_kernel_reads_nothing_that_is_not_there():
    for change in ({"table": 99}, {"table": -1}, {"contexts": [90, 4]}):
        case = Case(23, [9, 4], [1, 1], head_dim=16)
        if "table" in change:
            case.table[0, 1] = change["table"]
        else:
            case.contexts = change["contexts"]
        with pytest.raises(
            errors.InvalidArgumentError,
            match=r"block_table is (99|-1); it must be 0 to|context_lens is 90; it must be at most",
        ):
            case.decode(validate=False, backend="cpu")


def attend_to_rows(query, keys, values, query_starts, key_starts, most_queries, most_keys, *, scale,
                   window_size, **options):  # fmt: skip
    """What the library computes, from its description: causal, aligned to the last query and key of a row."""
    assert window_size[1] == 0
    queries, seen = (starts.diff().tolist() for starts in (query_starts, key_starts))
    assert (most_queries, most_keys) == (max(queries), max(seen))
    rows = zip(query.split(queries), keys.split(seen), values.split(seen), strict=True)
    window = None if window_size[0] < 0 else window_size[0] + 1
    return torch.cat([dense_attention(*row, scale=scale, sliding_window=window) for row in rows]).to(
        query.dtype
    )


@given(case=cases(prefill=True, dtypes=(torch.float16, torch.bfloat16), soft_caps=False))
@settings(max_examples=100, deadline=None)
def test_prefill_over_gathered_keys_equals_dense_attention(case):
    """The CUDA form with the library's part in plain PyTorch; it gathers on any device."""
    options = dict(zip(SCALES, case.scales, strict=True))
    options["scale"] = case.scale or case.query.shape[2] ** -0.5
    starts, lens = case.starts(), case.lens()
    for known in (None, (starts.long(), lens.long())):
        plan = case.prefill_plan(host_lengths=known)
        with mock.patch.object(prefill, "_varlen", attend_to_rows):
            case.check(prefill.prefill_by_library(case.query, *case.views, plan, **options))


def test_the_library_is_told_only_what_it_takes():
    def refusal(change=None, **sizes):
        case = Case(1, [9], [3], **{"dtype": torch.bfloat16, "head_dim": 64, **sizes})
        given = {"key_cache": case.views[0], "value_cache": case.views[1], "scale": 0.1, **(change or {})}
        return prefill.library_refusal(case.query, **given)

    assert refusal() is None
    assert refusal(fp8=True) is None
    assert "not torch.float32" in refusal(dtype=torch.float32)
    assert "not 12" in refusal(head_dim=12)
    assert "not 264" in refusal(head_dim=264)
    assert "no soft cap; it is 2.0" in refusal({"soft_cap": 2.0})
    assert "not -0.1" in refusal({"scale": -0.1})
    apart = torch.zeros(4, 4, 2, 128, dtype=torch.bfloat16)[..., ::2]
    assert "(1024, 256, 128, 2)" in refusal({"key_cache": apart})


@pytest.mark.parametrize("per_head", [False, True])
def test_a_quantised_cache_costs_a_few_percent(per_head):
    sizes = {"head_dim": 64, "kv_heads": 4, "block_size": 16, "dtype": torch.bfloat16, "fp8": True}
    case = Case(12, [1, 40, 300], [1] * 3, per_head=per_head, **sizes)
    case.check(case.decode())
    case.check_against_unquantised(case.decode())
    case = Case(13, [1, 40, 300], [1, 30, 70], per_head=per_head, **sizes)
    case.check_against_unquantised(case.prefill())


@pytest.mark.parametrize("window", [None, 1, 7, 100])
@pytest.mark.parametrize(("tile_elements", "query_tile"), [(1, 1), (200, 3), (4000, 64)])
def test_tiles_of_any_size_give_the_same(window, tile_elements, query_tile, monkeypatch):
    monkeypatch.setattr(torch_backend, "TILE_ELEMENTS", tile_elements)
    monkeypatch.setattr(torch_backend, "QUERY_TILE", query_tile)
    case = Case(1, [70, 33, 0, 12, 5], [69, 1, 2, 12, 0], window=window)
    case.check(case.prefill(backend="torch"))
    case = Case(2, [70, 33, 0, 12, 5], [1] * 5, window=window)
    case.check(case.decode(backend="torch"))


def test_a_long_context_with_large_scores_is_exact():
    case = Case(3, [3000, 1], [1, 1], block_size=16, scale=6.0)
    case.check(case.decode())


def test_heads_of_one_element():
    case = Case(15, [9, 30], [2, 3], head_dim=1)
    case.check(case.prefill())


def test_one_query_a_row_is_the_same_either_way():
    case = Case(4, [9, 1, 17], [1, 1, 1], window=6)
    torch.testing.assert_close(case.decode(), case.prefill(), atol=1e-6, rtol=0)


def test_tokens_past_the_last_row_are_padding():
    case = Case(5, [9, 4], [3, 4])
    expected = case.prefill()
    case.query = torch.cat([case.query, torch.full((2, *case.query.shape[1:]), float("nan"))])
    output = case.prefill()
    assert torch.equal(output[:7], expected)
    assert output[7:].eq(0).all()


def test_queries_of_any_strides():
    case = Case(6, [9, 4], [1, 1])
    decoded, prefilled = case.decode(), case.prefill()
    case.query = case.query.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not case.query.is_contiguous()
    assert torch.equal(case.decode(), decoded)
    assert torch.equal(case.prefill(), prefilled)


@pytest.mark.parametrize("window", [None, 5])
def test_dense_attention_equals_torchs_own(window):
    rng = torch.Generator().manual_seed(7)
    query = torch.randn(6, 4, 8, generator=rng, dtype=torch.float64)
    keys, values = torch.randn(2, 11, 2, 8, generator=rng, dtype=torch.float64)
    at_query, at_key = torch.arange(5, 11)[:, None], torch.arange(11)[None]
    seen = (at_key <= at_query) & (at_key > at_query - (window or 99))
    own = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1), attn_mask=seen, enable_gqa=True
    ).transpose(0, 1)
    torch.testing.assert_close(dense_attention(query, keys, values, sliding_window=window), own)


class Made(TorchDispatchMode):
    """Records the bytes of every new storage that an operation returns."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        inputs = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        for tensor in result if isinstance(result, tuple | list) else [result]:
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage.data_ptr() not in inputs:
                self.sizes.append(storage.nbytes())
        return result


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_keys_and_values_are_copied_once_and_never_the_whole_cache(layout):
    case = Case(8, [64, 50, 64], [1, 1, 1], block_size=8, kv_heads=2, group=1, head_dim=32, layout=layout)
    gathered = 3 * 64 * 2 * 32 * 4
    with Made() as made:
        case.decode(backend="torch")
    assert sum(size >= gathered // 2 for size in made.sizes) == 2
    assert max(made.sizes) == gathered


def test_a_long_context_never_has_a_whole_copy(monkeypatch):
    monkeypatch.setattr(torch_backend, "TILE_ELEMENTS", 2**12)
    case = Case(9, [4096], [1], block_size=8, kv_heads=2, group=1, head_dim=32)
    with Made() as made:
        output = case.decode(backend="torch")
    case.check(output)
    tile = 2**12 * 4
    assert made.sizes.count(tile) == 2 * 4096 // 64
    assert max(made.sizes) == tile


def test_work_does_not_grow_with_a_python_loop_over_the_batch():
    def calls(rows):
        case = Case(10, [5] * rows, [1] * rows)
        with Made() as made:
            case.decode(backend="torch")
            decode = len(made.sizes)
            case.prefill(backend="torch")
        return decode, len(made.sizes) - decode

    assert calls(2) == calls(60)


def refuse(error, message, form="decode", fp8=False, **change):
    case = Case(11, [9, 4], [1, 1], fp8=fp8)
    keys, values = case.cache.layer(0)
    call = {"query": case.query.unsqueeze(2), "key_cache": keys, "value_cache": values,
            "block_table": case.table, "context_lens": case.lens(), "block_size": 4}  # fmt: skip
    function = paged_attention_fwd
    if form == "prefill":
        function = paged_attention_prefill
        call |= {"query": case.query, "query_start_loc": torch.tensor([0, 1, 2], dtype=torch.int32)}
    function(**call)
    call |= {name: value(call[name]) if callable(value) else value for name, value in change.items()}
    with pytest.raises(error, match=message) as caught:
        function(**call)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, errors.NanoBatchError)


@pytest.mark.parametrize("form", ["decode", "prefill"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": lambda query: query.int()}, errors.DtypeError, "query is torch.int32"),
        ({"key_cache": lambda keys: keys[0]}, errors.ShapeError, r"key_cache has shape \[4, 2, 8\]"),
        ({"key_cache": lambda keys: keys[:0]}, errors.ShapeError, "all at least 1"),
        ({"key_cache": lambda keys: keys[..., :4]}, errors.ShapeError, "head_dim 4; the query has 8"),
        ({"key_cache": lambda keys: keys[1:]}, errors.ShapeError, "differ"),
        ({"value_cache": lambda values: values.half()}, errors.DtypeError, "value_cache is torch.float16"),
        ({"value_cache": lambda values: values.to("meta")}, errors.DeviceError, "value_cache is on meta"),
        ({"query": lambda query: query[:, :3]}, errors.ShapeError, "2 key/value heads do not divide 3"),
        ({"block_size": 8}, errors.ShapeError, "block_size=8; the caches have blocks of 4"),
        ({"block_table": lambda table: table[:1]}, errors.ShapeError, "2 rows need"),
        ({"block_table": lambda table: table.float()}, errors.DtypeError, "block_table is torch.float32"),
        ({"block_table": lambda table: table.to("meta")}, errors.DeviceError, "block_table is on meta"),
        ({"block_table": lambda table: table * 0 - 1}, errors.BlockRangeError, r"block_table\[0, 0\] = -1"),
        (
            {"block_table": lambda table: table * 0 + 7},
            errors.BlockRangeError,
            r"= 7 is seen, and not in \[0, 7\)",
        ),
        ({"context_lens": lambda lens: lens.short()}, errors.DtypeError, "context_lens is torch.int16"),
        ({"context_lens": lambda lens: lens + 20}, errors.ContextLengthError, "29 of row 0 exceeds the 16"),
        ({"context_lens": lambda lens: -lens}, errors.ContextLengthError, "-9 of row 0 is negative"),
        ({"scale": float("nan")}, errors.InvalidArgumentError, "scale=nan"),
        ({"sliding_window": 0}, errors.InvalidArgumentError, "sliding_window=0"),
        ({"sliding_window": 1.5}, errors.InvalidArgumentError, "sliding_window=1.5"),
        ({"soft_cap": 0.0}, errors.InvalidArgumentError, "soft_cap=0.0"),
        ({"soft_cap": float("inf")}, errors.InvalidArgumentError, "soft_cap=inf"),
        (
            {"key_scale": 2.0},
            errors.InvalidArgumentError,
            "key_scale is given, and the cache is torch.float32",
        ),
        ({"backend": "cuda"}, errors.DeviceError, "backend='cuda': the tensors are on cpu"),
        ({"backend": "tocrh"}, errors.UnknownOptionError, "did you mean 'torch'"),
    ],
)
def test_bad_input_is_refused_by_name(form, change, error, message):
    refuse(error, message, form, **change)


@pytest.mark.parametrize("form", ["decode", "prefill"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key_scale": 0.0}, errors.InvalidArgumentError, "key_scale=0.0"),
        ({"value_scale": float("inf")}, errors.InvalidArgumentError, "value_scale=inf"),
        ({"key_scale": torch.ones(3)}, errors.ShapeError, r"key_scale has shape \[3\]; it needs \[2\]"),
        ({"key_scale": torch.ones(2).half()}, errors.DtypeError, "key_scale is torch.float16"),
        ({"value_scale": torch.ones(2, device="meta")}, errors.DeviceError, "value_scale is on meta"),
        (
            {"value_cache": lambda values: values.float()},
            errors.DtypeError,
            "key_cache is torch.float8_e4m3fn",
        ),
    ],
)
def test_bad_scales_are_refused_by_name(form, change, error, message):
    refuse(error, message, form, fp8=True, **change)


def test_the_choice_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr("nano_batch.cuda.loud._said", set())
    plain, kernel = Case(14, [9, 4], [1, 1]), Case(14, [9, 4], [1, 1], head_dim=16)
    with caplog.at_level("INFO", logger="nano_batch.cuda"):
        for case in 3 * [plain, kernel]:
            case.decode()
            case.prefill()
            case.decode(backend="torch")
    assert [record.getMessage() for record in caplog.records] == [
        f"paged attention ({what}) runs {how}"
        for how in (
            "in plain PyTorch: head_dim is 8; the kernel takes multiples of 16",
            "in kernels on cpu",
        )
        for what in ("decode", "prefill")
    ]


def test_bad_queries_are_refused_by_name():
    refuse(errors.ShapeError, r"\[batch, num_heads, 1, head_dim\]", query=lambda query: query.squeeze(2))
    refuse(
        errors.ShapeError,
        r"\[batch, num_heads, 1, head_dim\]",
        query=lambda query: query.expand(-1, -1, 2, -1),
    )
    refuse(errors.ShapeError, r"\[tokens, num_heads", "prefill", query=lambda query: query[None])
    refuse(errors.ShapeError, r"it needs \[2\]", context_lens=lambda lens: lens[None])


@pytest.mark.parametrize(
    ("starts", "error", "message"),
    [
        ([0, 2], errors.ShapeError, r"it needs \[3\]"),
        ([1, 1, 2], errors.ShapeError, "begins at 1"),
        ([0, 2, 1], errors.ShapeError, "falls from 2 to 1 in row 1"),
        ([0, 1, 3], errors.ShapeError, "ends at 3; there are 2 tokens"),
        ([0.0, 1.0, 2.0], errors.DtypeError, "query_start_loc is torch.float32"),
    ],
)
def test_bad_starts_are_refused_by_name(starts, error, message):
    refuse(error, message, "prefill", query_start_loc=torch.tensor(starts))


def test_more_queries_than_context_are_refused():
    refuse(errors.ContextLengthError, "2 queries of row 0 exceed its context", "prefill",
           context_lens=torch.tensor([1, 4]), query_start_loc=torch.tensor([0, 2, 2]))  # fmt: skip
