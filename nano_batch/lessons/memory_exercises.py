"""The exercises of `02_fragmentation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from nano_batch.lessons.truth import Exercise, Truth
from nano_batch.records import Run
from nano_batch.simulator import simulate
from nano_batch.viz.table import Table
from nano_batch.workloads import Workload


def _served(prompts: tuple[int, ...], outputs: tuple[int, ...], **options: Any) -> Run:
    """Requests that come together, at most 4,096 tokens a step."""
    workload = Workload(np.zeros(len(prompts)), np.array(prompts), np.array(outputs), name="the exercise")
    own = {"max_num_batched_tokens": 4096, "watermark": 0.0, "enable_prefix_caching": False, **options}
    return simulate(workload, **own)


def _steps(run: Run, title: str, *names: str, first: int = 0) -> Table:
    """The columns of ten steps."""
    columns = [getattr(run.steps, name)[first:].tolist() for name in names]
    rows = tuple(tuple(f"{value:,}" for value in row) for row in zip(*columns, strict=True))
    return Table(title, names, rows[:10])


def never_written() -> Truth:
    """02-1: the slots of a request's last block that no token is ever stored in."""
    prompt, output, size = 300, 200, 64
    run = _served((prompt,), (output,), num_blocks=64, block_size=size, event_log=True)
    empty = int(run.steps.slots_internal.max())
    stored = prompt + output - 1
    mistakes = {
        float(-(prompt + output) % size): "The token sampled last is known, but never stored: one slot more.",
        (size - 1) / 2: "That is the mean over requests that end anywhere; this one's end is known.",
        float(stored % size): "That many slots of the last block are written; the question is the others.",
        0.0: "The last block is full only where the stored tokens are a multiple of its size.",
    }
    blocks = -(-stored // size)
    why = f"It stores {stored} tokens; {blocks} blocks of {size} have {blocks * size}."
    first = int((run.steps.slots_internal > 0).argmax())
    table = _steps(run, "one request", "step", "blocks_used", "slots_used", "slots_internal", first=first)
    return Truth(empty, why, mistakes, table, run)


def at_once() -> Truth:
    """02-2: how many requests run at once where the longest possible one is reserved."""
    memory, longest, prompt, output, count = 16_384, 2048, 100, 100, 100
    same = {"num_blocks": memory // 16, "block_size": 16}
    prompts, outputs = (prompt,) * count, (output,) * count
    run = _served(prompts, outputs, reservation="max", max_model_len=longest, **same)
    paged = _served(prompts, outputs, event_log=True, **same)
    first = int(run.steps.running.max())
    mistakes = {
        float(memory // (prompt + output)): "That many would fit if each took only what it will need.",
        float(
            memory // (prompt + output - 1)
        ): "So an oracle has it: what a request will store is not known.",
        float(memory // prompt): "The answer has to be stored too, and here it is reserved beforehand.",
        float(count): "They come together, but who has no region waits.",
    }
    why = f"{memory:,} / {longest:,}; paging runs {int(paged.steps.running.max())} of the same at once."
    table = _steps(run, f"{longest:,} tokens reserved for each", "step", "running", "waiting", "slots_used")
    return Truth(first, why, mistakes, table, paged)


def largest_hole() -> Truth:
    """02-3: four regions fill the memory; three of their requests end, a fifth wants more than any hole."""
    prompts, outputs = (298, 198, 251, 198, 551), (3, 3, 50, 3, 50)
    memory = 1000
    run = _served(prompts, outputs, reservation="oracle", num_blocks=memory, block_size=1)
    waits = run.steps.slots_wanted == prompts[4] + outputs[4] - 1
    hole = int(run.steps.slots_largest_hole[waits].max())
    stored = [one + two - 1 for one, two in zip(prompts, outputs, strict=True)]
    mistakes = {
        float(memory - stored[2]): "So much is free in all; c's region lies in between.",
        float(stored[0]): "a and b lay side by side: when both have gone, their holes are one.",
        float(stored[1]): "That is d's, or b's alone; b's lies beside a's.",
        float(stored[4]): "e wants that much; no hole is so large before c ends.",
    }
    why = f"a's {stored[0]} and b's {stored[1]} are one hole; d's {stored[3]} lie beyond c."
    names = ("step", "running", "waiting", "slots_largest_hole", "slots_wanted", "slots_external")
    table = _steps(run, "regions by first fit", *names)
    paged = _served(prompts, outputs, num_blocks=memory // 4, block_size=4, event_log=True)
    return Truth(hole, why, mistakes, table, paged)


EXERCISES = (
    Exercise(
        "02-1",
        asks="how many slots of its blocks are never written",
        unit="slots",
        hints=(
            "How many tokens does it store? Think of the last one that is sampled.",
            "Divide by the block size and round up: these blocks it takes.",
        ),
        find=never_written,
    ),
    Exercise(
        "02-2",
        asks="how many requests run at once, at most",
        unit="requests",
        hints=(
            "Nothing is known of a request's answer: the region must be large enough for any.",
            "So many regions of the greatest length fit into the memory.",
        ),
        find=at_once,
    ),
    Exercise(
        "02-3",
        asks="how many slots the largest hole has",
        unit="slots",
        hints=(
            "First fit puts the four regions one behind the other. Which of them are gone?",
            "Two holes that touch are one.",
        ),
        find=largest_hole,
    ),
)
