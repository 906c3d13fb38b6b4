"""Run under AddressSanitizer by test_kernels_sanitized.py: attention, all allocations of their exact size.

Arguments: the folder of the libraries, the tests' folder, the source that the cases must choose, and what
a table entry is: `good`, `past` (the first block past the cache) or `before` it.
"""

from __future__ import annotations

import sys
from pathlib import Path

libraries, tests, source, entry = sys.argv[1:]
sys.path.insert(0, tests)

import torch  # noqa: E402
from attention_cases import Case  # noqa: E402

from cuda_on_cpu.device import cpu_device  # noqa: E402
from nano_batch.attention.cuda import plan  # noqa: E402

SIZES = {
    "decode.cu": [
        {"dtype": torch.bfloat16, "head_dim": 64, "group": 4, "block_size": 16},
        {"dtype": torch.bfloat16, "head_dim": 80, "group": 4, "block_size": 16, "fp8": True},
    ],
    "decode_hopper.cu": [{"dtype": torch.bfloat16, "head_dim": 64, "group": 4, "block_size": 16}],
    "decode_plain.cu": [{"dtype": torch.float32, "head_dim": 12, "group": 6, "block_size": 16}],
    "prefill.cu": [{"dtype": torch.bfloat16, "head_dim": 64, "group": 6, "block_size": 16}],
}[source]


COPIED = source == "decode_hopper.cu"  # which a settled plan takes, on Hopper


def exact(tensor):
    """The same layout in memory of its own, that ends where the tensor's last element does."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def decode(case):
    chosen = plan.variant_of(case.query, *case.views, case.table, False, COPIED)
    assert chosen.source == source
    return case.decode(backend="cuda", validate=False, plan=case.plan(settled=True) if COPIED else None)


def run(seed, contexts, sizes):
    attend, queries = decode, [1] * len(contexts)
    if source == "prefill.cu":
        attend, queries = Case.prefill_turning, [max(1, context // 2) for context in contexts]
    case = Case(seed, contexts, queries, **sizes)
    case.views = [exact(view) for view in case.views]
    if entry != "good":
        case.table[0, 1] = case.num_blocks if entry == "past" else -1
    for backwards in (False, True):
        options = {"multiprocessors": 3, "sanitize": True, "hopper": COPIED}
        with cpu_device(Path(libraries), backwards=backwards, **options):
            output = attend(case)
        case.check(output)


if entry == "good":
    for sizes in SIZES:
        for seed, contexts in enumerate([[33, 0, 150], [1], [0]]):
            run(seed, contexts, sizes)
else:
    run(0, [33, 150], SIZES[0])
print("all within")
