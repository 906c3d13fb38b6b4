"""The exercises of `03_continuous_batching` and `05_policies_and_preemption`."""

from __future__ import annotations

from typing import Any

import numpy as np

from nano_batch.lessons.accounts import preemptions
from nano_batch.lessons.truth import Exercise, Truth
from nano_batch.records import Kind, Run
from nano_batch.simulator import simulate
from nano_batch.viz.table import Table
from nano_batch.workloads import Workload


def _served(
    prompts: tuple[int, ...], outputs: tuple[int, ...], arrivals: tuple[float, ...] = (), **options: Any
) -> Run:
    """Requests served a step a second, without a prefix cache."""
    times = np.array(arrivals) if arrivals else np.zeros(len(prompts))
    workload = Workload(times, np.array(prompts), np.array(outputs), name="the exercise")
    own = {"block_size": 4, "watermark": 0.0, "enable_prefix_caching": False, **options}
    return simulate(workload, cost=1.0, event_log=True, **own)


def _steps(run: Run, title: str, *names: str) -> Table:
    columns = [getattr(run.steps, name).tolist() for name in names]
    rows = tuple(tuple(f"{value:,.0f}" for value in row) for row in zip(*columns, strict=True))
    return Table(title, names, rows[:10])


def idle_slots() -> Truth:
    """03-1: what stands idle in static batches of two."""
    outputs = (8, 2, 5, 1)
    same: dict[str, Any] = {"num_blocks": 64, "max_num_seqs": 2, "max_num_batched_tokens": 64}
    static = _served((4,) * 4, outputs, policy="static", **same)
    refilled = _served((4,) * 4, outputs, **same)
    idle = int((2 - static.steps.running).sum())
    mistakes = {
        6.0: "That is the first batch; the second one has a short answer, too.",
        4.0: "That is the second batch; in the first one a slot waits longer still.",
        float((2 - refilled.steps.running).sum()): "That is where a slot is refilled at once.",
        0.0: "A slot whose request has ended is not refilled until the whole batch has ended.",
        float(len(static.steps)): "That is how many steps there are.",
    }
    why = "In each batch the shorter answer's slot waits for the longer one: (8 - 2) + (5 - 1)."
    table = _steps(static, "static batches of two", "step", "running", "waiting")
    return Truth(idle, why, mistakes, table, static)


def prompt_steps() -> Truth:
    """03-2: how many steps a prompt takes beside running decodes."""
    budget, decodes, prompt = 64, 4, 250
    run = _served(
        (4,) * decodes + (prompt,),
        (40,) * (decodes + 1),
        (0.0,) * decodes + (4.0,),
        num_blocks=512,
        max_num_seqs=8,
        max_num_batched_tokens=budget,
    )
    late = run.steps.start_s >= 4.0
    steps = int((run.steps.prefill_tokens[late] > 0).sum())
    mistakes = {
        float(-(-prompt // budget)): "The four decodes take their tokens from the budget first.",
        1.0: "The budget holds fewer tokens than the prompt has: it is cut.",
    }
    why = f"{budget} less {decodes} decodes leaves {budget - decodes} tokens of the prompt a step."
    shown = _steps(run, "from the step that it joins", "step", "prefill_tokens", "decode_tokens")
    first = int(np.flatnonzero(late)[0])
    rows = tuple(
        (f"{run.steps.step[at]}", f"{run.steps.prefill_tokens[at]}", f"{run.steps.decode_tokens[at]}")
        for at in range(first, first + steps + 1)
    )
    return Truth(steps, why, mistakes, Table(shown.title, shown.columns, rows), run)


def _two_that_outgrow(**options: Any) -> Run:
    return _served((20, 20), (24, 24), num_blocks=14, max_num_batched_tokens=64, **options)


def lost_tokens() -> Truth:
    """05-1: what the one that gives way computes again."""
    run = _two_that_outgrow()
    table = preemptions(run)
    (row,) = table.rows
    stored = int(row[table.columns.index("tokens stored")])
    again = int(row[table.columns.index("tokens computed again")])
    mistakes = {
        20.0: "Its prompt is lost, and the keys and values of what it has given since as well.",
        float(stored - 20): "That is what it has given; its prompt is lost, too.",
        float(stored + 1): "The token sampled last was never stored: it is computed for the first time.",
        43.0: "That is all it stores until its end; it gives way earlier.",
        56.0: "That is the memory; each of the two has about half of it.",
    }
    why = f"It had stored {stored} tokens when the memory was full; without a cache none is found again."
    return Truth(again, why, mistakes, table, run)


def moved_blocks() -> Truth:
    """05-2: what moves where the same one is swapped."""
    run = _two_that_outgrow(preemption="swap", num_swap_blocks=14)
    assert run.events is not None
    out = int((run.events.kind == Kind.SWAPPED_OUT).sum())
    back = int((run.events.kind == Kind.SWAPPED_IN).sum())
    mistakes = {
        float(out): "That many go out; they come back as well.",
        4.0 * out: "That is in tokens, one way; the question is in blocks, both ways.",
        0.0: "Nothing is computed again, but the blocks move.",
    }
    why = f"{out} blocks to the host and {back} back."
    return Truth(out + back, why, mistakes, preemptions(run), run)


EXERCISES = (
    Exercise(
        "03-1",
        asks="how many slot-steps stand idle",
        unit="slot-steps",
        hints=(
            "A batch of two runs until its longer answer has ended; only then the next two start.",
            "The step that computes a prompt gives its first token: an answer of 8 takes 8 steps.",
            "In each batch count the steps in which one of the two has ended already.",
        ),
        find=idle_slots,
    ),
    Exercise(
        "03-2",
        asks="in how many steps the prompt is computed",
        unit="steps",
        hints=(
            "Running requests decode first; what is left of the budget is for prompts.",
            "Four decodes take four tokens of the budget in every step.",
            "Divide the prompt by what is left, and round up.",
        ),
        find=prompt_steps,
    ),
    Exercise(
        "05-1",
        asks="how many tokens are computed again",
        unit="tokens",
        hints=(
            "Both grow alike, a token a step. At how many tokens each is the memory of 14 blocks full?",
            "Each holds 7 blocks of 4 at most. Who asks for the next one first, and who gives way?",
            "Everything that the loser has stored by then is gone.",
        ),
        find=lost_tokens,
    ),
    Exercise(
        "05-2",
        asks="how many blocks move, both ways",
        unit="blocks",
        hints=(
            "Swapping copies what the loser holds to the host, and back when it is admitted again.",
            "How many blocks does it hold when it gives way?",
            "Twice that many.",
        ),
        find=moved_blocks,
    ),
)
