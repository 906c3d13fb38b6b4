"""The operators of a decoder layer: what they refuse, their traces, and on a CUDA device their kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from layer_cases import (
    BF16,
    DTYPES,
    EPS,
    FP16,
    assert_close,
    check_embedded,
    check_norm_of_parts,
    check_norms,
    check_taken,
    rows,
)

from nano_batch import cpu, errors
from nano_batch.cuda.launch import is_hopper
from nano_batch.cuda.tensor_map import panels_of
from nano_batch.models import ops
from nano_batch.models.cuda import hopper

on_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
on_hopper = pytest.mark.skipif(
    not (torch.cuda.is_available() and is_hopper(torch.device("cuda"))),
    reason="no Hopper device: no other has the kernel's instructions",
)
WIDTHS = [(4096, 0), (5120, 64), (8192, 0), (14336, 8), (40960, 0), (255, 1), (12_001, 0), (32, 4)]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_the_operators_pass_pytorch_s_checks(dtype):
    hidden, residual, weight = (torch.randn(shape, dtype=dtype) for shape in [(3, 8), (3, 8), (8,)])
    operators, utilities = torch.ops.nano_batch, ("test_schema", "test_faketensor")
    wide = torch.promote_types(dtype, torch.float32)
    broad, halves = (torch.randn(shape, dtype=dtype) for shape in [(3, 128), (6, 128)])
    for operator, inputs in [
        (operators.rms_norm, (hidden, weight, EPS)),
        (operators.add_rms_norm, (hidden, residual, weight, EPS)),
        (operators.embed_rms_norm, (torch.tensor([2, 0]), hidden, weight, EPS)),
        (operators.take_rows, (torch.tensor([2, 0]), hidden, broad)),
        (operators.silu_mul, (hidden,)),
        (operators.linear_few_rows, (hidden, residual)),
        (operators.linear_few_rows, (hidden, residual, torch.rand(1, 8, dtype=wide), EPS)),
        (
            operators.add_linear,
            (hidden, *(torch.randn(shape, dtype=dtype) for shape in [(70, 8), (3, 70), (70,)])),
        ),
        (operators.gated_linear, (hidden, torch.randn(6, 8, dtype=dtype))),
        (operators.gated_linear, (hidden, torch.randn(6, 8, dtype=dtype), torch.rand(1, 8, dtype=wide), EPS)),
        (operators.gated_linear, (broad, halves, None, 0.0, panels_of(halves).contiguous())),
        (operators.linear_parts, (hidden, residual, 2)),
        (operators.add_parts_rms_norm, (torch.randn(2, 3, 8, dtype=dtype), residual, weight, EPS)),
    ]:
        torch.library.opcheck(operator.default, inputs, test_utils=utilities)


def test_the_plain_forms_are_pytorch_s():
    torch.manual_seed(1)
    hidden, residual, weight = torch.randn(5, 6), torch.randn(5, 6), torch.randn(6)
    by_hand = hidden / (hidden.square().mean(1, keepdim=True) + EPS).sqrt() * weight
    torch.testing.assert_close(ops.rms_norm(hidden, weight, EPS), by_hand)
    summed = hidden + residual
    assert torch.equal(ops.add_rms_norm(hidden, residual, weight, EPS), ops.rms_norm(summed, weight, EPS))
    assert torch.equal(residual, summed)
    by_hand = hidden[:, :3] * hidden[:, :3].sigmoid() * hidden[:, 3:]
    torch.testing.assert_close(ops.silu_mul(hidden), by_hand)
    torch.testing.assert_close(ops.linear_few_rows(hidden, residual), hidden @ residual.T)
    gate_up = torch.randn(8, 6)
    torch.testing.assert_close(ops.gated_linear(hidden, gate_up), ops.silu_mul(hidden @ gate_up.T))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_norm_of_parts_is_that_of_their_sum(parts, dtype):
    torch.manual_seed(parts)
    x, weight, residual, norm = (torch.randn(shape).to(dtype) for shape in [(4, 11), (6, 11), (4, 6), (6,)])
    sums = ops.linear_parts(x, weight, parts)
    assert sums.shape == (parts, 4, 6)
    assert sums.dtype == dtype
    exact, unit = x.double() @ weight.double().T, torch.finfo(dtype).eps
    torch.testing.assert_close(sums.double().sum(0), exact, rtol=0, atol=20 * unit)
    wide = torch.promote_types(dtype, torch.float32)
    summed = (residual + sums.to(wide).sum(0)).to(dtype)
    normed = ops.add_parts_rms_norm(sums, residual, norm, EPS)
    assert torch.equal(residual, summed)
    torch.testing.assert_close(normed, F.rms_norm(summed, (6,), norm, EPS))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 64, 70, 200])
@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_a_norm_without_its_division_is_divided_by_the_product_after_it(tokens, size, dtype):
    torch.manual_seed(tokens + size)
    x, weight, residual, norm = (
        torch.randn(shape).to(dtype) for shape in [(tokens, 11), (size, 11), (tokens, size), (size,)]
    )
    after, summed = torch.randn(6, size).to(dtype), residual + F.linear(x, weight)
    scaled, squares = ops.add_linear(x, weight, residual, norm)
    assert torch.equal(residual, summed)
    assert torch.equal(scaled, summed * norm)
    assert squares.shape == (-(-size // 64), -(-tokens // 8) * 8)
    assert squares.dtype == torch.promote_types(dtype, torch.float32)
    by_hand = summed.double().square().sum(1)
    torch.testing.assert_close(squares.sum(0)[:tokens].double(), by_hand, rtol=1e-6, atol=0)
    root = (summed.double().square().mean(1, keepdim=True) + EPS).sqrt()
    exact = F.linear(summed.double() / root * norm, after.double())
    unit = {torch.float64: 1e-12, torch.float32: 1e-6, FP16: 1e-3, BF16: 8e-3}[dtype]
    bounds = {"rtol": 4 * unit, "atol": 4 * unit * size**0.5}
    torch.testing.assert_close(ops.linear_few_rows(scaled, after, squares, EPS).double(), exact, **bounds)
    gated = exact[:, :3] * exact[:, :3].sigmoid() * exact[:, 3:]
    bounds["atol"] *= 1 + float(exact.abs().max()) if tokens else 1
    torch.testing.assert_close(ops.gated_linear(scaled, after, squares, EPS).double(), gated, **bounds)


@pytest.mark.parametrize("tokens", [1, 3, 8, 16, 17, 200])
@pytest.mark.parametrize("size", [1, 15, 64, 768])
def test_the_core_s_kernels_are_close_and_a_row_s_are_its_own(tokens, size):
    """What a row gets does not depend on the rows beside it, bit for bit."""
    torch.manual_seed(tokens * size)
    hidden, residual, weight = (torch.randn(shape) for shape in [(tokens, size), (tokens, size), (size,)])
    matrix, gate_up = torch.randn(37, size), 30 * torch.randn(tokens, 2 * size)
    assert cpu.takes(hidden, residual, weight, matrix, gate_up)
    summed = hidden + residual
    by_hand = summed.double() / (summed.double().square().mean(1, keepdim=True) + EPS).sqrt() * weight
    gates, ups = gate_up.double().chunk(2, 1)
    wanted = [by_hand, hidden.double() @ matrix.double().T, gates * gates.sigmoid() * ups]

    def compute(rows):
        added = residual[rows].clone()
        normed = ops.add_rms_norm(hidden[rows], added, weight, EPS)
        assert torch.equal(added, summed[rows])
        assert torch.equal(normed, ops.rms_norm(added, weight, EPS))
        return normed, ops.linear_few_rows(hidden[rows], matrix), ops.silu_mul(gate_up[rows])

    together = compute(slice(None))
    for ours, exact in zip(together, wanted, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))
    for row in {0, tokens // 2, tokens - 1}:
        for alone, all_rows in zip(compute(slice(row, row + 1)), together, strict=True):
            assert torch.equal(alone[0], all_rows[row])


def test_the_core_takes_no_gradients_and_no_other_dtype():
    rows = torch.ones(2, 4)
    assert not cpu.takes(rows.requires_grad_())
    assert not cpu.takes(torch.ones(2, 4), torch.ones(4).double())
    assert not cpu.takes(torch.ones(2, 4, device="meta"))
    ops.rms_norm(rows, torch.ones(4), EPS).sum().backward()
    assert rows.grad is not None


def test_numbers_that_are_none_stay_none():
    hidden = torch.ones(3, 64)
    hidden[1, 5] = float("nan")
    for result in (ops.rms_norm(hidden, torch.ones(64), EPS), ops.linear_few_rows(hidden, torch.ones(5, 64)),
                   ops.silu_mul(hidden)):  # fmt: skip
        assert result[1].isnan().any()
        assert result[[0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ([(2, 4), (2, 4), (5,)], r"shapes \[2, 4\] and \[5\]; they need \[rows, size\] and \[size\]"),
        ([(4,), (4,), (4,)], r"shapes \[4\] and \[4\]"),
        ([(2, 0), (2, 0), (0,)], r"shapes \[2, 0\]"),
        ([(2, 4), (1, 4), (4,)], r"residual has shape \[1, 4\]; hidden has \[2, 4\]"),
    ],
)
def test_shapes_that_do_not_fit_change_nothing(shapes, match):
    hidden, residual, weight = (torch.ones(shape) for shape in shapes)
    with pytest.raises(errors.ShapeError, match=match):
        ops.add_rms_norm(hidden, residual, weight, EPS)
    assert residual.eq(1).all()


def test_what_else_is_refused_by_name():
    hidden, weight = torch.ones(2, 4), torch.ones(4)
    with pytest.raises(errors.DtypeError, match=r"weight is torch.float16; the rows are torch.float32"):
        ops.rms_norm(hidden, weight.half(), EPS)
    with pytest.raises(errors.DtypeError, match=r"residual is torch.float64"):
        ops.add_rms_norm(hidden, hidden.double(), weight, EPS)
    with pytest.raises(errors.DeviceError, match=r"weight is on meta; the rows are on cpu"):
        ops._check_rows(hidden, None, weight.to("meta"))
    with pytest.raises(errors.ShapeError, match=r"tokens have shape \[1, 2\]"):
        ops.embed_rms_norm(torch.zeros(1, 2, dtype=torch.int64), hidden, weight, EPS)
    with pytest.raises(errors.DtypeError, match=r"tokens are torch.int32"):
        ops.embed_rms_norm(torch.zeros(2, dtype=torch.int32), hidden, weight, EPS)
    with pytest.raises(errors.DeviceError, match=r"tokens are on cpu; the embedding is on meta"):
        ops.embed_rms_norm(torch.zeros(2, dtype=torch.int64), hidden.to("meta"), weight.to("meta"), EPS)
    for tables in [(hidden, weight), (hidden, torch.ones(3, 4)), (hidden, torch.ones(2, 0))]:
        with pytest.raises(errors.ShapeError, match=r"the tables have shapes \[2, 4\] and \["):
            ops.take_rows(torch.tensor([0]), *tables)
    with pytest.raises(errors.DtypeError, match=r"the other table is torch.float16"):
        ops.take_rows(torch.tensor([0]), hidden, hidden.half())
    with pytest.raises(errors.DtypeError, match=r"ids are torch.int32"):
        ops.take_rows(torch.zeros(2, dtype=torch.int32), hidden, hidden)
    with pytest.raises(IndexError):
        ops.take_rows(torch.tensor([2]), hidden, hidden)
    with pytest.raises(errors.ShapeError, match=r"gate_up has shape \[2, 3\]"):
        ops.silu_mul(hidden[:, :3])
    for product in (ops.linear_few_rows, ops.gated_linear):
        with pytest.raises(errors.ShapeError, match=r"shapes \[2, 4\] and \[3, 5\]; they need"):
            product(hidden, torch.ones(3, 5))
    with pytest.raises(errors.ShapeError, match=r"gate_up has shape \[3, 4\]; it needs"):
        ops.gated_linear(hidden, torch.ones(3, 4))
    wide, weight = torch.ones(2, 128), torch.ones(6, 128)
    panels = panels_of(weight).contiguous()
    torch.testing.assert_close(ops.gated_linear(wide, weight, panels=panels), ops.gated_linear(wide, weight))
    for wrong in (panels_of(weight), panels[:1], weight):
        with pytest.raises(errors.ShapeError, match=r"of a weight \[6, 128\] they are \[128 / 64, 6, 64\]"):
            ops.gated_linear(wide, weight, panels=wrong)
    with pytest.raises(errors.ShapeError, match=r"of a weight \[6, 100\]"):
        ops.gated_linear(torch.ones(2, 100), torch.ones(6, 100), panels=torch.ones(1, 6, 64))
    with pytest.raises(errors.DtypeError, match=r"panels is torch.float64"):
        ops.gated_linear(wide, weight, panels=panels.double())


@pytest.mark.parametrize(
    ("parts", "error", "match"),
    [
        (
            torch.ones(2, 2, 3),
            errors.ShapeError,
            r"shapes \[2, 2, 3\] and \[2, 4\]; they need \[parts, tokens",
        ),
        (torch.ones(2, 4), errors.ShapeError, r"shapes \[2, 4\] and"),
        (torch.ones(0, 2, 4), errors.ShapeError, r"shapes \[0, 2, 4\]"),
        (
            torch.ones(2, 2, 4).half(),
            errors.DtypeError,
            "parts is torch.float16; the rows are torch.float32",
        ),
        (
            torch.ones(2, 2, 4, device="meta"),
            errors.DeviceError,
            "parts is on meta; the rows are on cpu",
        ),
    ],
)
def test_parts_that_do_not_fit_change_nothing(parts, error, match):
    residual = torch.ones(2, 4)
    with pytest.raises(error, match=match):
        ops.add_parts_rms_norm(parts, residual, torch.ones(4), EPS)
    assert residual.eq(1).all()


@pytest.mark.parametrize(
    ("residual", "norm", "error", "match"),
    [
        (torch.ones(2, 5), torch.ones(5), errors.ShapeError, r"shape \[2, 5\]; the product has \[2, 3\]"),
        (torch.ones(2, 3), torch.ones(4), errors.ShapeError, r"shapes \[2, 3\] and \[4\]"),
        (torch.ones(2, 3).half(), torch.ones(3).half(), errors.DtypeError, r"residual is torch.float16"),
        (torch.ones(2, 3), torch.ones(3).half(), errors.DtypeError, r"weight is torch.float16"),
    ],
)  # fmt: skip
def test_what_is_added_to_no_such_residual_changes_nothing(residual, norm, error, match):
    with pytest.raises(error, match=match):
        ops.add_linear(torch.ones(2, 4), torch.ones(3, 4), residual, norm)
    assert residual.eq(1).all()


@pytest.mark.parametrize(
    ("squares", "error", "match"),
    [
        (torch.ones(1, 2), errors.ShapeError, r"shape \[1, 2\] .* of x \[2, 4\] they are \[1, 8\]"),
        (torch.ones(2, 8), errors.ShapeError, r"shape \[2, 8\]"),
        (torch.ones(8, 2).T[:1], errors.ShapeError, r"strides \(1, 2\); .* contiguous"),
        (torch.ones(1, 8).double(), errors.DtypeError, r"are torch.float64; of rows in torch.float32"),
        (torch.ones(1, 8, device="meta"), errors.DeviceError, r"squares are on meta; the rows are on cpu"),
    ],
)  # fmt: skip
def test_no_such_squares_divide(squares, error, match):
    for product in (ops.linear_few_rows, ops.gated_linear):
        with pytest.raises(error, match=match):
            product(torch.ones(2, 4), torch.ones(6, 4), squares, EPS)


@pytest.fixture
def a_hopper(monkeypatch):
    """Tensors of this machine pass for a Hopper device's, as far as refusals look."""
    monkeypatch.setattr(ops, "why_not", lambda device: None)
    monkeypatch.setattr(ops, "is_hopper", lambda device: True)


