"""The decode kernels, run on the CPU (cuda_on_cpu), against float64 dense attention, lanes in both orders."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from attention_cases import Case, check_writing
from cuda_on_cpu.build import build
from cuda_on_cpu.device import cpu_device
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch import errors
from nano_batch.attention import DecodePlan, paged_attention_writing
from nano_batch.attention.cuda import SOURCES, decode, plan
from nano_batch.attention.rope import Rope, rope_tables

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
TENSOR_CORES = [
    {"dtype": BF16, "head_dim": 64, "group": 4, "block_size": 16},
    {"dtype": FP16, "head_dim": 80, "group": 6, "block_size": 7, "layout": "HND"},
    {"dtype": BF16, "head_dim": 96, "group": 1, "block_size": 32, "kv_heads": 3, "soft_cap": 3.0},
    {"dtype": BF16, "head_dim": 128, "group": 16, "block_size": 1, "kv_heads": 1, "integers": torch.int64},
    {"dtype": FP16, "head_dim": 256, "group": 10, "block_size": 16, "kv_heads": 1, "layout": "HND"},
    {"dtype": BF16, "head_dim": 128, "group": 4, "block_size": 16, "fp8": True},
    {"dtype": FP16, "head_dim": 64, "group": 9, "block_size": 7, "fp8": True, "per_head": False,
     "soft_cap": 3.0},
]  # fmt: skip
PLAIN = [
    {"dtype": FP32, "head_dim": 12, "group": 6, "block_size": 7, "soft_cap": 3.0},
    {"dtype": FP32, "head_dim": 128, "group": 1, "block_size": 16, "layout": "HND", "fp8": True},
    {"dtype": FP16, "head_dim": 20, "group": 16, "block_size": 1, "kv_heads": 1, "fp8": True},
    {"dtype": BF16, "head_dim": 64, "group": 4, "block_size": 32, "unaligned": True, "integers": torch.int64},
]
COPIED = [
    {"dtype": BF16, "head_dim": 128, "group": 4, "block_size": 16},
    {"dtype": FP16, "head_dim": 64, "group": 9, "block_size": 48, "layout": "HND", "soft_cap": 3.0,
     "integers": torch.int64},
    {"dtype": BF16, "head_dim": 128, "group": 20, "block_size": 256, "kv_heads": 1},
]  # fmt: skip
SOURCES_OF = {"decode.cu": TENSOR_CORES, "decode_plain.cu": PLAIN, "decode_hopper.cu": COPIED}
ALL = [(sizes, source) for source, all_sizes in SOURCES_OF.items() for sizes in all_sizes]


def settled(source):
    """Whether a plan has to be, for that source."""
    return source == "decode_hopper.cu"


def device_of(source, libraries, **options):
    return cpu_device(libraries, hopper=settled(source), **options)


def variant(case, source="decode.cu"):
    return plan.variant_of(case.query, *case.views, case.table, case.soft_cap is not None, settled(source))


@pytest.fixture(scope="module")
def built(libraries):
    """All libraries, two at a time."""
    wanted = []
    for sizes, source in ALL:
        with device_of(source, libraries):
            case = Case(0, [1], [1], **sizes)
            chosen = variant(case, source)
            assert chosen.source == source
            wanted.append((SOURCES / source, chosen.defines(), "decode"))
            if chosen.copied:
                wanted.append((SOURCES / source, chosen.defines(writes=True), "decode"))
            wanted.append((SOURCES / "plan.cu", plan.plan_defines(chosen.tile, case.integers), "plan"))
    unique = {str(one): one for one in wanted}.values()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: build(*one, libraries), unique))
    return libraries


LENGTHS = st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 400))


@pytest.mark.parametrize(("sizes", "source"), ALL, ids=str)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_decode_equals_dense_attention(built, sizes, source, data):
    contexts = data.draw(st.lists(LENGTHS, max_size=5))
    window = data.draw(st.one_of(st.none(), st.integers(1, 45), st.integers(1, 400)))
    scale = data.draw(st.sampled_from([None, 0.02, -0.1]))
    case = Case(data.draw(st.integers(0, 2**32)), contexts, [1] * len(contexts), window=window, scale=scale,
                **sizes)  # fmt: skip
    multiprocessors = data.draw(st.integers(1, 4))
    for backwards in (False, True):
        with device_of(source, built, backwards=backwards, multiprocessors=multiprocessors):
            assert variant(case, source).source == source
            made = case.plan(settled=True) if settled(source) else None
            case.check(case.decode(backend="cuda", plan=made))


@pytest.mark.parametrize("sizes", COPIED, ids=str)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_attention_writes_the_newest_keys_and_values(built, sizes, data):
    contexts = data.draw(st.lists(LENGTHS, min_size=1, max_size=5))
    window = data.draw(st.one_of(st.none(), st.integers(1, 45), st.integers(1, 400)))
    left = data.draw(st.sets(st.sampled_from(range(len(contexts)))))
    case = Case(data.draw(st.integers(0, 2**32)), contexts, [1] * len(contexts), window=window, **sizes)
    multiprocessors, backwards = data.draw(st.integers(1, 4)), data.draw(st.booleans())
    options = {"backwards": backwards, "multiprocessors": multiprocessors}
    kernels = [device_of("decode_hopper.cu", built, **options) for _ in range(2)]
    check_writing(case, *kernels, left)


@pytest.mark.parametrize("block", [-1, 10**9, -(2**31)])
def test_what_a_table_has_no_block_for_is_not_written(built, block):
    case = Case(5, [40, 5, 30], [1] * 3, **COPIED[0])
    case.table[0, 39 // case.block_size] = block
    keys, values = (case.draw(3, 2, 128) for _ in range(2))
    rope, lens = Rope(case.lens().long() - 1, *rope_tables(41, 128)), case.lens()
    with device_of("decode_hopper.cu", built):
        before = [view.clone() for view in case.views]
        paged_attention_writing(
            case.query, keys, values, rope, *case.views, case.table, lens, case.plan(settled=True)
        )
    for view, old in zip(case.views, before, strict=True):
        different = view.view(torch.int16) != old.view(torch.int16)
        changed = different.flatten(2).any(2).nonzero().tolist()
        places = [divmod(context - 1, case.block_size) for context in (5, 30)]
        assert sorted(changed) == sorted([int(case.table[row, column]), offset]
                                         for row, (column, offset) in enumerate(places, 1))  # fmt: skip


def off_by_one(tensor):
    """The same numbers, from the second element of a memory on."""
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    return memory[1:].view(tensor.shape).copy_(tensor)


def test_writing_takes_what_lies_badly_or_says_so(built):
    """Queries, keys, values and turns that begin between two words are copied; such caches are refused."""
    case = Case(3, [40, 5, 0], [1] * 3, **COPIED[0])
    keys, values = (case.draw(3, 2, 128) for _ in range(2))
    positions, tables = case.lens().long().clamp(min=1) - 1, rope_tables(41, 128)
    given, lens = [case.query, keys, values, *tables], case.lens()

    def attend(made, query, keys, values, cosines, sines, *caches):
        rope = Rope(positions, cosines, sines)
        return paged_attention_writing(query, keys, values, rope, *caches, case.table, lens, made)

    before = [view.clone() for view in case.views]
    with device_of("decode_hopper.cu", built):
        made = case.plan(settled=True)
        expected = attend(made, *given, *case.views)
        written = [view.clone() for view in case.views]
        for view, old in zip(case.views, before, strict=True):
            view.copy_(old)
        assert torch.equal(attend(made, *map(off_by_one, given), *case.views), expected)
        for one, other in zip(case.views, written, strict=True):
            assert torch.equal(one.view(torch.int16), other.view(torch.int16))
        with pytest.raises(errors.InvalidArgumentError, match="but not to caches that lie as these"):
            attend(made, *given, *map(off_by_one, case.views))
        turned = [view.transpose(1, 3).contiguous().transpose(1, 3) for view in case.views]
        with pytest.raises(errors.ShapeError, match="the kernel needs the last to be 1"):
            attend(made, *given, *turned)
        with pytest.raises(errors.InvalidArgumentError, match="the plan writes no keys and values"):
            attend(case.plan(), *given, *case.views)
        with pytest.raises(
            errors.ShapeError, match=r"keys has shape \[2, 2, 128\]; 3 slots need \[3, 2, 128\]"
        ):
            attend(made, case.query, keys[:2], *given[2:], *case.views)


@pytest.mark.parametrize("backwards", [False, True])
def test_many_rows_have_more_and_smaller_blocks(built, monkeypatch, backwards):
    sizes = {"dtype": BF16, "head_dim": 128, "group": 4, "block_size": 16}
    case, few = (Case(5, [300, 0, 41, 170][:rows], [1] * rows, **sizes) for rows in (4, 3))
    monkeypatch.setattr(plan, "FEW_DECODES", 3)
    half, whole = variant(case), variant(few)
    assert (half.warps, half.blocks_per_sm) == (whole.warps // 2, 2 * whole.blocks_per_sm)
    with cpu_device(built, backwards=backwards, multiprocessors=3):
        made = case.plan()
        assert split(made) > 0
        case.check(case.decode(backend="cuda", plan=made))


def split(made):
    """How many pairs more than one worker shares."""
    shares = made.shares()
    return sum(int(last > worker) for worker, last in enumerate(shares[:, 5].tolist()))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("source", SOURCES_OF)
def test_a_plan_serves_all_layers_and_the_lengths_of_later_steps(built, source, backwards):
    """As in a graph that is replayed: the same memory, whatever an earlier step has left in it."""
    lengths = [[120, 0, 17, 230], [0, 0, 0, 0], [1, 300, 1, 1], [120, 0, 17, 230]]
    steps = [Case(seed, contexts, [1] * 4, **SOURCES_OF[source][0]) for seed, contexts in enumerate(lengths)]
    with device_of(source, built, backwards=backwards, multiprocessors=5):
        made = steps[0].plan(settled(source))
        crossed = []
        for step in steps:
            made.update(step.lens())
            crossed.append(split(made))
            for _ in range(2):
                made.parts.fill_(float("nan"))
                step.check(step.decode(backend="cuda", plan=made))
                assert made.memory[8 * made.workers : 9 * made.workers].eq(0).all(), "arrivals"
    assert crossed[0] > 0
    assert crossed[1] == 0
    assert crossed[2] > 0


@pytest.mark.parametrize("source", SOURCES_OF)
def test_rows_of_no_length_are_left_as_they_are(built, source):
    """Length -1, between others, among them one of zeros: as the decodes of a step with prompts lie."""
    case = Case(3, [120, 5, 0, 230, 7], [1] * 5, **SOURCES_OF[source][0])
    left = [1, 4]
    with device_of(source, built, multiprocessors=4):
        made = case.plan(settled(source))
        lens = case.lens()
        lens[left] = -1
        made.update(lens)
        out = torch.full_like(case.query, 7.0).unsqueeze(2)
        result = case.decode(backend="cuda", plan=made, out=out, validate=False)
        assert result.data_ptr() == out.data_ptr()
        assert result[left].eq(7).all()
        result[left] = case.decode(backend="cuda")[left]
        case.check(result)


def test_what_an_output_has_to_be(built):
    case = Case(1, [90, 0, 300], [1] * 3, **TENSOR_CORES[0])
    out = torch.empty_like(case.query).unsqueeze(2)
    with cpu_device(built):
        made = case.plan()
        for wrong in (out[:2], out.half(), torch.stack([out, out], 4)[..., 0]):
            with pytest.raises(
                errors.ShapeError, match=r"out is \[\d, .* it needs to be contiguous \[3, 8, 64\]"
            ):
                case.decode(backend="cuda", plan=made, out=wrong)
        with pytest.raises(errors.DeviceError, match="out is on meta; the query is on cpu"):
            case.decode(backend="cuda", plan=made, out=out.to("meta"))
        with pytest.raises(errors.InvalidArgumentError, match="out is given without a plan"):
            case.decode(backend="cuda", out=out)


def test_a_merge_has_room_for_the_parts_of_all_workers(built):
    """Of one pair, in many more parts than the sums of a block's warps would have room for."""
    case = Case(1, [5_200], [1], **PLAIN[0], kv_heads=1)
    with cpu_device(built, multiprocessors=20):
        made = case.plan()
        assert split(made) > 75
        case.check(case.decode(backend="cuda", plan=made))


