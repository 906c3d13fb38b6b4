"""Decode steps of Mistral 7B raced with changed kernels, by turns in one process, on a machine with a GPU:

    cp -r nano_batch/models/cuda /tmp/mine && $EDITOR /tmp/mine/few_rows_hopper.cu
    PYTHONPATH=. python tests/gpu_race.py 8 64 128 256 --with mine=/tmp/mine

Each number is a step's rows, whose contexts are 200 to 520 tokens long. A folder has all sources of the one
that it stands for, and shared headers that were changed beside them. A line says how long a step takes as it
is, and by how many us a layer with each folder's; `again` is the same kernels once more, so that what it
differs by is noise. Above 128 rows power binds: there the second half of a turn counts. Whether results are
equal is not looked at here: the tests do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from nano_batch.attention import DecodePlan
from nano_batch.benchmarks.on_gpu.timing import capture, kept_up, replayed, warm_up
from nano_batch.models import PagedInputs, load_mistral

SHORTEST, LONGEST, BLOCK_SIZE = 200, 520, 16
COLD_ROWS = 128
"""Of the largest step that power does not bind."""
TURNS, TURN_S = 6, 0.25
"""Of larger ones, for which a hot device counts."""


@contextmanager
def kernels_of(folder):
    """All that is compiled in here comes from a folder, if it has sources of these names."""
    changed = []
    for module in [module for name, module in sys.modules.items() if name.startswith("nano_batch.")]:
        sources = getattr(module, "SOURCES", None)
        if folder is not None and isinstance(sources, Path):
            names = {file.name for file in sources.glob("*.cu")}
            if names and names <= {file.name for file in folder.glob("*.cu")}:
                changed.append((module, sources))
                module.SOURCES = folder
    if folder is not None and not changed:
        raise SystemExit(f"{folder} does not have all sources of any folder of kernels")
    try:
        yield
    finally:
        for module, sources in changed:
            module.SOURCES = sources


class Steps:
    """A model with random weights, and sequences whose blocks lie anywhere in its cache."""

    def __init__(self, most):
        self.model = load_mistral("mistral-7b-v0.1", device="cuda", load_format="dummy")
        self.model.prepare()
        blocks = -(-LONGEST // BLOCK_SIZE)
        self.cache = self.model.new_cache(most * blocks, BLOCK_SIZE)
        for layer in range(self.model.config.num_layers):
            for cached in self.cache.layer(layer):
                cached.normal_()
        draw = torch.Generator().manual_seed(1)
        numbers = (
            torch.randint(SHORTEST, LONGEST, (most,), generator=draw),
            torch.randperm(most * blocks, generator=draw),
        )
        self.lens, order = (drawn.to("cuda", torch.int32) for drawn in numbers)
        self.table = order.view(most, blocks)
        self.tokens = torch.arange(most, device="cuda")
        self.captured_steps = []

    def captured(self, rows):
        """Graphs of steps of the first rows."""
        c, table, lens = self.model.config, self.table[:rows], self.lens[:rows]
        positions = lens - 1
        block = table.gather(1, (positions // BLOCK_SIZE).long()[:, None])[:, 0]
        query = torch.empty(rows, c.num_heads, c.head_dim, dtype=self.model.dtype, device="cuda")
        plan = DecodePlan(query, *self.cache.layer(0), table, sliding_window=c.sliding_window, settled=True)
        starts = torch.arange(rows + 1, dtype=torch.int32, device="cuda")
        inputs = PagedInputs(
            self.tokens[:rows], positions, block.long() * BLOCK_SIZE + positions % BLOCK_SIZE, table, lens,
            starts, num_decodes=rows, trusted=True, decode_plan=plan,
        )  # fmt: skip

        def step():
            plan.update(lens)
            return self.model.paged(inputs, self.cache)

        self.captured_steps.append(step)  # the graphs read its tensors
        return capture(lambda _: step(), 1)


def race(peers, rows):
    """Microseconds of a step of each, by turns."""
    if rows <= COLD_ROWS:
        return [spread.us for spread in replayed(peers)]
    warm_up()
    turns = [[kept_up(graphs, TURN_S) for graphs in peers] for _ in range(TURNS)]
    return [statistics.median(times) for times in zip(*turns, strict=True)]


def main():
    """Race what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+")
    parser.add_argument("--with", dest="folders", action="append", default=[], metavar="NAME=FOLDER")
    given = parser.parse_args()
    named = dict(folder.split("=", 1) for folder in given.folders)
    folders = {"base": None, **{name: Path(path).resolve() for name, path in named.items()}, "again": None}
    steps = Steps(max(given.rows))
    for rows in given.rows:
        peers = []
        for folder in folders.values():
            with kernels_of(folder):
                peers.append(steps.captured(rows))
        base, *others = race(peers, rows)
        layers = steps.model.config.num_layers
        more = [
            f"{name} {(us - base) / layers:+.2f}" for name, us in zip([*folders][1:], others, strict=True)
        ]
        print(f"{rows} rows: {base:.0f} us a step; us a layer more:", ", ".join(more), flush=True)


if __name__ == "__main__":
    main()
