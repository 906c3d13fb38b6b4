"""What lies between the matrices of a decoder layer, as operators of PyTorch: plain form, or kernels.

As operators they say what they change, so that `torch.compile` traces them; a CUDA graph can hold them, too,
for on CUDA the kernels wait for no host. On a CPU those of the core compute float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from nano_batch import cpu
from nano_batch.cuda.available import why_not
from nano_batch.cuda.launch import HOPPER, architecture, device_index, is_hopper
from nano_batch.cuda.loud import say_once
from nano_batch.cuda.operator import operator
from nano_batch.cuda.tensor_map import PANEL
from nano_batch.cuda.vectors import ACCESS_BYTES, KERNEL_DTYPES, SIXTEEN_BITS, vector_of
from nano_batch.errors import DeviceError, DtypeError, InvalidArgumentError, NanoBatchError, ShapeError
from nano_batch.models.cuda import hopper
from nano_batch.models.cuda import layer as on_cuda

PARTS = 2
"""Of k, of products whose sum a norm takes: with more what is written and read again takes longer."""


@dataclass(frozen=True)
class FewRows:
    """Up to how many rows of x this package's products are faster than PyTorch's (docs/notes/engine.md).

    Attributes:
        linear: `linear_few_rows`.
        narrow: the same, with a weight of fewer rows than columns or as many: PyTorch's library splits its
            sums there, and adds them up in a second kernel.
        gated: whether `gated_linear` has kernels; it chooses among them itself.
        parted: `linear_parts` for `add_parts_rms_norm`, of such a weight, in `PARTS`.
        undivided: `add_linear`, of such a weight, and the products that divide after it.
        panels: whether a layer's kernels take all of the matrices, and `gated_linear`'s read panels.
    """

    linear: int = 0
    narrow: int = 0
    gated: bool = False
    parted: int = 0
    undivided: int = 0
    panels: bool = False


def few_rows_of(
    weight: torch.Tensor, narrow: Iterable[torch.Tensor], others: Iterable[torch.Tensor]
) -> FewRows:
    """The limits for a weight's dtype and device; `narrow`: matrices before a norm, `others`: those after."""
    if cpu.takes(weight):
        return FewRows(cpu.MOST_ROWS, cpu.MOST_ROWS)
    if weight.dtype not in SIXTEEN_BITS or why_not(weight.device) is not None:
        return FewRows()
    if is_hopper(weight.device):
        fit = all(_hopper_takes(matrix, 4) for matrix in narrow)
        all_fit = fit and all(_hopper_takes(matrix, 8) for matrix in others)
        # Rows that are not divided yet may have numbers that float16 has not.
        undivided = hopper.UNDIVIDED_ROWS if all_fit and weight.dtype == torch.bfloat16 else 0
        return FewRows(128, 128, True, 256 if fit else 0, undivided, all_fit)
    return FewRows(narrow=on_cuda.FEW_ROWS)


def _fake_rows(hidden: torch.Tensor, *args: object) -> torch.Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