def test_what_the_undivided_kernels_do_not_take(a_hopper):
    x, weight, residual, norm = (torch.ones(shape, dtype=BF16) for shape in [(3, 64), (8, 64), (3, 8), (8,)])
    assert ops._adding_refusal(x, weight, residual, norm) is None
    apart, word = torch.ones(16, dtype=BF16)[::2], torch.ones(9, dtype=BF16)[1:]
    for other in (apart, word, torch.ones(1, dtype=BF16).expand(8)):
        assert "contiguous, their words of two" in str(ops._adding_refusal(x, weight, residual, other))
    assert "contiguous" in str(ops._adding_refusal(x, weight, residual.T.contiguous().T, norm))
    many = torch.ones(129, 64, dtype=BF16)
    assert "129 rows; the kernel takes 128" in str(ops._adding_refusal(many, weight, residual, norm))
    squares = torch.ones(1, 8)
    assert ops._few_rows_refusal(x, weight, squares) is None
    assert "129 rows; the kernel takes 128" in str(ops._few_rows_refusal(many, weight, torch.ones(1, 136)))
    misplaced = torch.ones(9)[1:].view(1, 8)
    ops._check_squares(misplaced, x)
    assert "multiple of 16 bytes" in str(ops._few_rows_refusal(x, weight, misplaced))


