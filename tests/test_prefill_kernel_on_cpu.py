"""The kernel for prompts, run on the CPU (cuda_on_cpu), against float64 dense attention."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest
import torch
from attention_cases import Case, check_turning
from cuda_on_cpu.device import cpu_device
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch.attention import DecodePlan, paged_attention_planned
from nano_batch.attention.cuda import prefill, prefill_kernel
from nano_batch.attention.cuda.prefill_kernel import kernel_refusal, prefill_by_kernel
from nano_batch.attention.cuda.prefill_plan import PrefillPlan
from nano_batch.attention.rope import Rope
from nano_batch.errors import InvalidArgumentError, ShapeError
from nano_batch.models import base
from nano_batch.models.base import PagedInputs, attend_paged

BF16, FP16 = torch.bfloat16, torch.float16
SIZES = [
    {"dtype": BF16, "head_dim": 128, "group": 4, "block_size": 16},
    {"dtype": FP16, "head_dim": 64, "group": 6, "block_size": 7, "layout": "HND"},
    {"dtype": BF16, "head_dim": 64, "group": 1, "block_size": 1, "integers": torch.int64},
]
LENGTHS = st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 200))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_prompts_equal_dense_attention(libraries, sizes, data):
    contexts = data.draw(st.lists(LENGTHS, max_size=4))
    queries = [data.draw(st.integers(0, context)) if context else 3 for context in contexts]
    window = data.draw(st.one_of(st.none(), st.integers(1, 45), st.integers(1, 200)))
    scale = data.draw(st.sampled_from([None, 0.02]))
    case = Case(data.draw(st.integers(0, 2**32)), contexts, queries, window=window, scale=scale, **sizes)
    assert kernel_refusal(case.query, *case.views) is None
    for backwards in (False, True):
        with cpu_device(libraries, backwards=backwards):
            case.check(case.prefill_by_kernel())


@pytest.mark.parametrize("before", [0, 3, 17, 90])
def test_tokens_of_no_row(libraries, before, monkeypatch):
    """As in a step of a fixed size: before the prompts are decodes, which are left; behind is nothing."""
    contexts, queries, behind = [50, 100, 40], [20, 70, 40], 30
    case = Case(before, contexts, queries, **SIZES[0])
    eager = case.prefill_plan()
    starts = torch.cat([case.starts() + before, torch.full((5,), before + sum(queries), dtype=torch.int32)])
    seen_starts = torch.cat([eager.seen_starts, eager.seen_starts[-1:].expand(5)])
    slots = torch.cat([eager.slots, torch.full((100,), -1)])
    rows = torch.full((before + sum(queries) + behind, *case.query.shape[1:]), float("nan"), dtype=BF16)
    rows[before : before + sum(queries)] = case.query
    plan = PrefillPlan.of_arrays(starts, seen_starts, slots, tokens=len(rows))
    monkeypatch.setattr(
        torch, "empty_like", lambda tensor, **options: torch.full_like(tensor, 7.0, **options)
    )
    with cpu_device(libraries):
        output = prefill_by_kernel(rows, *case.views, plan, case.query.shape[2] ** -0.5)
    assert output[:before].eq(7).all()
    assert output[before + sum(queries) :].eq(0).all()
    case.check(output[before : before + sum(queries)])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_queries_are_turned_as_before_the_kernel(libraries, sizes, data):
    contexts = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=4))
    queries = [data.draw(st.integers(1, context)) for context in contexts]
    case = Case(data.draw(st.integers(0, 2**32)), contexts, queries, **sizes)
    for backwards in (False, True):
        with cpu_device(libraries, backwards=backwards):
            check_turning(case, data.draw(st.integers(0, sum(queries))))


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("decodes", [0, 1, 3])
def test_decodes_and_prompts_write_one_output(libraries, decodes, turns, monkeypatch):
    """As the engine's runner asks for a step of both: each writes the results of its own tokens."""
    contexts, queries = [*[90, 40, 17][:decodes], 100, 40, 0], [1] * decodes + [30, 40, 5]
    case = Case(decodes, contexts, queries, **SIZES[0])
    starts, lens, table, size = case.starts(), case.lens(), case.table, case.block_size
    with cpu_device(libraries):
        made = DecodePlan(case.query[:decodes], *case.views, table[:decodes])
        made.update(lens[:decodes])
        plan = PrefillPlan(starts[decodes:], lens[decodes:], table[decodes:], size)
        inputs = PagedInputs(
            torch.zeros(sum(queries)), starts[:-1], [], table, lens, starts,
            num_decodes=decodes, trusted=True, decode_plan=made, prefill_plan=plan,
        )  # fmt: skip
        monkeypatch.setattr(base, "TURNED_BEFORE", sum(queries) - turns)
        assert inputs.attention_turns(case.query, case.cache, 0) == turns

        def attended(query, rope=None):
            return attend_paged(query, case.cache, 0, inputs, decodes, sliding_window=None, rope=rope)

        if turns:
            expected = attended(case.turned(decodes))[:-5]  # what the row of no context has is anything
            assert torch.equal(attended(case.query, case.rope())[:-5], expected)
        else:
            case.check(attended(case.query))


