"""A small matrix of the kernels of attention and the cache, for compute-sanitizer on a machine with a GPU:

    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    for tool in memcheck racecheck initcheck synccheck; do
        compute-sanitizer --tool $tool --report-api-errors no --error-exitcode 1 python tests/gpu_sanitize.py
    done

Everything is prepared, and checked, on the host. Without PyTorch's caching every tensor is an allocation of
its own, so that memcheck sees its end.
"""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import torch
from attention_cases import Case, check_writing

from nano_batch.attention import DecodePlan, cache_ops, paged_attention_fwd, paged_attention_prefill
from nano_batch.attention.cuda.plan import variant_of
from nano_batch.attention.fp8 import as_bits
from nano_batch.cuda.launch import is_hopper

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
DECODE = [
    {"dtype": BF16, "head_dim": 128, "group": 4, "block_size": 16},
    {"dtype": FP16, "head_dim": 80, "group": 6, "block_size": 7, "layout": "HND", "soft_cap": 3.0},
    {"dtype": BF16, "head_dim": 256, "group": 10, "block_size": 1, "integers": torch.int64},
    {"dtype": BF16, "head_dim": 64, "group": 8, "block_size": 32, "fp8": True},
    {"dtype": FP32, "head_dim": 12, "group": 6, "block_size": 16},
    {"dtype": FP16, "head_dim": 64, "group": 1, "block_size": 7, "fp8": True, "unaligned": True},
]


def on_device(tensor):
    """The same layout in memory of its own: one copy, no kernel."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    there = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
    # Gaps between rows are copied, too.
    size = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    as_bits(there).as_strided((size,), (1,)).copy_(as_bits(tensor).as_strided((size,), (1,)))
    return there


class Moved:
    """A case's tensors on the device, while the case itself, and what it must be, stay on the host."""

    def __init__(self, case):
        self.case = case
        self.views = [on_device(view) for view in case.views]
        self.query, self.table, self.lens = (on_device(one) for one in (case.query, case.table, case.lens()))
        self.options = {name: on_device(value) for name, value in case.options().items()}


def decode(sizes, window, few=True, settled=False):
    """Which source it took; settled: behind other kernels of a model."""
    print(f"decode {sizes}, window {window}, {'few' if few else 'many'} rows, {settled=}", flush=True)
    case = Case(1, [700, 0, 33, 1] * (1 if few else 13), [1] * (4 if few else 52), window=window, **sizes)
    moved = Moved(case)
    options = {"sliding_window": window, "soft_cap": case.soft_cap, "settled": settled}
    made = DecodePlan(moved.query, *moved.views, moved.table, **options)
    made.update(moved.lens)
    for _ in range(2):
        output = paged_attention_fwd(
            moved.query.unsqueeze(2), *moved.views, moved.table, moved.lens, case.block_size, **moved.options,
            backend="cuda", validate=False, plan=made,
        )  # fmt: skip
        case.check(output.squeeze(2).cpu())
    return variant_of(moved.query, *moved.views, moved.table, case.soft_cap is not None, settled).source


def move(dtype, stored, head_dim):
    """Tokens written, copied and gathered again, beside the same on the host."""
    results = []
    tokens = torch.randn(2, 5, 2, head_dim, generator=torch.Generator().manual_seed(1)).to(dtype)
    slots, pairs = torch.tensor([3, -1, 0, 14, 99]), torch.tensor([[0, 1], [1, 0], [-1, 3]])
    scales = [torch.tensor([0.02, 0.1]) for _ in range(2)] if stored != dtype else [None, None]
    for place in (lambda tensor: tensor, on_device):
        cache = place(torch.zeros(1, 2, 4, 4, 2, head_dim).to(stored))
        read = place(torch.zeros(2, 5, 2, head_dim, dtype=dtype))
        given, there = place(tokens), [place(scale) for scale in scales]
        cache_ops.write_kv(*given, *cache[0], place(slots), *there, *4 * [None])
        cache_ops.copy_blocks(cache, place(pairs))
        cache_ops.gather_kv(*read, *cache[0], place(slots), *there)
        results.append((as_bits(cache.cpu()), read.cpu()))
    for host, device in zip(*results, strict=True):
        assert torch.equal(host, device)


def prefill(contexts, queries, **sizes):
    case = Case(2, contexts, queries, dtype=BF16, **sizes)
    moved = Moved(case)
    output = paged_attention_prefill(
        moved.query, *moved.views, moved.table, moved.lens, on_device(case.starts()), case.block_size,
        **moved.options, backend="cuda", validate=False,
    )  # fmt: skip
    case.check(output.cpu())
    turned = Case(2, contexts, queries, dtype=BF16, device="cuda", **sizes)
    turned.check(turned.prefill_turning(3))


def main():
    sources = {decode(sizes, window) for sizes, window in itertools.product(DECODE, [None, 40])}
    decode(DECODE[0], None, few=False)
    assert sources == {"decode.cu", "decode_plain.cu"}
    copies = is_hopper(torch.device("cuda"))
    assert decode(DECODE[0], 40, settled=True) == ("decode_hopper.cu" if copies else "decode.cu")
    if copies:
        print("decode that writes keys and values", flush=True)
        case = Case(2, [700, 0, 33, 1], [1] * 4, device="cuda", **DECODE[0])
        check_writing(case, nullcontext(), nullcontext(), left={2})
    for dtype, stored, head_dim in [(BF16, BF16, 64), (FP32, FP32, 12), (BF16, torch.float8_e4m3fn, 128)]:
        move(dtype, stored, head_dim)
    prefill([70, 0, 33], [20, 1, 33], head_dim=64)
    # So many blocks that a multiprocessor of Hopper's takes three.
    prefill([190, 70], [90, 70], head_dim=128, kv_heads=8, group=16)
    torch.cuda.synchronize()
    print("all right")


if __name__ == "__main__":
    main()