def test_tables_scales_and_queries_of_any_stride(built):
    case = Case(1, [40, 3], [1, 1], **TENSOR_CORES[5])
    with cpu_device(built):
        expected = case.decode(backend="cuda")
        case.check(expected)
        case.table = case.table.t().contiguous().t()
        case.scales = tuple(torch.stack([scale, scale + 1], 1)[:, 0] for scale in case.scales)
        case.query = torch.stack([case.query, case.query + 1], 3)[..., 0]
        assert {case.table.stride(1), case.scales[0].stride(0), case.query.stride(2)} == {2}
        assert torch.equal(case.decode(backend="cuda"), expected)


def traced(function):
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def test_steps_are_traced(built):
    case = Case(1, [90, 0, 300], [1] * 3, **TENSOR_CORES[0])
    with cpu_device(built):
        expected = case.decode(backend="cuda")
        case.check(expected)
        alone = traced(lambda case: case.decode(backend="cuda", validate=False))
        assert torch.equal(alone(case), expected)
        made = DecodePlan(case.query, *case.views, case.table)

        def step(lens):
            made.update(lens)
            return [case.decode(backend="cuda", validate=False, plan=made) for _ in range(2)]

        for output in traced(step)(case.lens()):
            assert torch.equal(output, expected)


def test_operators_keep_their_promises(built):
    case = Case(1, [90, 0, 300], [1] * 3, **TENSOR_CORES[0])
    tensors = (case.query, *case.views, case.table)
    numbers = (0.1, 0.0, 0, None, torch.ones(2), 1.0)
    with cpu_device(built):
        made = DecodePlan(*tensors)
        lens = case.lens()
        torch.library.opcheck(plan._plan, (lens, made.memory, made.heads, 0, made.workers, made.tile))
        made.update(lens)
        arrays = made.memory, made.parts, torch.empty_like(case.query)
        sizes = decode._sizes(made)
        torch.library.opcheck(decode._decode, (*tensors, *arrays, sizes, False, *numbers))
        torch.library.opcheck(decode._decode_alone, (*tensors, lens, *numbers))