def test_the_operator_keeps_its_promises(libraries):
    case = Case(1, [9, 5], [3, 5], **SIZES[1])
    plan = case.prefill_plan()
    with cpu_device(libraries):
        arrays = plan.starts, plan.seen_starts, plan.slots
        for turn in ((None, None, None, 0), (*astuple(case.rope()), 2)):
            torch.library.opcheck(prefill_kernel._prefill, (case.query, *case.views, *arrays, *turn, 0, 0.1))


def test_turns_that_do_not_fit_are_refused(libraries):
    case = Case(1, [9, 5], [3, 5], **SIZES[0])
    plan, rope, other = case.prefill_plan(), case.rope(), Case(1, [9], [3], **SIZES[0]).rope()
    with cpu_device(libraries):
        for turned in (-1, 9, 2**32):
            with pytest.raises(InvalidArgumentError, match=f"turned={turned}; there are 8 tokens"):
                paged_attention_planned(case.query, *case.views, plan, rope=rope, turned=turned)
        with pytest.raises(ShapeError, match=r"needs contiguous \[8\]"):
            paged_attention_planned(case.query, *case.views, plan, rope=other)


def test_turns_need_not_begin_where_pairs_do(libraries):
    case = Case(1, [9, 5], [3, 5], **SIZES[0])
    rope, arguments = case.rope(), (*case.views, case.prefill_plan(), 0.1)
    apart = [
        torch.cat([torch.zeros(1), each.flatten()])[1:].view_as(each) for each in (rope.cosines, rope.sines)
    ]
    with cpu_device(libraries):
        expected = prefill_by_kernel(case.query, *arguments, rope)
        assert torch.equal(prefill_by_kernel(case.query, *arguments, Rope(rope.positions, *apart)), expected)


def test_what_the_kernel_leaves_to_the_library(libraries, monkeypatch):
    def refusal(**sizes):
        case = Case(1, [9], [3], **{**SIZES[0], **sizes})
        return kernel_refusal(case.query, *case.views)

    assert refusal() is None
    assert "float8_e4m3fn" in refusal(fp8=True)
    assert "not torch.float32" in refusal(dtype=torch.float32)
    assert "not 96 and 4" in refusal(head_dim=96)
    assert "not 128 and 65" in refusal(group=65, kv_heads=1)
    assert "strides" in refusal(unaligned=True)
    case = Case(1, [9], [3], **SIZES[0])
    query, (keys, _) = case.query, case.views
    assert "strides differ" in kernel_refusal(query, keys, torch.cat([keys, keys], 2)[:, :, : keys.shape[2]])
    large = torch.empty(2**15, 2**13, *keys.shape[2:], dtype=keys.dtype, device="meta")
    assert "spans more than 68719476736 bytes" in kernel_refusal(query, large, large)
    by_head = large.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    assert "spans more than 68719476736 bytes" in kernel_refusal(query, by_head, by_head)
    case = Case(1, [9, 5], [3, 5], **SIZES[0])
    plan = case.prefill_plan()
    monkeypatch.setattr(prefill, "prefill_by_library", lambda *args, **options: "library")
    with cpu_device(libraries):
        case.check(prefill.prefill_planned(case.query, *case.views, plan, scale=128**-0.5))
        monkeypatch.setattr(prefill, "LONG", 4)
        assert prefill.prefill_planned(case.query, *case.views, plan, scale=128**-0.5) == "library"
        with pytest.raises(InvalidArgumentError, match="turns no queries"):
            paged_attention_planned(case.query, *case.views, plan, rope=case.rope())
        monkeypatch.setattr(base, "TURNED_BEFORE", 0)
        inputs = PagedInputs(*[torch.zeros(8)] * 6, num_decodes=0, prefill_plan=plan)
        assert not inputs.attention_turns(case.query, case.cache, 0)
        with pytest.raises(InvalidArgumentError, match="without a prefill plan"):
            attend_paged(
                case.query, case.cache, 0, replace(inputs, prefill_plan=None), 0, sliding_window=None,
                rope=case.rope(),
            )  # fmt: skip
        monkeypatch.setattr(prefill, "is_hopper", lambda device: True)
        case.check(prefill.prefill_planned(case.query, *case.views, plan, scale=128**-0.5))
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert prefill.prefill_planned(case.query, *case.views, plan, scale=128**-0.5) == "library"
