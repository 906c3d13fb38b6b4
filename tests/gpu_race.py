"""Decode steps of Mistral 7B raced with changed kernels, by turns in one process, on a machine with a GPU:

    cp -r nano_batch/models/cuda /tmp/mine && $EDITOR /tmp/mine/few_rows_hopper.cu
    PYTHONPATH=. python tests/gpu_race.py 8 64 128 256 --with mine=/tmp/mine

Each number is a step's rows, whose contexts are 200 to 520 tokens long. A folder has all sources of the one
that it stands for, and shared headers that were changed beside them. A line says how long a step takes as it
is, and by how many us a layer with each folder's; `again` is the same kernels once more, so that what it
differs by is noise. Above 128 rows power binds: there a variant's turn begins with untimed steps. Whether
results are equal is not looked at here: the tests do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from nano_batch.attention import DecodePlan
from nano_batch.benchmarks.on_gpu.timing import warm_up
from nano_batch.models import PagedInputs, load_mistral

SHORTEST, LONGEST, BLOCK_SIZE = 200, 520, 16
TURNS, REPLAYS = 24, {False: (0, 4), True: (4, 10)}
"""Rounds by turns; of a turn untimed and timed replays, up to 128 rows and above."""


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
        self.model.lay_out_panels()
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

    def captured(self, rows):
        """A graph of the step of the first rows, and what it must keep."""
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

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()  # compiles
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = step()
        return graph, (inputs, logits)


def microseconds(graph, replays):
    """Of a replay."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e3 / replays


def race(graphs, many):
    """The median of each: who begins a round changes."""
    names, times = list(graphs), {name: [] for name in graphs}
    untimed, timed = REPLAYS[many]
    warm_up()
    for turn in range(TURNS):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(untimed):
                graphs[name].replay()
            times[name].append(microseconds(graphs[name], timed))
    return {name: statistics.median(taken) for name, taken in times.items()}


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
        graphs, kept = {}, []
        for name, folder in folders.items():
            with kernels_of(folder):
                graphs[name], needed = steps.captured(rows)
                kept.append(needed)
        times = race(graphs, rows > 128)
        layers = steps.model.config.num_layers
        others = [f"{name} {(us - times['base']) / layers:+.2f}" for name, us in times.items()][1:]
        print(f"{rows} rows: {times['base']:.0f} us a step; us a layer more:", ", ".join(others), flush=True)


if __name__ == "__main__":
    main()
