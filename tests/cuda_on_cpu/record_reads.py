"""Records which blocks the warps of the decode kernel read, and in which order: its source, run on this CPU.

    uv run python -m tests.cuda_on_cpu.record_reads

writes data/recorded/decode_reads.json anew. Every lane notes its loads (cpu_reads.h). The emulator runs
workers one after another, so that only the order within a warp means something.
"""

from __future__ import annotations

import os
import tempfile
from ctypes import c_int32
from pathlib import Path

import torch

from nano_batch.attention.cuda import SOURCES
from nano_batch.attention.cuda.decode import decode_arguments
from nano_batch.attention.cuda.plan import LEAST_TILES, PLAN_THREADS, SHARE_WORDS, plan_defines
from nano_batch.attention.cuda.variant import Variant, choose
from nano_batch.attention.dense import dense_attention
from nano_batch.lessons import small_step as small
from nano_batch.lessons.small_step import Read, Recording

from .build import CpuKernel

DTYPE = torch.bfloat16
MOST_ERROR = 3e-3


class Step:
    """The tensors of the small step."""

    def __init__(self) -> None:
        torch.manual_seed(small.SEED)
        rows, shape = (
            len(small.CONTEXTS),
            (small.NUM_BLOCKS, small.BLOCK_SIZE, small.KV_HEADS, small.HEAD_DIM),
        )
        self.query = torch.randn(rows, small.KV_HEADS * small.GROUP, small.HEAD_DIM).to(DTYPE)
        self.keys, self.values = (torch.randn(shape).to(DTYPE) for _ in range(2))
        self.table = torch.from_numpy(small.block_table())
        self.lens = torch.tensor(small.CONTEXTS, dtype=torch.int32)
        self.variant: Variant = choose(
            True, DTYPE, False, small.HEAD_DIM, small.GROUP, small.BLOCK_SIZE, torch.int32, False, True,
            self.keys.stride(1) * DTYPE.itemsize,
        )  # fmt: skip

    def check(self, output: torch.Tensor) -> None:
        """That the kernel whose reads are kept computes attention."""
        for row, length in enumerate(small.CONTEXTS):
            blocks = self.table[row, : -(-length // small.BLOCK_SIZE)].long()
            seen = [cache[blocks].flatten(0, 1)[:length] for cache in (self.keys, self.values)]
            expected = dense_attention(self.query[row : row + 1], *seen)[0]
            error = float((output[row] - expected).norm() / expected.norm())
            if not error <= MOST_ERROR:
                raise RuntimeError(f"row {row} of the kernel's output is off by {error:.2g}")


def record(folder: Path) -> Recording:
    """Run the plan and the kernel, compiled in `folder`."""
    step = Step()
    variant, heads, rows = step.variant, small.KV_HEADS * step.variant.parts_of_group, len(small.CONTEXTS)
    plan = torch.empty((SHARE_WORDS + 1) * small.WORKERS + rows, dtype=torch.int32)
    numbers = [c_int32(number) for number in (rows, heads, 0, small.WORKERS, LEAST_TILES)]
    planner = CpuKernel(SOURCES / "plan.cu", plan_defines(variant.tile, torch.int32), "plan", folder=folder)
    planner.launch((1, 1, 1), PLAN_THREADS, 4 * (rows + 1), [step.lens, *numbers, plan])
    shares = plan[: SHARE_WORDS * small.WORKERS].view(-1, SHARE_WORDS)[:, :4].tolist()

    parts = torch.empty(2 * small.WORKERS * variant.heads * (variant.head_dim + 2), dtype=torch.float32)
    output = torch.full_like(step.query, float("nan"))
    arguments = decode_arguments(
        variant, step.query, step.keys, step.values, step.table, plan, parts, output,
        small.HEAD_DIM**-0.5, 0.0, 0, None, None, 1.0,
    )  # fmt: skip
    decode = CpuKernel(SOURCES / variant.source, variant.defines(), "decode", folder=folder)
    noted, shared = folder / "reads.txt", variant.shared_bytes(small.WORKERS)
    noted.unlink(missing_ok=True)
    os.environ["NANO_BATCH_READS"] = str(noted)
    try:
        decode.launch((small.WORKERS, 1, 1), 32 * variant.warps, shared, arguments)
    finally:
        del os.environ["NANO_BATCH_READS"]
    step.check(output)
    return Recording(variant.warps, variant.tile, tuple(map(tuple, shares)), tuple(_reads(step, noted)))


def _reads(step: Step, noted: Path) -> list[Read]:
    """The tiles in the order of each warp, from the loads of its lanes.

    Raises:
        RuntimeError: keys and values of other tokens were read, or of no row.
    """
    where = {block: (row, at) for row, blocks in enumerate(step.table.tolist())
             for at, block in enumerate(blocks) if block >= 0}  # fmt: skip
    tokens: dict[tuple[int, int, int, int], tuple[set[int], set[int]]] = {}
    for line in noted.read_text().splitlines():
        worker, warp, _, address = map(int, line.split())
        of_values = 0 <= address - step.values.data_ptr() < step.values.nbytes
        cache = step.values if of_values else step.keys
        element = (address - cache.data_ptr()) // DTYPE.itemsize
        block, token, head = (element // cache.stride(i) % cache.shape[i] for i in range(3))
        # Lane 0 runs first and has a token of every tile: tiles come in the order of the warp's own program.
        tokens.setdefault((worker, warp, block, head), (set(), set()))[of_values].add(token)
    found: list[Read] = []
    for (worker, warp, block, head), (keys, values) in sorted(tokens.items(), key=lambda item: item[0][:2]):
        row, tile = where[block]
        if keys != values or keys != set(range(len(keys))):
            raise RuntimeError(f"of block {block} keys {keys} and values {values} are read")
        order = found[-1].order + 1 if found and (found[-1].worker, found[-1].warp) == (worker, warp) else 0
        found.append(Read(worker, warp, order, row, head, tile, block, len(keys)))
    return found


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        text = small.to_text(record(Path(folder)))
    small.RECORDED.parent.mkdir(parents=True, exist_ok=True)
    small.RECORDED.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