def _fake_embedded(
    tokens: torch.Tensor, embedding: torch.Tensor, *args: object
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = embedding.new_empty(tokens.shape[0], embedding.shape[1])
    return rows, torch.empty_like(rows)


def _fake_taken(
    ids: torch.Tensor, one: torch.Tensor, other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    count = ids.shape[0]
    return one.new_empty(count, one.shape[1]), other.new_empty(count, other.shape[1])


def _fake_normed(parts: torch.Tensor, residual: torch.Tensor, *args: object) -> torch.Tensor:
    return _fake_rows(residual)


def _fake_parts(x: torch.Tensor, weight: torch.Tensor, parts: int) -> torch.Tensor:
    return x.new_empty(parts, x.shape[0], weight.shape[0])


def _fake_added(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, norm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = hopper.squares_shape(*residual.shape)
    return torch.empty_like(residual), x.new_empty(shape, dtype=_wide(x))


def _fake_half(gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


def _fake_gated(x: torch.Tensor, gate_up: torch.Tensor, *args: object) -> torch.Tensor:
    return x.new_empty(x.shape[0], gate_up.shape[0] // 2)


def _fake_product(x: torch.Tensor, weight: torch.Tensor, *args: object) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@operator(_fake_rows)
def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return hidden / sqrt(mean(hidden²) + eps) * weight of each row (Zhang and Sennrich, 2019).

    Args:
        hidden: [tokens, size], floating point; sums and products are float32 (float64 for float64), and
            rounded once.
        weight: [size], of the same dtype and device.

    Raises:
        ShapeError, DtypeError, DeviceError: they do not fit together.
    """
    _check_rows(hidden, None, weight)
    if _on_kernel("RMSNorm", hidden, weight):
        return on_cuda.rms_norm(hidden, None, weight, eps)
    if cpu.takes(hidden, weight) and hidden.is_contiguous():
        return cpu.rms_norm(hidden, None, weight, eps)
    return F.rms_norm(hidden, weight.shape, weight, eps)


@operator(_fake_embedded)
def embed_rms_norm(
    tokens: torch.Tensor, embedding: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens' rows of the embedding, and `rms_norm` of them.

    Args:
        tokens: [tokens] int64, from 0 to below vocab_size. For any other the kernel's norm is NaN, and its
            row the first one's; without the kernel a negative one counts from the end, as an index does.
        embedding: [vocab_size, size], floating point.
        weight, eps: as for `rms_norm`.

    Raises:
        ShapeError, DtypeError, DeviceError: they do not fit together.
        IndexError: PyTorch's, without the kernel: the embedding has no such row.
    """
    _check_rows(embedding, None, weight, "embedding")
    _check_ids("tokens", tokens, "embedding", embedding)
    if _on_kernel("RMSNorm", embedding, weight):
        return on_cuda.embed_rms_norm(tokens, embedding, weight, eps)
    rows = embedding[tokens]
    return rows, rms_norm(rows, weight, eps)


@operator(_fake_taken)
def take_rows(ids: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of two tables that have these ids.

    Args:
        ids: [tokens] int64, from 0 to below rows. For any other the kernel's rows are NaN; without the kernel
            a negative one counts from the end, as an index does.
        one, other: [rows, size] and [rows, another size], floating point.

    Raises:
        ShapeError, DtypeError, DeviceError: they do not fit together.
        IndexError: PyTorch's, without the kernel: there is no such row.
    """
    if one.dim() != 2 or other.dim() != 2 or len(one) != len(other) or not one.numel() or not other.numel():
        shapes = f"{list(one.shape)} and {list(other.shape)}"
        raise ShapeError(f"the tables have shapes {shapes}; they need [rows, size] of as many rows")
    _check_alike("the other table", other, one)
    _check_ids("ids", ids, "table", one)
    if _on_kernel("the look-up of rows", one, other):
        return on_cuda.take_rows(ids, one, other)
    return one[ids], other[ids]


@operator(_fake_rows, "residual")
def add_rms_norm(
    hidden: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Add hidden to the residual in place, rounded to its dtype, and return `rms_norm` of that.

    Arguments and errors as for `rms_norm`; residual is as hidden, [tokens, size].
    """
    _check_rows(hidden, residual, weight)
    if _on_kernel("RMSNorm", hidden, residual, weight):
        return on_cuda.rms_norm(hidden, residual, weight, eps)
    if cpu.takes(hidden, residual, weight) and hidden.is_contiguous() and residual.is_contiguous():
        return cpu.rms_norm(hidden, residual, weight, eps)
    return F.rms_norm(residual.add_(hidden), weight.shape, weight, eps)


@operator(_fake_normed, "residual")
def add_parts_rms_norm(
    parts: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """`add_rms_norm` of what comes in parts: all are added in float32 (float64 for float64), rounded once.

    Args:
        parts: [parts, tokens, size], of the residual's dtype and device, as of `linear_parts`.
        residual, weight, eps: as for `add_rms_norm`.

    Raises:
        ShapeError, DtypeError, DeviceError: they do not fit together.
    """
    _check_parts(parts, residual)
    _check_rows(residual, None, weight)
    if _on_kernel("RMSNorm", residual, parts, weight):
        return on_cuda.rms_norm(parts, residual, weight, eps)
    return F.rms_norm(residual.copy_(parts.to(_wide(parts)).sum(0) + residual), weight.shape, weight, eps)


@operator(_fake_half)
def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up of rows that hold first gate, then up, each rounded once (Shazeer, 2020).

    Args:
        gate_up: [tokens, 2 * intermediate], floating point.

    Returns:
        [tokens, intermediate].

    Raises:
        ShapeError: it is no matrix of an even number of columns.
    """
    if gate_up.dim() != 2 or gate_up.shape[1] % 2 or not gate_up.shape[1]:
        raise ShapeError(f"gate_up has shape {list(gate_up.shape)}; it needs [tokens, 2 * intermediate]")
    if _on_kernel("silu(gate) * up", gate_up):
        return on_cuda.silu_mul(gate_up)
    if cpu.takes(gate_up) and gate_up.is_contiguous():
        return cpu.silu_mul(gate_up)
    gate, up = gate_up.chunk(2, dim=1)
    return F.silu(gate) * up


@operator(_fake_product)
def linear_few_rows(
    x: torch.Tensor, weight: torch.Tensor, squares: torch.Tensor | None = None, eps: float = 0.0
) -> torch.Tensor:
    """Return x weightᵀ, for so few rows that reading the weight is all the time it takes.

    Args:
        x: [rows, k], floating point. On CUDA the kernels take 16-bit elements: on Hopper at most 256 rows, k
            a multiple of 64, n of 4; elsewhere at most 8 rows, k a multiple of 8. On a CPU float32.
        weight: [n, k], of the same dtype and device.
        squares, eps: if x is a norm without its division, as `add_linear` leaves it, its squares and the
            norm's eps: the product is divided. On CUDA at most 128 rows then, on Hopper.

    Returns:
        [rows, n], sums in float32, rounded once; where two blocks share k, what one passes on to the other
        before, too, which in float16 is infinite above 65,504.

    Raises:
        ShapeError, DtypeError, DeviceError: they do not fit together.
    """
    _check_product(x, weight)
    if squares is not None:
        _check_squares(squares, x)
    if x.is_cuda:
        reason = _few_rows_refusal(x, weight, squares)
        if reason is None:
            return hopper.few_rows_hopper(x, weight, squares=squares, eps=eps)
        if squares is None and (len(x) <= on_cuda.FEW_ROWS or not is_hopper(x.device)):
            reason = why_not(x.device) or _linear_refusal(x, weight)
            if reason is None:
                return on_cuda.few_rows(x, weight)
        say_once(f"a linear layer of few rows is computed by plain PyTorch: {reason}", warn=True)
    if squares is not None:
        return _divided_linear(x, weight, squares, eps)
    if cpu.takes(x, weight) and x.is_contiguous() and weight.is_contiguous():
        return cpu.linear(x, weight)
    return F.linear(x, weight)


@operator(_fake_added, "residual")
def add_linear(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, norm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add x weightᵀ to the residual in place, and return its RMSNorm without the division.

    The product after it, which needs whole rows anyway, divides: so the norm takes no time of its own.

    Args:
        x, weight: as for `linear_few_rows`; a kernel takes at most 128 rows, on Hopper.
        residual: [rows, n]; the product is rounded to its dtype before it is added.
        norm: [n], the norm's weight.

    Returns:
        The residual times the norm's weight, [rows, n], and squares [tiles, rows rounded up to 8], float32
        (float64 for float64): the sums over 64 columns each of the residual's squares.

    Raises:
        ShapeError, DtypeError, DeviceError: they do not fit together.
    """
    _check_product(x, weight)
    _check_rows(residual, None, norm)
    if residual.shape != (x.shape[0], weight.shape[0]):
        sizes = f"{list(residual.shape)}; the product has {[x.shape[0], weight.shape[0]]}"
        raise ShapeError(f"residual has shape {sizes}")
    _check_alike("residual", residual, x)
    if x.is_cuda:
        reason = _adding_refusal(x, weight, residual, norm)
        if reason is None:
            return hopper.add_linear_hopper(x, weight, residual, norm)
        say_once(f"a linear layer is added to the residual by plain PyTorch: {reason}", warn=True)
    residual.add_(F.linear(x, weight))
    (rows, n), tile = residual.shape, hopper.ADDING_COLUMNS
    tiles, padded_rows = hopper.squares_shape(rows, n)
    padded = F.pad(residual.to(_wide(x)), (0, tiles * tile - n, 0, padded_rows - rows))
    squares = padded.square().view(padded_rows, tiles, tile).sum(2).T.contiguous()
    return residual * norm, squares


def _divided_linear(x: torch.Tensor, weight: torch.Tensor, squares: torch.Tensor, eps: float) -> torch.Tensor:
    wide = _wide(x)
    product = F.linear(x.to(wide), weight.to(wide))
    means = squares.sum(0)[: x.shape[0]] / x.shape[1]
    return (product * (means + eps).rsqrt().unsqueeze(1)).to(x.dtype)


@operator(_fake_parts)
def linear_parts(x: torch.Tensor, weight: torch.Tensor, parts: int) -> torch.Tensor:
    """x weightᵀ as `parts` sums, each over a part of k, for `add_parts_rms_norm` to add up.

    So the blocks that share a tile of the weight need not meet at its end; and of more than 128 rows tiles
    may be wider, so that x is read less often.

    Args:
        x, weight: as for `linear_few_rows`; a kernel takes them on Hopper.
        parts: at least 1.

    Returns:
        [parts, rows, n], of x's dtype: of parts that do not cancel two roundings are together as large as one
        of their sum. In float16 a part above 65,504 is infinite, whatever the sum.

    Raises:
        ShapeError, DtypeError, DeviceError: they do not fit together.
        InvalidArgumentError: there are no such parts of k.
    """
    _check_product(x, weight)
    k = x.shape[1]
    if not 1 <= parts <= k:
        raise InvalidArgumentError(f"parts={parts} is not from 1 to k={k}")
    if parts > 1 and x.is_cuda:
        reason = _few_rows_refusal(x, weight)
        if reason is None:
            return hopper.few_rows_hopper(x, weight, parts=parts)
        say_once(f"parts of a linear layer are computed by plain PyTorch: {reason}", warn=True)
    of_k = [slice(k * part // parts, k * (part + 1) // parts) for part in range(parts)]
    return torch.stack([F.linear(x[:, some], weight[:, some]) for some in of_k])


@operator(_fake_gated)
def gated_linear(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    squares: torch.Tensor | None = None,
    eps: float = 0.0,
    panels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return silu(x gateᵀ) * (x upᵀ), each rounded once (Shazeer, 2020).

    On Hopper by one kernel: up to 256 rows as `linear_few_rows`, more where their tiles fill the device.

    Args:
        x: [rows, k], floating point. The kernels take 16-bit elements, k a multiple of 64.
        gate_up: [2 * intermediate, k], first gate, then up, of the same dtype and device; for the kernels
            intermediate is a multiple of 4.
        squares, eps: as for `linear_few_rows`.
        panels: [k / 64, 2 * intermediate, 64], gate_up once more (`panels_of`), contiguous: what a block
            reads at a time lies together then, and memory gives it faster. The kernels read this one.

    Returns:
        [rows, intermediate].

    Raises:
        ShapeError, DtypeError, DeviceError: they do not fit together.
    """
    _check_product(x, gate_up)
    if len(gate_up) % 2:
        raise ShapeError(f"gate_up has shape {list(gate_up.shape)}; it needs [2 * intermediate, k]")
    if squares is not None:
        _check_squares(squares, x)
    if panels is not None:
        _check_panels(panels, gate_up)
    if not x.is_cuda:
        return silu_mul(linear_few_rows(x, gate_up, squares, eps))
    rows = x.shape[0]
    reason = _hopper_refusal(x, gate_up, 8) or _divided_refusal(x, squares)
    if reason is not None:
        say_once(f"silu(gate) * up is computed after its product: {reason}", warn=True)
    elif rows <= hopper.FEW_TOKENS[-1]:
        return hopper.few_rows_hopper(x, gate_up, True, squares=squares, eps=eps, panels=panels)
    elif hopper.fill_the_device(rows, len(gate_up), x.device):
        return hopper.many_rows_hopper(x, gate_up, panels)
    return silu_mul(F.linear(x, gate_up) if squares is None else _divided_linear(x, gate_up, squares, eps))


def _on_kernel(what: str, *tensors: torch.Tensor) -> bool:
    """Whether a kernel takes them; where it should and does not, the reason is logged."""
    if not tensors[0].is_cuda:
        return False
    reason = why_not(tensors[0].device) or _refusal(tensors)
    if reason is not None:
        say_once(f"{what} is computed by plain PyTorch: {reason}", warn=True)
    return reason is None


def _refusal(tensors: tuple[torch.Tensor, ...]) -> NanoBatchError | None:
    if tensors[0].dtype not in KERNEL_DTYPES:
        return DtypeError(f"the kernel does not take {tensors[0].dtype}")
    for tensor in tensors:
        if tensor.stride(-1) != 1:
            return ShapeError(f"a tensor has strides {tensor.stride()}; the kernel needs the last to be 1")
    return None


def _linear_refusal(x: torch.Tensor, weight: torch.Tensor) -> NanoBatchError | None:
    if x.dtype not in SIXTEEN_BITS:
        return DtypeError(f"the kernel does not take {x.dtype}")
    if len(x) > on_cuda.FEW_ROWS:
        return ShapeError(f"{len(x)} rows; the kernel takes {on_cuda.FEW_ROWS}")
    wide = ACCESS_BYTES // x.element_size()
    if vector_of(x.shape[1], wide, [x, weight]) < wide or x.stride(1) != 1 or not weight.is_contiguous():
        return ShapeError(f"rows of {x.shape[1]} elements do not lie in a row of aligned 16 bytes each")
    return None


def _few_rows_refusal(
    x: torch.Tensor, weight: torch.Tensor, squares: torch.Tensor | None = None
) -> NanoBatchError | None:
    too_many = _too_many(x, hopper.FEW_TOKENS[-1])
    return _hopper_refusal(x, weight, 4) or too_many or _divided_refusal(x, squares)


def _divided_refusal(x: torch.Tensor, squares: torch.Tensor | None) -> NanoBatchError | None:
    if squares is None:
        return None
    if squares.data_ptr() % ACCESS_BYTES:
        return ShapeError(f"squares do not begin at a multiple of {ACCESS_BYTES} bytes")
    return _too_many(x, hopper.UNDIVIDED_ROWS)


def _adding_refusal(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, norm: torch.Tensor
) -> NanoBatchError | None:
    reason = _hopper_refusal(x, weight, 4) or _too_many(x, hopper.UNDIVIDED_ROWS)
    lie_well = (
        residual.is_contiguous() and norm.is_contiguous() and vector_of(len(norm), 2, [residual, norm]) == 2
    )
    if reason is None and not lie_well:
        strides = f"residual and norm have strides {residual.stride()} and {norm.stride()}"
        reason = ShapeError(f"{strides}; they are to be contiguous, their words of two aligned")
    return reason


def _too_many(x: torch.Tensor, most: int) -> NanoBatchError | None:
    return ShapeError(f"{len(x)} rows; the kernel takes {most}") if len(x) > most else None


def _hopper_refusal(x: torch.Tensor, weight: torch.Tensor, n_multiple: int) -> NanoBatchError | None:
    if (reason := why_not(x.device)) is not None:
        return reason
    if not is_hopper(x.device):
        return DeviceError(
            f"the kernel runs on {HOPPER}; {x.device} is {architecture(device_index(x.device))}"
        )
    if x.dtype not in SIXTEEN_BITS:
        return DtypeError(f"the kernel does not take {x.dtype}")
    (n, k), wide = weight.shape, ACCESS_BYTES // x.element_size()
    aligned = vector_of(k, wide, [x]) == wide and x.stride(1) == 1
    if not aligned or not _hopper_takes(weight, n_multiple):
        return ShapeError(
            f"a weight of shape {[n, k]}, or x's strides {x.stride()}: rows are to begin at multiples of 16 "
            f"bytes, k to be a multiple of {PANEL}, n of {n_multiple}"
        )
    return None


def _hopper_takes(weight: torch.Tensor, n_multiple: int) -> bool:
    (n, k), wide = weight.shape, ACCESS_BYTES // weight.element_size()
    aligned = vector_of(k, wide, [weight]) == wide and weight.is_contiguous()
    return aligned and k % PANEL == 0 and n % n_multiple == 0


def _check_product(x: torch.Tensor, weight: torch.Tensor) -> None:
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or not weight.numel():
        shapes = f"{list(x.shape)} and {list(weight.shape)}"
        raise ShapeError(f"x and weight have shapes {shapes}; they need [rows, k] and [n, k]")
    _check_alike("weight", weight, x)


def _check_rows(
    hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, name: str = "hidden"
) -> None:
    if hidden.dim() != 2 or not hidden.shape[1] or weight.shape != hidden.shape[1:]:
        shapes = f"{list(hidden.shape)} and {list(weight.shape)}"
        raise ShapeError(f"{name} and weight have shapes {shapes}; they need [rows, size] and [size]")
    _check_alike("weight", weight, hidden)
    if residual is not None:
        if residual.shape != hidden.shape:
            raise ShapeError(f"residual has shape {list(residual.shape)}; hidden has {list(hidden.shape)}")
        _check_alike("residual", residual, hidden)


def _check_ids(name: str, ids: torch.Tensor, table_name: str, table: torch.Tensor) -> None:
    if ids.dim() != 1:
        raise ShapeError(f"{name} have shape {list(ids.shape)}; they need [tokens]")
    if ids.dtype != torch.int64:
        raise DtypeError(f"{name} are {ids.dtype}; they need to be torch.int64")
    if ids.device != table.device:
        raise DeviceError(f"{name} are on {ids.device}; the {table_name} is on {table.device}")


def _wide(tensor: torch.Tensor) -> torch.dtype:
    """Of the sums of its elements."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _check_parts(parts: torch.Tensor, residual: torch.Tensor) -> None:
    if parts.dim() != 3 or not len(parts) or parts.shape[1:] != residual.shape:
        shapes = f"{list(parts.shape)} and {list(residual.shape)}"
        raise ShapeError(
            f"parts and residual have shapes {shapes}; they need [parts, tokens, size] and [tokens, size]"
        )
    _check_alike("parts", parts, residual)


def _check_squares(squares: torch.Tensor, x: torch.Tensor) -> None:
    needed = hopper.squares_shape(*x.shape)
    if squares.shape != needed or not squares.is_contiguous():
        shape = f"shape {list(squares.shape)} and strides {squares.stride()}"
        raise ShapeError(f"squares have {shape}; of x {list(x.shape)} they are {list(needed)}, contiguous")
    if squares.dtype != _wide(x):
        raise DtypeError(f"squares are {squares.dtype}; of rows in {x.dtype} they are {_wide(x)}")
    if squares.device != x.device:
        raise DeviceError(f"squares are on {squares.device}; the rows are on {x.device}")


def _check_panels(panels: torch.Tensor, weight: torch.Tensor) -> None:
    n, k = weight.shape
    if panels.shape != (k // PANEL, n, PANEL) or k % PANEL or not panels.is_contiguous():
        shape = f"shape {list(panels.shape)} and strides {panels.stride()}"
        needed = f"[{k} / {PANEL}, {n}, {PANEL}], contiguous"
        raise ShapeError(f"panels have {shape}; of a weight {[n, k]} they are {needed}")
    _check_alike("panels", panels, weight)


def _check_alike(name: str, tensor: torch.Tensor, other: torch.Tensor) -> None:
    if tensor.dtype != other.dtype:
        raise DtypeError(f"{name} is {tensor.dtype}; the rows are {other.dtype}")
    if tensor.device != other.device:
        raise DeviceError(f"{name} is on {tensor.device}; the rows are on {other.device}")
