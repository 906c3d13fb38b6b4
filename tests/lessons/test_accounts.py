"""Accounts and experiments, against runs small enough to follow by hand, and against the engine itself."""

import numpy as np
import pytest

from nano_batch import Engine, lab
from nano_batch.errors import InvalidArgumentError, UnknownRequestError
from nano_batch.workloads import Fixed, Workload


def drive_to_end(engine):
    """(step's output, blocks in use after planning it) of every step."""
    outputs = []
    while engine.has_unfinished:
        output = engine.step()
        outputs.append(output)
        engine.update(dict.fromkeys(output.sampled_requests, 7))
    return outputs


def rows(table, *columns):
    at = [table.columns.index(name) for name in columns]
    return [tuple(int(row[i].replace(",", "")) for i in at) for row in table.rows]


@pytest.mark.parametrize(("prompt", "size"), [(6, 4), (8, 4), (1, 1), (30, 16), (33, 16)])
def test_growth_is_what_the_block_tables_say(prompt, size):
    engine = Engine(64, size, event_log=True)
    engine.add_request("one", range(prompt), max_tokens=20)
    expected, blocks = [], 0
    for output in drive_to_end(engine):
        stored, (table,) = output.num_computed_tokens[0], output.block_tables
        written = output.num_tokens_per_request[0]
        for index in range(blocks, len(table)):
            expected.append((output.step, stored, stored % size, written, index, table[index]))
        blocks = len(table)
    table = lab.growth(engine, "one")
    assert rows(table, *table.columns) == expected
    decodes = [row for row in expected if row[1] > 0]
    assert decodes
    assert all(row[2] == 0 for row in decodes)


def test_growth_of_an_unknown_request():
    engine = Engine(8, 4, event_log=True)
    engine.add_request("one", range(3), max_tokens=2)
    drive_to_end(engine)
    with pytest.raises(UnknownRequestError, match="it has: one"):
        lab.growth(engine, "two")


def two_that_outgrow(**options):
    engine = Engine(14, 4, event_log=True, **options)
    engine.add_request("x", range(100, 120), max_tokens=24)
    engine.add_request("y", range(200, 220), max_tokens=24)
    return engine, drive_to_end(engine)


def test_preemption_by_recompute_agrees_with_the_steps():
    engine, outputs = two_that_outgrow()
    (lost,) = [output for output in outputs if output.preempted]
    back = next(o for o in outputs if o.step > lost.step and "y" in o.scheduled_requests)
    found = back.num_computed_tokens[back.scheduled_requests.index("y")]
    computed = sum(
        dict(zip(o.scheduled_requests, o.num_tokens_per_request, strict=True)).get("y", 0) for o in outputs
    )
    table = lab.preemptions(engine)
    assert table.rows[0][1] == "y"
    numbers = (
        "step",
        "tokens stored",
        "back at step",
        "tokens from cache",
        "tokens swapped in",
        "tokens computed again",
    )
    assert rows(table, *numbers) == [(lost.step, 28, back.step, found, 0, computed - 43)]


def test_preemption_by_swap_brings_everything_back():
    engine, outputs = two_that_outgrow(enable_prefix_caching=False, preemption="swap", num_swap_blocks=14)
    back = next(o for o in outputs if o.swap_in)
    ((stored, cached, swapped, again),) = rows(
        lab.preemptions(engine),
        "tokens stored",
        "tokens from cache",
        "tokens swapped in",
        "tokens computed again",
    )
    assert (cached, swapped, again) == (0, stored, 0)
    assert len(back.swap_in) == -(-stored // 4)


def test_a_request_that_has_not_come_back():
    engine = Engine(14, 4, event_log=True)
    for name in "xy":
        engine.add_request(name, num_prompt_tokens=20, max_tokens=24)
    output = engine.step()
    while not output.preempted:
        engine.update(dict.fromkeys(output.sampled_requests, 7))
        output = engine.step()
    assert lab.preemptions(engine).rows[0][3:] == ("–",) * 4


def test_evictions_take_the_least_recent_request_and_its_last_block_first():
    engine = Engine(8, 4, event_log=True)
    for name, start in (("old", 0), ("new", 100)):
        engine.add_request(name, range(start, start + 12), max_tokens=1)
        drive_to_end(engine)
    held = {"old": [0, 1, 2], "new": [3, 4, 5]}
    engine.add_request("big", range(200, 228), max_tokens=1)
    output = engine.step()
    table = lab.evictions(engine)
    owners = [row[table.columns.index("last held by")] for row in table.rows]
    assert owners == ["old", "old", "old", "new", "new"]
    assert rows(table, "logical block") == [(2,), (1,), (0,), (2,), (1,)]
    taken = [held[owner][index] for owner, (index,) in zip(owners, rows(table, "logical block"), strict=True)]
    assert rows(table, "block") == [(block,) for block in taken]
    assert set(taken) <= set(output.block_tables[0])


def test_nothing_evicted_nothing_preempted():
    engine = Engine(8, 4, event_log=True)
    engine.add_request("one", range(3), max_tokens=2)
    drive_to_end(engine)
    assert lab.evictions(engine).rows == lab.preemptions(engine).rows == ()


@pytest.mark.parametrize(("prefix", "own", "count"), [(240, 40, 8), (100, 40, 5), (64, 1, 3), (15, 5, 2)])
def test_sharing_saves_the_full_blocks_of_all_but_the_first(prefix, own, count):
    sizes = (16, 32, 256)
    table = lab.sharing(prefix, own_tokens=own, requests=count, memory_tokens=8192, block_sizes=sizes)
    for size, (saved, hits) in zip(sizes, rows(table, "blocks saved", "tokens not computed"), strict=True):
        assert saved == (count - 1) * (prefix // size)
        assert hits == saved * size
    unshared, shared = np.array(rows(table, "blocks unshared", "blocks shared")).T
    assert (unshared - shared == np.array(rows(table, "blocks saved")).ravel()).all()


def test_sharing_needs_room_for_all():
    with pytest.raises(InvalidArgumentError, match="hold 1 of 4 requests"):
        lab.sharing(32, own_tokens=16, requests=4, memory_tokens=64, block_sizes=(16,))


def test_last_block_by_hand():
    # One request, prompt 5, three tokens: it stores 5, 6, 7 tokens after its steps; the last one ends it,
    # so blocks are held after two steps: blocks of 4 hold 8 slots, 3 and 2 of them empty.
    workload = Workload.synthetic(1, seed=0, arrivals="at_once", prompts=Fixed(5), outputs=Fixed(3))
    table = lab.last_block(workload, memory_tokens=64, block_sizes=(1, 4))
    lost = [row[table.columns.index("lost a sequence (tokens)")] for row in table.rows]
    assert lost == ["0.0", "2.5"]
    assert [row[2] for row in table.rows] == ["0.0", "1.5"]
    assert rows(table, "longest table (blocks)", "steps") == [(7, 3), (2, 3)]


@pytest.mark.parametrize("size", [0, 65])
def test_a_block_size_that_the_memory_cannot_hold(size):
    workload = Workload.synthetic(1, seed=0, arrivals="at_once", prompts=Fixed(5), outputs=Fixed(3))
    with pytest.raises(InvalidArgumentError, match=f"block_size is {size}.*64 tokens"):
        lab.last_block(workload, memory_tokens=64, block_sizes=(size,))
