"""Laws of a decode step's plan (plan.cu run on the CPU), against a walk along the line of tiles."""

from __future__ import annotations

import pytest
import torch
from attention_cases import Case
from cuda_on_cpu.device import cpu_device
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nano_batch import errors
from nano_batch.attention import DecodePlan, paged_attention_fwd
from nano_batch.attention.cuda import plan

TILE = 16


def shares_of(libraries, lengths, heads, window, workers):
    memory = torch.full((9 * workers + len(lengths),), -1, dtype=torch.int32)
    with cpu_device(libraries):
        plan._plan(torch.tensor(lengths, dtype=torch.int32), memory, heads, window, workers, TILE)
    assert memory[8 * workers : 9 * workers].eq(0).all(), "arrivals"
    assert memory[9 * workers :].tolist() == lengths
    return memory[: 8 * workers].view(workers, 8).tolist()


def line_of(lengths, heads, window):
    """All tiles (head, row, tile), as walk.cuh describes them."""
    for head in range(heads):
        for row, length in enumerate(lengths):
            oldest = max(0, length - window) if window else 0
            for tile in range(oldest // TILE, -(-length // TILE)):
                yield head, row, tile


def check_laws(shares, lengths, heads, window):
    line = list(line_of(lengths, heads, window))
    owner = {}
    place = 0
    for worker, (row, head, tile, tiles, *_) in enumerate(shares):
        if tiles:
            assert line[place] == (head, row, tile)
            owner |= dict.fromkeys(line[place : place + tiles], worker)
            place += tiles
    assert place == len(line)
    busy = [share for share in shares if share[3]]
    assert shares[: len(busy)] == busy, "those who work come first"
    if not busy:
        return
    sizes = [share[3] for share in busy]
    assert max(sizes) - min(sizes) <= 1
    assert len(busy) <= -(-len(line) // plan.LEAST_TILES)
    workers_of_pair = {}
    for (head, row, _), worker in owner.items():
        workers_of_pair.setdefault((head, row), []).append(worker)
    place = 0
    for row, head, _, tiles, first_worker, last_worker, length, _ in busy:
        last_head, last_row, _ = line[place + tiles - 1]
        assert first_worker == min(workers_of_pair[head, row])
        assert last_worker == max(workers_of_pair[last_head, last_row])
        assert length == lengths[row]
        place += tiles


@given(
    lengths=st.lists(st.one_of(st.just(0), st.integers(1, 50), st.integers(1, 3000)), max_size=12),
    heads=st.integers(1, 4),
    window=st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 3000)),
    workers=st.integers(1, 40),
)
@example(lengths=[], heads=2, window=0, workers=3)
@example(lengths=[0, 0, 0], heads=2, window=0, workers=3)
@example(lengths=[5000], heads=1, window=0, workers=40)
@example(lengths=[0, 131_072, 0, 1], heads=2, window=0, workers=264)
@example(lengths=[0, 131_072, 0, 1], heads=2, window=2**31 - 1, workers=264)
@example(lengths=[17, 0, 1] * 400, heads=2, window=0, workers=264)
@example(lengths=[0] * 1500 + [40] + [0] * 999, heads=3, window=7, workers=8)
@settings(max_examples=60, deadline=None)
def test_every_tile_is_in_one_of_equal_shares(libraries, lengths, heads, window, workers):
    shares = shares_of(libraries, lengths, heads, window, workers)
    check_laws(shares, lengths, heads, window)


@pytest.mark.parametrize("damage", [(0, 3, -1), (0, 3, 1), (1, 2, 1), (1, 4, 1), (0, 5, 1), (1, 6, 1)])
def test_the_laws_find_a_wrong_share(libraries, damage):
    lengths = [300, 0, 100]
    shares = shares_of(libraries, lengths, 2, 0, 4)
    check_laws(shares, lengths, 2, 0)
    worker, field, change = damage
    shares[worker][field] += change
    with pytest.raises(AssertionError):
        check_laws(shares, lengths, 2, 0)


@pytest.mark.parametrize(("rows", "heads", "workers"), [(32, 8, 264), (1, 8, 264), (64, 8, 264), (25, 8, 50)])
def test_pairs_of_equal_length_stay_whole_where_that_costs_few_workers(libraries, rows, heads, workers):
    lengths = [2048] * rows
    shares = shares_of(libraries, lengths, heads, 0, workers)
    check_laws(shares, lengths, heads, 0)
    busy = [share for share in shares if share[3]]
    assert len(busy) >= workers * 7 / 8
    pair = 2048 // TILE
    assert all(share[3] % pair == 0 or pair % share[3] == 0 for share in busy)