def test_norms_lose_their_kernels_where_all_matrices_fit(a_hopper, monkeypatch):
    """In bfloat16: numbers that are not divided yet may be past the ends of float16."""
    fits, narrow, wide = (torch.ones(shape, dtype=BF16) for shape in [(64,), (64, 64), (72, 64)])
    assert ops.few_rows_of(fits, [narrow], [wide]).undivided == hopper.UNDIVIDED_ROWS
    assert ops.few_rows_of(fits.half(), [narrow.half()], [wide.half()]).undivided == 0
    for matrices in ([narrow], [wide[:68]]), ([narrow[:, :32]], [wide]):
        assert ops.few_rows_of(fits, *matrices).undivided == 0
    monkeypatch.setattr(ops, "is_hopper", lambda device: False)
    assert ops.few_rows_of(fits, [narrow], [wide]) == ops.FewRows(narrow=8)


@pytest.mark.parametrize("parts", [0, 5])
def test_k_has_no_such_parts(parts):
    with pytest.raises(errors.InvalidArgumentError, match=rf"parts={parts} is not from 1 to k=4"):
        ops.linear_parts(torch.ones(2, 4), torch.ones(3, 4), parts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_what_the_linear_kernel_does_not_take(dtype):
    fits = torch.ones(8, 16, dtype=dtype)
    refused = ops._linear_refusal(fits, fits)
    assert (refused is None) == (dtype == torch.float16)
    if refused is None:
        assert "9 rows; the kernel takes 8" in str(ops._linear_refusal(torch.ones(9, 16, dtype=dtype), fits))
        narrow, strided, apart = fits[:, 1:9], fits.T[:8].T[:, ::2], fits[:, :8]
        contiguous = apart.contiguous()
        for x, weight in [(narrow, contiguous), (strided, contiguous[:, :4]), (contiguous, apart)]:
            assert "aligned 16 bytes" in str(ops._linear_refusal(x, weight))


@on_device
@pytest.mark.parametrize("tokens", [0, 1, 7, 300])
@pytest.mark.parametrize(("size", "apart"), WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_on_a_device(dtype, size, apart, tokens):
    check_norms(ops.rms_norm, ops.add_rms_norm, F.rms_norm, tokens, size, dtype, apart, "cuda")
    check_embedded(ops.embed_rms_norm, F.rms_norm, tokens, size, dtype, apart, "cuda")


@on_device
@pytest.mark.parametrize("tokens", [0, 1, 7, 300])
@pytest.mark.parametrize(("size", "apart"), WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_taken_on_a_device(dtype, size, apart, tokens):
    check_taken(ops.take_rows, tokens, (size, 6144), dtype, apart, "cuda")


@on_device
@pytest.mark.parametrize("tokens", [0, 1, 7, 1000])
@pytest.mark.parametrize("size", [14336, 896, 257, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silu_mul_on_a_device(dtype, size, tokens):
    gate_up = 20 * rows(tokens, 2 * size, dtype, apart=16, device="cuda")
    gate, up = gate_up.chunk(2, dim=1)
    # float16 has few bits for the smallest gates
    # Devices' exponentials differ by a bit: silu may round to its neighbour, and the product once more.
    assert_close(ops.silu_mul(gate_up), F.silu(gate) * up, scale=0.01, roundings=2)


@on_device
@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 31, 64, 65, 100, 128, 129, 185, 200, 256, 257])
@pytest.mark.parametrize(("n", "k"), [(6144, 4096), (4096, 14336), (17, 72), (33, 8), (100, 320)])
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_few_rows_on_a_device(dtype, n, k, count):
    x, weight = (rows(length, k, dtype, device="cuda") for length in (count, n))
    expected = F.linear(x.double(), weight.double()).to(dtype)
    assert_close(ops.linear_few_rows(x, weight), expected, scale=k**0.5)


@on_device
@pytest.mark.parametrize(
    "count",
    [
        0,
        1,
        8,
        33,
        64,
        65,
        90,
        107,
        128,
        185,
        192,
        256,
        257,
        *(size - size % 3 for size in range(136, 248, 8)),
    ],
)
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (4096, 14336), (2048, 2048), (100, 320), (100, 64)])
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_linear_parts_on_a_device(dtype, n, k, count):
    """Each part is that of its own k: chunks of 64, among parts and blocks as evenly as they can be."""
    x, weight = (rows(length, k, dtype, device="cuda") for length in (count, n))
    parts = ops.linear_parts(x, weight, ops.PARTS)
    assert parts.shape == (ops.PARTS, count, n)
    exact = F.linear(x.double(), weight.double())
    # A part is rounded, and what of it a block passes on to another: of numbers of up to five times sqrt(k).
    assert_close(parts.double().sum(0).to(dtype), exact.to(dtype), scale=4 * k**0.5)
    first = k // 64 // ops.PARTS * 64 if 0 < count <= 256 else k // ops.PARTS
    of_first = F.linear(x[:, :first].double(), weight[:, :first].double())
    assert_close(parts[0].contiguous(), of_first.to(dtype), scale=2 * k**0.5)


@on_device
@pytest.mark.parametrize("count", [0, 1, 7, 8, 33, 64, 65, 90, 96, 107, 112, 113, 128, 129])
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (4096, 14336), (2048, 2048), (100, 320), (4, 64)])
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_add_linear_on_a_device(dtype, n, k, count):
    x, weight, residual = (rows(*shape, dtype, device="cuda") for shape in [(count, k), (n, k), (count, n)])
    weight, norm, before = weight / k**0.5, rows(1, n, dtype, device="cuda")[0], residual.clone()
    scaled, squares = ops.add_linear(x, weight, residual, norm)
    product = F.linear(x.double(), weight.double()).to(dtype)
    # A product that rounds to its neighbour, and the sum once more, where they cancel.
    assert_close(residual, before + product, scale=4.0, roundings=2)
    assert torch.equal(scaled, residual * norm)
    assert squares.shape == (-(-n // 64), -(-count // 8) * 8)
    exact = F.pad(residual.float(), (0, -n % 64)).square().view(count, -(-n // 64), 64).sum(2).T
    torch.testing.assert_close(squares[:, :count], exact, rtol=1e-5, atol=1e-6)


@on_device
@pytest.mark.parametrize("count", [0, 1, 7, 8, 33, 64, 65, 90, 96, 107, 112, 113, 128, 129])
@pytest.mark.parametrize(("n", "k"), [(28672, 4096), (6144, 4096), (32000, 4096), (200, 192), (8, 64)])
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_products_that_divide_on_a_device(dtype, n, k, count):
    """Rows of all sizes come out as those of a norm do."""
    x, weight = rows(count, k, dtype, device="cuda"), rows(n, k, dtype, device="cuda") / k**0.5
    x *= 2.0 ** torch.randint(-6, 6, (count, 1), device="cuda")
    squares = F.pad(x.float().square().view(count, k // 64, 64).sum(2).T, (0, -count % 8), value=float("nan"))
    root = (x.double().square().mean(1, keepdim=True) + EPS).sqrt()
    exact = (F.linear(x.double(), weight.double()) / root).to(dtype)
    squares = squares.contiguous()
    assert_close(ops.linear_few_rows(x, weight, squares, EPS), exact, scale=1.0, roundings=2)
    gated = ops.gated_linear(x, weight, squares, EPS)
    assert_close(gated, ops.silu_mul(exact), scale=1.0, roundings=5)


@on_device
@pytest.mark.parametrize("tokens", [0, 1, 9, 256])
@pytest.mark.parametrize("size", [4096, 14336, 40960, 255])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_of_parts_on_a_device(dtype, size, tokens):
    for parts in (1, 2, 3):
        check_norm_of_parts(ops.add_parts_rms_norm, F.rms_norm, parts, tokens, size, dtype, device="cuda")


@on_device
@pytest.mark.parametrize(
    "count", [0, 1, 13, 32, 33, 64, 65, 90, 128, 129, 140, 150, 155, 190, 192, 193, 208, 250, 256, 257, 1024]
)
@pytest.mark.parametrize(("n", "k"), [(28672, 4096), (200, 192), (6, 64)])
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_gated_linear_on_a_device(dtype, n, k, count):
    check_gated(ops.gated_linear, count, n, k, dtype)


@on_hopper
@pytest.mark.parametrize("count", [0, 1, 257, 640, 1000, 1024, 4100])
@pytest.mark.parametrize(("n", "k"), [(28672, 4096), (4096, 64), (200, 192), (520, 320)])
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_gated_linear_of_many_rows_on_a_device(dtype, n, k, count):
    """With more and with fewer tiles than the device takes at once, and with parts of tiles."""
    check_gated(hopper.many_rows_hopper, count, n, k, dtype)


def check_gated(product, count, n, k, dtype):
    x, weight = rows(count, k, dtype, device="cuda"), rows(n, k, dtype, device="cuda") / k**0.5
    both = F.linear(x.double(), weight.double()).to(dtype)
    # A sum that rounds to its neighbour takes its gate with it.
    assert_close(product(x, weight), ops.silu_mul(both), scale=1.0, roundings=4)


@on_hopper
@pytest.mark.parametrize("count", [1, 33, 72, 129, 200, 256, 257, 1024])
@pytest.mark.parametrize(("n", "k"), [(28672, 4096), (200, 192)])
@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_gated_linear_reads_panels_on_a_device(dtype, n, k, count):
    """Bit for bit the same, without a look at the weight itself."""
    x, weight = rows(count, k, dtype, device="cuda"), rows(n, k, dtype, device="cuda") / k**0.5
    panels, unread = panels_of(weight).contiguous(), torch.full_like(weight, float("nan"))
    product = ops.gated_linear if count <= 256 else hopper.many_rows_hopper
    assert torch.equal(product(x, unread, panels=panels), product(x, weight))
    if count <= 128:
        squares = torch.rand(k // 64, -(-count // 8) * 8, device="cuda")
        divided = ops.gated_linear(x, weight, squares, EPS)
        assert torch.equal(ops.gated_linear(x, unread, squares, EPS, panels), divided)


@pytest.mark.parametrize(
    ("rows", "gated", "parted"),
    [(1, 64, 64), (64, 64, 64), (65, -80, -80), (96, -96, -96), (112, 128, -112), (128, 128, 128),
     (129, -136, -136), (145, -152, -152), (160, -160, -160), (161, 192, -168), (177, 192, -184),
     (185, 192, 192), (193, -200, -200), (208, -208, -208), (209, 256, -216), (240, 256, -240),
     (241, 256, 256)],
)  # fmt: skip
def test_the_weight_s_rows_come_first_where_fewer_of_x_are_multiplied(rows, gated, parted):
    """Of Mistral 7B's matrices: rows of x that a product takes, negative where the weight's come first."""
    for matrix, expected in [((28_672, True, 1), gated), ((4096, False, ops.PARTS), parted)]:
        build = hopper.hopper_build(rows, *matrix, 132)
        assert build.tokens * (-1 if build.weight_first else 1) == expected
        assert rows <= build.tokens
        assert build.stages >= 4


@pytest.mark.parametrize(
    ("rows", "tokens"), [(1, 64), (64, 64), (65, -80), (96, -96), (112, -112), (113, 128)]
)
def test_what_is_added_to_the_residual_has_tiles_whose_squares_are_whole(rows, tokens):
    build = hopper.hopper_build(rows, 4096, False, 1, 132, adds=True)
    assert build.tokens * (-1 if build.weight_first else 1) == tokens
    assert (build.columns, build.splits) == (hopper.ADDING_COLUMNS, hopper.ADDING_SPLITS)
    assert build.stages >= 7


@pytest.mark.parametrize(
    ("rows", "full"), [(257, False), (512, False), (1024, True), (1280, False), (1792, True), (2048, True),
                       (8000, True), (8192, True)],
)  # fmt: skip
def test_many_rows_fill_the_device(rows, full, monkeypatch):
    """Of Mistral 7B's gate and up on 132 multiprocessors: 112 pairs of tiles for 256 rows, 66 at once."""
    monkeypatch.setattr(hopper, "multiprocessors", lambda device: 132)
    assert hopper.fill_the_device(rows, 28_672, torch.device("cpu")) == full


@on_device
def test_extreme_gates_on_a_device():
    gate = torch.tensor(
        [[0.0, -0.0, 90.0, -90.0, 1e4, -1e4, float("inf"), float("-inf"), float("nan")]]
    ).cuda()
    for dtype in DTYPES:
        gate_up = torch.cat([gate, torch.ones_like(gate)], 1).to(dtype)
        plain = F.silu(gate_up[:, :9])
        torch.testing.assert_close(
            ops.silu_mul(gate_up).float(), plain.float(), equal_nan=True, rtol=8e-3, atol=1e-30
        )


@on_device
def test_a_graph_replays_a_chain_of_them_on_new_values():
    """Each kernel begins while the one before it ends: they must wait where they read."""
    size, inner = 1024, 2048
    weights = [rows(*shape, BF16, device="cuda") / 30 for shape in [(2 * inner, size), (size, inner)]]
    norm_weight = rows(1, size, BF16, device="cuda")[0]
    hidden, residual = (rows(6, size, BF16, device="cuda") for _ in range(2))

    def chain(norm, add_norm, silu, linear, gated):
        for number in range(4):
            normed = add_norm(hidden, residual, norm_weight, EPS)
            act = gated(normed, weights[0]) if number % 2 else silu(linear(normed, weights[0]))
            hidden.copy_(linear(act, weights[1]))
        return norm(hidden, norm_weight, EPS)

    def add_plainly(hidden, residual, weight, eps):
        return F.rms_norm(residual.add_(hidden), weight.shape, weight, eps)

    def plain_norm(hidden, weight, eps):
        return F.rms_norm(hidden, weight.shape, weight, eps)

    def plain_silu(x):
        return F.silu(x.chunk(2, 1)[0]) * x.chunk(2, 1)[1]

    fused = ops.rms_norm, ops.add_rms_norm, ops.silu_mul, ops.linear_few_rows, ops.gated_linear
    plain = plain_norm, add_plainly, plain_silu, F.linear, lambda x, weight: plain_silu(F.linear(x, weight))
    chain(*fused)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = chain(*fused)
    for _ in range(20):
        start = [rows(6, size, BF16, device="cuda") for _ in range(2)]
        results = []
        for run in (graph.replay, lambda: output.copy_(chain(*plain))):
            hidden.copy_(start[0])
            residual.copy_(start[1])
            run()
            results.append([output.float().clone(), residual.float().clone()])
        for ours, expected in zip(*results, strict=True):
            assert (ours - expected).norm() <= 0.02 * expected.norm()


@on_device
@pytest.mark.parametrize("count", [6, 70, 128])
def test_a_graph_replays_a_chain_of_undivided_norms(count):
    """What a product adds to, and leaves to the next one, while kernels overlap."""
    size, inner = 1024, 2048
    weights = [rows(*shape, BF16, device="cuda") / 30 for shape in [(2 * inner, size), (size, inner)]]
    norm = 1 + rows(1, size, BF16, device="cuda")[0] / 8
    start, residual = (rows(count, size, BF16, device="cuda") for _ in range(2))

    def chain():
        scaled, squares = ops.add_linear(start, weights[1][:, :size].contiguous(), residual, norm)
        for _ in range(4):
            middle = ops.gated_linear(scaled, weights[0], squares, EPS)
            scaled, squares = ops.add_linear(middle, weights[1], residual, norm)
        return ops.linear_few_rows(scaled, weights[0], squares, EPS)

    def plainly():
        residual.add_(F.linear(start, weights[1][:, :size]))
        for _ in range(4):
            gate, up = F.linear(F.rms_norm(residual, (size,), norm, EPS), weights[0]).chunk(2, 1)
            residual.add_(F.linear(F.silu(gate) * up, weights[1]))
        return F.linear(F.rms_norm(residual, (size,), norm, EPS), weights[0])

    chain()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = chain()
    for _ in range(20):
        first, before = (rows(count, size, BF16, device="cuda") for _ in range(2))
        results = []
        for run in (graph.replay, lambda: output.copy_(plainly())):
            start.copy_(first)
            residual.copy_(before)
            run()
            results.append([output.float().clone(), residual.float().clone()])
        for ours, expected in zip(*results, strict=True):
            assert (ours - expected).norm() <= 0.02 * expected.norm()


@on_device
def test_float64_is_computed_plainly_and_said(caplog, monkeypatch):
    monkeypatch.setattr("nano_batch.cuda.loud._said", set())
    hidden, weight = torch.randn(3, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    ours = ops.rms_norm(hidden.cuda(), weight.cuda(), EPS)
    torch.testing.assert_close(ours.cpu(), ops.rms_norm(hidden, weight, EPS))
    assert "RMSNorm is computed by plain PyTorch: the kernel does not take torch.float64" in caplog.text
