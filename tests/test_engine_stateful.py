"""Hypothesis drives the engine through Python in any order that a driver may choose."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from nano_batch import Engine
from nano_batch.errors import CannotForkError, DuplicateRequestError, RequestTooLargeError
from nano_batch.records import State
from nano_batch.records.replayer import Replayer

STOP = 3


class Driver(RuleBasedStateMachine):
    """A driver that adds, steps, updates, aborts, finishes and forks, in both forms.

    It believes nothing: outputs are compared with the tokens that it gave.
    """

    names = Bundle("names")

    @initialize(
        num_blocks=st.integers(2, 14),
        block_size=st.integers(1, 5),
        max_num_seqs=st.integers(1, 5),
        budget=st.integers(1, 20),
        policy=st.sampled_from(["fcfs", "priority", "sjf", "lpm", "static", "prefill_first"]),
        swap_blocks=st.integers(0, 6),
        caching=st.booleans(),
        chunked=st.booleans(),
        window=st.none() | st.integers(1, 9),
        eviction=st.sampled_from(["lru", "lfu", "fifo"]),
        hash_bits=st.sampled_from([4, 128]),
    )
    def make(
        self, num_blocks: int, budget: int, swap_blocks: int, caching: bool, chunked: bool, **rest: Any
    ) -> None:
        window = rest.pop("window")
        self.engine = Engine(
            num_blocks,
            max_num_batched_tokens=budget,
            preemption="swap" if swap_blocks else "recompute",
            num_swap_blocks=swap_blocks,
            enable_prefix_caching=caching,
            enable_chunked_prefill=chunked,
            sliding_window=window,
            max_model_len=60 if window else None,
            event_log=True,
            **rest,
        )
        self.buffers = [self.engine.array_buffers(), self.engine.array_buffers()]
        self.engine.bind(self.buffers)
        self.next_set = 0
        self.replayer = Replayer(State.of(self.engine.snapshot()))
        #: tokens of each sequence that lives, and how many it may still say
        self.tokens: dict[str, list[int]] = {}
        self.left: dict[str, int] = {}
        #: sequences of each request
        self.members: dict[str, set[str]] = {}
        #: requests whose n sequences start when their prompt ends
        self.splits: dict[str, int] = {}
        #: what the outstanding step awaits: a name's sequences, or an array's
        self.named: dict[str, list[str]] = {}
        self.listed: tuple[int, list[str]] | None = None

    @rule(
        target=names,
        number=st.integers(0, 30),
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=20),
        max_tokens=st.integers(1, 12),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        priority=st.integers(0, 2),
        salt=st.sampled_from(["", "", "salt"]),
    )
    def add(self, number: int, prompt: list[int], max_tokens: int, n: int, priority: int, salt: str) -> Any:
        name = f"q{number}"
        before = self.engine.snapshot()
        try:
            self.engine.add_request(
                name, prompt, max_tokens, n=n, priority=priority, stop_token_ids=[STOP], cache_salt=salt
            )
        except DuplicateRequestError:
            assert name in self.members
            assert self.engine.snapshot() == before
            return multiple()
        except RequestTooLargeError:
            assert name not in self.members
            assert self.engine.snapshot() == before
            return multiple()
        self.tokens[name], self.left[name] = list(prompt), max_tokens
        self.members[name] = {name}
        if n > 1:
            self.splits[name] = n
        return name

    @precondition(lambda self: not self.named and self.listed is None)
    @rule()
    def step(self) -> None:
        output = self.engine.step()
        tokens = iter(output.token_ids)
        for name, count, start in zip(
            output.scheduled_requests, output.num_tokens_per_request, output.num_computed_tokens, strict=True
        ):
            said = self.tokens[name][start : start + count]
            assert [next(tokens) for _ in range(count)] == said, "input tokens"
        assert len(output.token_ids) <= self.engine.max_num_batched_tokens
        assert len(set(output.slot_mappings)) == len(output.slot_mappings)
        self.named = {name: self.speakers(name) for name in output.sampled_requests}

    def speakers(self, name: str) -> list[str]:
        """The sequences that answer for `name` from this step on."""
        if name not in self.splits:
            return [name]
        names = [f"{name}/{at}" for at in range(self.splits.pop(name))]
        for one in names:
            self.tokens[one], self.left[one] = list(self.tokens[name]), self.left[name]
        del self.tokens[name], self.left[name]
        self.members[name] = set(names)
        return names

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def update(self, data: st.DataObject) -> None:
        given: dict[str, Any] = {}
        expected = []
        for name, speakers in self.named.items():
            values = [data.draw(st.integers(0, STOP)) for _ in speakers]
            given[name] = values if len(values) > 1 else values[0]
            for speaker, value in zip(speakers, values, strict=True):
                expected += self.say(speaker, value)
        self.named = {}
        assert self.engine.update(given) == expected

    @precondition(lambda self: not self.named and self.listed is None)
    @rule(pad_to=st.integers(0, 5))
    def step_arrays(self, pad_to: int) -> None:
        counts = self.engine.step_arrays(pad_to=min(pad_to, self.engine.max_num_seqs))
        arrays = self.buffers[self.next_set]
        self.next_set = 1 - self.next_set
        assert counts.tokens <= self.engine.max_num_batched_tokens
        assert (arrays["lanes"][counts.rows : counts.padded_rows] == -1).all()
        assert len(np.unique(arrays["slot_mapping"][: counts.tokens])) == counts.tokens
        if not counts.rows:
            return
        state = self.engine.snapshot()
        for name in list(self.splits):
            if f"{name}/0" in state.running:
                self.speakers(name)
        names = {
            int(lane): state.request_ids[int(uid)]
            for uid, lane in zip(state.sequence, state.lane, strict=True)
            if lane >= 0
        }
        self.listed = (
            counts.step,
            [names[lane] for lane in arrays["sample_lanes"][: counts.samples].tolist()],
        )

    @precondition(lambda self: self.listed is not None)
    @rule(data=st.data())
    def update_arrays(self, data: st.DataObject) -> None:
        assert self.listed is not None
        step, speakers = self.listed
        values = [data.draw(st.integers(0, STOP)) for _ in speakers]
        self.listed = None
        expected = [
            end for speaker, value in zip(speakers, values, strict=True) for end in self.say(speaker, value)
        ]
        assert self.engine.update_arrays(step, np.array(values, np.int32)) == expected

    def say(self, speaker: str, token: int) -> list[tuple[str, str]]:
        """A sequence gets a token, unless it ended before; why it ends with it, if it does."""
        if speaker not in self.tokens:
            return []
        self.tokens[speaker].append(token)
        self.left[speaker] -= 1
        if token != STOP and self.left[speaker]:
            return []
        self.forget(speaker)
        return [(speaker, "stop" if token == STOP else "length")]

    def forget(self, name: str) -> None:
        del self.tokens[name], self.left[name]
        request = next(request for request, members in self.members.items() if name in members)
        self.members[request].discard(name)
        if not self.members[request]:
            del self.members[request]
            self.splits.pop(request, None)

    @rule(name=consumes(names), reason=st.sampled_from(["abort", "stop_string"]))
    def end(self, name: str, reason: str) -> None:
        if name not in self.members:
            return
        members = list(self.members[name])
        assert sorted(self.engine.finish(name, reason)) == sorted((member, reason) for member in members)
        for member in members:
            self.forget(member)
        # A step of which nothing is awaited any more may be followed by the next.
        self.named = {n: s for n, s in self.named.items() if any(one in self.tokens for one in s)}

    @rule(target=names, parent=names, number=st.integers(100, 120), sibling=st.integers(0, 2))
    def fork(self, parent: str, number: int, sibling: int) -> Any:
        parent = parent if parent in self.tokens else f"{parent}/{sibling}"
        name = f"f{number}"
        if parent not in self.tokens or name in self.members:
            return multiple()
        try:
            self.engine.fork(parent, name)
        except CannotForkError:
            assert parent in self.splits
            return multiple()
        self.tokens[name], self.left[name] = list(self.tokens[parent]), self.left[parent]
        self.members[name] = {name}
        if any(parent in speakers for speakers in self.named.values()):
            self.named[name] = [name]
        if self.listed is not None and parent in self.listed[1]:
            self.listed[1].append(name)
        return name

    @invariant()
    def blocks_have_owners(self) -> None:
        if not hasattr(self, "engine"):
            return
        state = self.engine.snapshot()
        owners = np.zeros(self.engine.num_blocks, np.int32)
        np.add.at(owners, state.tables[state.tables >= 0], 1)
        assert (owners == state.block_references).all()
        used, cached, free = state.block_counts
        assert (cached, free) == (self.engine.num_cached_blocks, self.engine.num_free_blocks)
        assert used + cached + free == self.engine.num_blocks
        lanes = state.lane[state.state == 1]
        assert len(set(lanes.tolist())) == len(lanes) <= self.engine.max_num_seqs
        assert len(state.running) == self.engine.num_running
        log = self.engine.events()
        self.replayer.run(log, log.first_event + len(log))
        assert not state.differences(self.replayer.state())

    @invariant()
    def the_same_sequences_live(self) -> None:
        if hasattr(self, "engine"):
            state = self.engine.snapshot()
            assert {*state.running, *state.waiting} == set(self.tokens)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        if self.listed is not None:
            self.engine.update_arrays(self.listed[0], np.zeros(len(self.listed[1]), np.int32))
        for _ in range(3000):
            self.engine.update({name: [0] * len(s) if len(s) > 1 else 0 for name, s in self.named.items()})
            if not self.engine.has_unfinished:
                break
            output = self.engine.step()
            self.named = {name: [name] * self.splits.pop(name, 1) for name in output.sampled_requests}
        assert not self.engine.has_unfinished, "every request ends"
        assert self.engine.num_free_blocks + self.engine.num_cached_blocks == self.engine.num_blocks


TestDriver = Driver.TestCase
TestDriver.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