@pytest.mark.parametrize(
    ("rows", "heads", "workers"), [(32, 8, 264), (64, 8, 528), (120, 8, 528), (60, 8, 528)]
)
@pytest.mark.parametrize("other", [2049, 2000, 2049 + 16])
def test_all_workers_share_pairs_of_other_lengths(libraries, rows, heads, workers, other):
    """With fewer nothing would be whole."""
    lengths = [2049] * (rows - 1) + [other]
    shares = shares_of(libraries, lengths, heads, 0, workers)
    check_laws(shares, lengths, heads, 0)
    assert all(share[3] for share in shares) == (other != 2049)


def test_work_that_cannot_be_counted_is_refused(libraries):
    case = Case(1, [5], [1], head_dim=64, dtype=torch.bfloat16)
    wide = torch.zeros(1, 1, dtype=torch.int32).expand(20_000, 2**18)
    query = case.query[:1].expand(20_000, -1, -1)
    with cpu_device(libraries):
        with pytest.raises(errors.ShapeError, match=r"20000 rows of up to 1048576 tokens are 262\d+ tiles"):
            DecodePlan(query, *case.views, wide)
        query, table = query[:1].expand(30_000, -1, -1), wide[:1].expand(30_000, -1)
        with pytest.raises(errors.ShapeError, match="30000 rows; a plan takes at most 24576"):
            DecodePlan(query, *case.views, table)


def test_a_plan_that_does_not_fit_is_refused(libraries):
    sizes = {"head_dim": 64, "dtype": torch.bfloat16, "kv_heads": 2}
    case = Case(1, [5, 9], [1, 1], **sizes)

    def refused(error, match, case, made, **options):
        with pytest.raises(error, match=match):
            case.decode(backend="cuda", plan=made, **options)

    with cpu_device(libraries):
        made = DecodePlan(case.query.unsqueeze(2), *case.views, case.table)
        made.update(case.lens())
        case.check(case.decode(backend="cuda", plan=made))
        refused(errors.ShapeError, r"plan is for .* \[2, 2, 16\]", Case(1, [5], [1], **sizes), made)
        more_heads = Case(1, [5, 9], [1, 1], **sizes | {"kv_heads": 3})
        refused(errors.ShapeError, r"these tensors need \[2, 3, 16\]", more_heads, made)
        wider = Case(1, [5, 9], [1, 1], **sizes | {"head_dim": 256})
        refused(errors.ShapeError, r"these tensors need .* and \d+", wider, made)
        quantised = Case(1, [5, 9], [1, 1], **sizes, fp8=True)  # as many rows, heads, tiles and sums
        quantised.check(quantised.decode(backend="cuda", plan=made))
        case.window = 3
        refused(errors.InvalidArgumentError, "the plan is for sliding_window=None, not 3", case, made)
        with pytest.raises(errors.ShapeError, match=r"context_lens has shape \[1\]; it needs \[2\]"):
            made.update(case.lens()[:1])
        with pytest.raises(errors.DtypeError, match=r"context_lens is torch.float32"):
            made.update(case.lens().float())


def test_a_plan_runs_nowhere_but_in_the_kernels(libraries):
    case = Case(1, [5, 9], [1, 1], head_dim=64, dtype=torch.bfloat16)
    with pytest.raises(errors.DeviceError, match="on cpu, not on a CUDA device"):
        DecodePlan(case.query, *case.views, case.table)
    with cpu_device(libraries):
        made = DecodePlan(case.query, *case.views, case.table)
    with pytest.raises(
        errors.DeviceError, match=r"a plan is given, and only the CUDA kernels take one: .*on cpu"
    ):
        case.decode(plan=made)
    with pytest.raises(errors.InvalidArgumentError, match="backend='torch'"):
        case.decode(backend="torch", plan=made)


@pytest.mark.parametrize(
    ("sizes", "error", "match"),
    [
        ({"dtype": torch.float64}, errors.DtypeError, "float64"),
        ({"head_dim": 6}, errors.ShapeError, "head_dim is 6; .* multiples of 4 up to 256"),
        ({"head_dim": 260}, errors.ShapeError, "head_dim is 260"),
        ({"block_size": 257}, errors.ShapeError, "block_size is 257; .* at most 256"),
    ],
)
def test_what_the_kernels_do_not_take_is_refused_by_name_or_done_plainly(libraries, sizes, error, match):
    case = Case(1, [5], [1], **sizes)
    with cpu_device(libraries):
        with pytest.raises(error, match=match):
            case.decode(backend="cuda")
        with pytest.raises(error, match=match):
            DecodePlan(case.query, *case.views, case.table)
        case.check(case.decode())


def test_a_cache_whose_elements_lie_apart_is_refused(libraries):
    apart = torch.zeros(4, 4, 2, 128)[..., ::2]
    table, lens = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    with cpu_device(libraries), pytest.raises(errors.ShapeError, match=r"\(1024, 256, 128, 2\); .* the last"):
        paged_attention_fwd(torch.zeros(1, 2, 1, 64), apart, apart, table, lens, 4, backend="cuda")
