"""Contiguous allocators in the simulator, against a first-fit model that looks at every slot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_batch import simulate
from nano_batch.errors import InvalidArgumentError, RequestTooLargeError, UnknownOptionError
from nano_batch.workloads import Workload

RESERVATIONS = st.sampled_from(["max", "pow2", "oracle"])


def reserved(kind: str, prompt: int, output: int, longest: int) -> int:
    powers = {"pow2": prompt + 2 ** int(np.ceil(np.log2(output))), "oracle": prompt + output - 1}
    return powers.get(kind, longest)


class SlotBySlot:
    """First fit in an array with one entry a slot, requests served first come, first served."""

    def __init__(self, size: int, most: int) -> None:
        self.owner = np.full(size, -1)
        self.most = most
        self.waiting: list[tuple[int, int]] = []

    def gaps(self) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self.owner == -1, [0]])))
        return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]

    def admit(self) -> None:
        while self.waiting and len(set(self.owner.tolist()) - {-1}) < self.most:
            row, wanted = self.waiting[0]
            start = next((at for at, length in self.gaps() if length >= wanted), None)
            if start is None:
                return
            self.owner[start : start + wanted] = row
            self.waiting.pop(0)


@settings(max_examples=40, deadline=None)
@given(RESERVATIONS, st.integers(0, 10**6), st.integers(1, 6))
def test_every_step_finds_the_regions_of_a_slot_by_slot_model(kind, seed, most):
    rng = np.random.default_rng(seed)
    count, size, longest = 20, 96, 48
    prompts, outputs = rng.integers(1, 17, count), rng.integers(1, 17, count)
    workload = Workload(np.sort(rng.uniform(0, 40, count)), prompts, outputs)
    run = simulate(
        workload,
        cost=1.0,
        reservation=kind,
        num_blocks=size // 4,
        block_size=4,
        max_model_len=longest,
        max_num_seqs=most,
        max_num_batched_tokens=64,
    )
    model, arrived = SlotBySlot(size, most), 0
    steps, requests = run.steps, run.requests
    for at in range(len(steps)):
        start = steps.start_s[at]
        for row in np.flatnonzero(requests.finish_s <= start):
            model.owner[model.owner == row] = -1
        while arrived < count and workload.arrival_s[arrived] <= start:
            wanted = reserved(kind, int(prompts[arrived]), int(outputs[arrived]), longest)
            model.waiting.append((arrived, wanted))
            arrived += 1
        model.admit()
        held = [row for row in range(count) if (model.owner == row).any()]
        ends = sum(int(prompts[row] + outputs[row] - 1) for row in held)
        wanted = model.waiting[0][1] if model.waiting else 0
        holes = [length for _, length in model.gaps()]
        assert steps.blocks_used[at] == (model.owner >= 0).sum()
        assert steps.slots_used[at] + steps.slots_reserved[at] == ends
        assert steps.slots_internal[at] == (model.owner >= 0).sum() - ends
        assert steps.slots_wanted[at] == wanted
        assert steps.slots_external[at] == sum(length for length in holes if length < wanted)
        assert steps.slots_largest_hole[at] == max(holes, default=0)
        assert steps.blocks_used[at] + steps.blocks_free[at] == size
    assert np.isfinite(requests.finish_s).all()


def test_an_oracle_wastes_nothing_inside_and_the_maximum_most():
    workload = Workload.synthetic(200, seed=3, arrivals="at_once")
    options = {"num_blocks": 4096, "block_size": 16, "max_model_len": 16384}
    inside = {
        kind: simulate(workload, reservation=kind, **options).steps.slots_internal.mean()
        for kind in ("oracle", "pow2", "max")
    }
    assert inside["oracle"] == 0 < inside["pow2"] < inside["max"]


def test_bad_input_is_refused_by_name():
    workload = Workload([0.0], [40], [8])
    with pytest.raises(UnknownOptionError, match='did you mean "max"'):
        simulate(workload, reservation="mx", num_blocks=8)
    with pytest.raises(InvalidArgumentError, match="max_model_len is None"):
        simulate(workload, reservation="max", num_blocks=8)
    with pytest.raises(RequestTooLargeError, match=r'"r0" needs 200 slots of one region.*limit is 128'):
        simulate(workload, reservation="max", num_blocks=8, max_model_len=200)
    with pytest.raises(InvalidArgumentError, match="event_log is on"):
        simulate(workload, reservation="pow2", num_blocks=8, event_log=True)
    with pytest.raises(InvalidArgumentError, match="sliding_window is 8"):
        simulate(workload, reservation="pow2", num_blocks=8, sliding_window=8)
