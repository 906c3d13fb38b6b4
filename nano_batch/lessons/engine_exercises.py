"""The exercises of `08_paged_mistral`: what the engine's own scheduler does with its requests."""

from __future__ import annotations

from collections.abc import Sequence

from nano_batch.core import Engine, SchedulerOutput
from nano_batch.lessons.truth import Exercise, Truth
from nano_batch.records import Kind
from nano_batch.viz.table import Table

BLOCK = 16
FIRST_PROMPT, FIRST_OUTPUT = 20, 29
"""Of 08-1: together one token more than fills three blocks."""
PROMPT, OUTPUT = 32, 16
"""Of the conversation's first turn in 08-2: together three blocks, but for the token that is not stored."""
QUESTION = 8
"""Tokens that the second turn adds."""
ANSWER = 7
"""Every token that these models sample."""
SHARED, OWN = 40, 4
"""Of the two prompts of 08-3."""


def last_blocks() -> Truth:
    """08-1: blocks that a request holds when its last token is sampled."""
    engine = _engine()
    _serve(engine, "r", list(range(100, 100 + FIRST_PROMPT)), FIRST_OUTPUT)
    log = engine.events()
    taken = log.kind == Kind.ALLOCATED
    stored = FIRST_PROMPT + FIRST_OUTPUT - 1
    mistakes = {
        float(-(-(stored + 1) // BLOCK)): "No step reads the last token: nothing is stored of it.",
        float(-(-FIRST_PROMPT // BLOCK)): "The answer is stored, too.",
        float(stored): "So many tokens are stored; how many blocks do they fill?",
    }
    rows = tuple(
        (f"{step}", f"{FIRST_PROMPT + step - 1}", f"{block}")
        for step, block in zip(log.step[taken].tolist(), log.block[taken].tolist(), strict=True)
    )
    table = Table("where a block is taken", ("step", "tokens stored after it", "block"), rows)
    why = f"{stored} tokens are stored: the last one of the answer is never read."
    return Truth(int(taken.sum()), why, mistakes, table, engine)


def second_turn() -> Truth:
    """08-2: tokens that the next turn of a conversation finds in the cache."""
    engine, found = _conversation()
    whole = PROMPT + OUTPUT
    mistakes = {
        float(whole): "The last token of the answer was never stored, so that its block never became full.",
        float(whole - 1): "Whole blocks are found, not tokens.",
        0.0: "The history is the same, token by token, and its blocks are still there.",
        float(whole + QUESTION): "The new question was never computed before.",
    }
    rows = (
        ("first", f"{PROMPT}", f"{found[0]}"),
        ("second", f"{PROMPT + OUTPUT + QUESTION}", f"{found[1]}"),
    )
    table = Table("two turns", ("turn", "prompt (tokens)", "found in the cache"), rows)
    why = f"{whole - 1} tokens were stored: {(whole - 1) // BLOCK} full blocks of {BLOCK}."
    return Truth(found[1], why, mistakes, table, engine)


def computed_first() -> Truth:
    """08-3: tokens that the first step of a second request computes, of a prefix that ends inside a block."""
    engine = _engine()
    shared = list(range(100, 100 + SHARED))
    prompts = [[*shared, *range(first, first + OWN)] for first in (500, 600)]
    _start(engine, "a", prompts[0], OUTPUT)
    output = _start(engine, "b", prompts[1], OUTPUT)
    counts = dict(zip(output.scheduled_requests, output.num_tokens_per_request, strict=True))
    computed, whole = counts["b"], SHARED + OWN
    mistakes = {
        float(OWN): "The prefix ends inside a block: that block holds other tokens in each request.",
        float(whole): "Its first two blocks are a's, whole and the same: they are shared.",
        float(whole - computed): "So many are found; the others are computed.",
        float(SHARED): "That is the prefix; most of it is there already.",
    }
    rows = tuple((name, f"{whole}", f"{counts[name]}") for name in output.scheduled_requests)
    table = Table("the step that admits b", ("request", "prompt (tokens)", "computed"), rows)
    why = f"{SHARED // BLOCK} full blocks are shared: {whole} - {SHARED // BLOCK * BLOCK} are left."
    return Truth(computed, why, mistakes, table, engine)


def _engine() -> Engine:
    return Engine(24, BLOCK, max_num_seqs=8, max_num_batched_tokens=512, event_log=True)


def _step(engine: Engine) -> SchedulerOutput:
    output = engine.step()
    engine.update(dict.fromkeys(output.sampled_requests, ANSWER))
    return output


def _start(engine: Engine, name: str, prompt: Sequence[int], max_tokens: int) -> SchedulerOutput:
    """Queue a request and run the step that admits it."""
    engine.add_request(name, list(prompt), max_tokens=max_tokens)
    return _step(engine)


def _serve(engine: Engine, name: str, prompt: Sequence[int], max_tokens: int) -> int:
    """Serve a request to its end; the tokens of its prompt that were found in the cache."""
    found = _start(engine, name, prompt, max_tokens).num_cached_tokens[0]
    while engine.has_unfinished:
        _step(engine)
    return found


def _conversation() -> tuple[Engine, list[int]]:
    """Two turns, and what each of them found in the cache."""
    engine, first = _engine(), list(range(100, 100 + PROMPT))
    second = [*first, *[ANSWER] * OUTPUT, *range(900, 900 + QUESTION)]
    turns = {"turn 1": first, "turn 2": second}
    return engine, [_serve(engine, name, prompt, OUTPUT) for name, prompt in turns.items()]


EXERCISES = (
    Exercise(
        "08-1",
        asks="how many blocks the request holds when its last token is sampled",
        unit="blocks",
        hints=(
            "A token's keys and values are computed in the step that reads it, not in the one that gives it.",
            "Which token of the answer is read by no step?",
        ),
        find=last_blocks,
    ),
    Exercise(
        "08-2",
        asks="how many tokens of the second turn's prompt are found in the cache",
        unit="tokens",
        hints=(
            "Only blocks whose every slot was written are known to the cache.",
            "Count what the first turn stored, then its full blocks.",
        ),
        find=second_turn,
    ),
    Exercise(
        "08-3",
        asks="how many tokens of b the step that admits it computes",
        unit="tokens",
        hints=(
            "How many whole blocks do the two prompts begin with in common?",
            "What is not found is computed, in one step: the budget is large enough.",
        ),
        find=computed_first,
    ),
)
