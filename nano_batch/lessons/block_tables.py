"""The exercises of `01_block_tables`."""

from __future__ import annotations

from collections.abc import Iterable

from nano_batch.core import Engine
from nano_batch.lessons.accounts import evictions, growth, preemptions
from nano_batch.lessons.experiments import hold_prefix, sharing
from nano_batch.lessons.truth import Exercise, Truth
from nano_batch.records import replay


def third_block() -> Truth:
    """01-1: a request grows until its third block."""
    size = 16
    engine = Engine(8, size, event_log=True)
    engine.add_request("one", range(30), max_tokens=20)
    output = engine.step()
    while len(output.block_tables[0]) < 3:
        _sample(engine, output.sampled_requests)
        output = engine.step()
    before = output.num_computed_tokens[0]
    after = before + output.num_tokens_per_request[0]
    _sample(engine, output.sampled_requests)
    mistakes = {
        float(
            before
        ): "That many are stored before the step: two full blocks. A full block alone needs no new "
        "one; the next token does.",
        float(after + 1): "You counted the token that this step samples. It is known, but stored only by the "
        "next step.",
        float(before - 1): "Then a slot of the second block is still free: it is filled first.",
        float(3 * size): "That is when the third block is full. It is taken for its first token.",
    }
    why = f"Stored before the step: {before}, a multiple of {size}; the next token opens the block."
    return Truth(after, why, mistakes, growth(engine, "one"), engine)


def shared_prefix() -> Truth:
    """01-2: five requests share 100 tokens on blocks of 32."""
    prefix, own, requests, size = 100, 40, 5, 32
    shared = hold_prefix(prefix, own, requests, 64, size)
    unshared = hold_prefix(prefix, own, requests, 64, size, share=False)
    saved, full = unshared.blocks - shared.blocks, prefix // size
    mistakes = {
        float(requests * full): "One copy of the prefix must stay: one request fewer saves.",
        float(
            (requests - 1) * -(-prefix // size)
        ): "The last block of the prefix is not full; only full blocks are shared.",
        float(requests * -(-prefix // size)): "Only full blocks are shared, and one copy of them must stay.",
        float(shared.blocks): "That is what is held; the question is what is saved.",
        float(unshared.blocks): "That is what is held without sharing; the question is what sharing saves.",
        0.0: "Nothing is shared only where the prefix does not fill one block.",
    }
    why = f"{full} full blocks of the prefix, for each request but the first."
    table = sharing(prefix, own_tokens=own, requests=requests, memory_tokens=64 * size, block_sizes=(size,))
    return Truth(saved, why, mistakes, table, shared.engine)


def computed_again() -> Truth:
    """01-3: two requests outgrow the memory; one is preempted and comes back."""
    prompt, size = 20, 4
    engine = Engine(14, size, event_log=True)
    engine.add_request("x", range(100, 100 + prompt), max_tokens=24)
    engine.add_request("y", range(200, 200 + prompt), max_tokens=24)
    while engine.has_unfinished:
        _sample(engine, engine.step().sampled_requests)
    table = preemptions(engine)
    (row,) = table.rows
    stored, cached, again = (int(row[table.columns.index(name)]) for name in _AGAIN)
    mistakes = {
        float(
            stored
        ): "That is all it had stored. Its full blocks stayed in the prefix cache, and some of them "
        "were still there.",
        float(cached): "That many came back from the cache; the rest was computed again.",
        float(
            stored - prompt
        ): "Its prompt is not safe either, and its answer not lost as such: blocks count, "
        "from the last one on.",
        float(size): "One block goes at once; but x grows on, and takes more of them until it ends.",
        0.0: "Nothing would be lost if nobody took its cached blocks; x needs them.",
    }
    why = f"It had stored {stored}; x took its last blocks first, and {cached} were still cached."
    return Truth(again, why, mistakes, table, engine)


_AGAIN = ("tokens stored", "tokens from cache", "tokens computed again")


def two_have_ended() -> Engine:
    """01-4, the question: `a` has ended, then `b`; their full blocks are cached."""
    engine = Engine(12, 4, event_log=True)
    engine.add_request("a", range(100, 112), max_tokens=5)
    engine.add_request("b", range(200, 208), max_tokens=10)
    while engine.has_unfinished:
        _sample(engine, engine.step().sampled_requests)
    return engine


def evicted_first() -> Truth:
    """01-4: a third request needs more than the free blocks."""
    engine = two_have_ended()
    before = replay(engine.events())
    engine.add_request("c", range(300, 326), max_tokens=6)
    while engine.has_unfinished:
        _sample(engine, engine.step().sampled_requests)
    table = evictions(engine)
    order = [int(row[table.columns.index("block")]) for row in table.rows]
    mistakes = {}
    for block in range(engine.num_blocks):
        if not before.block_cached[block]:
            mistakes[float(block)] = f"Block {block} holds nothing: it can be taken without an eviction."
        elif block not in order:
            mistakes[float(block)] = f"Block {block} was b's, which ended after a: it was used more recently."
        elif block != order[0]:
            mistakes[float(block)] = f"Block {block} was a's, but not its last: what follows it goes first."
    why = "a ended first, and this was the last of its full blocks."
    return Truth(order[0], why, mistakes, table, engine)


def _sample(engine: Engine, sampled: Iterable[str]) -> None:
    engine.update(dict.fromkeys(sampled, 7))


EXERCISES = (
    Exercise(
        "01-1",
        asks="how many tokens are stored after the step that takes the third block",
        unit="tokens",
        hints=(
            "A step first stores the keys and values of its input token, then samples the next token.",
            "Two blocks of 16 hold 32 tokens. Does the request need a third one for token number 32?",
            "It takes the block in the step that stores the first token which does not fit.",
        ),
        find=third_block,
    ),
    Exercise(
        "01-2",
        asks="how many blocks fewer are held",
        unit="blocks",
        hints=(
            "A block can be shared when all of its slots hold tokens of the prefix.",
            "How many blocks of 32 do 100 tokens fill completely?",
            "The first request holds these blocks in any case; each other one is spared them.",
        ),
        find=shared_prefix,
    ),
    Exercise(
        "01-3",
        asks="how many of y's tokens are computed a second time",
        unit="tokens",
        hints=(
            "Both grow alike. At how many stored tokens do two equal tables need more than 14 blocks of 4?",
            "y's full blocks stay cached until x takes them, the last one first. x stores 20 + 24 - 1 tokens "
            "before it ends.",
            "14 blocks less those that x holds at its end are what y finds again, 4 tokens in each.",
        ),
        find=computed_again,
    ),
    Exercise(
        "01-4",
        asks="a click on the block that is evicted first",
        unit="block",
        hints=(
            "Only a cached block can be evicted. Which of the two requests ended first?",
            "Of one request the last block goes first. Point at a block: it says when it was last used.",
            "Go back to the step before a ended and press j: its logical table names its blocks in order.",
        ),
        find=evicted_first,
        shows=two_have_ended,
    ),
)
