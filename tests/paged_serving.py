"""Serves a tiny model through engine, cache and attention, and checks every token against the dense model.

A token is the likeliest or, for a quarter of the places, the second likeliest of the dense logits: which one
is a function of the sequence's name and the place, so that sequences with one prompt part and outputs do not
settle into a loop; a fork begins with the third likeliest. Whatever no sequence
owns and no cache keeps is NaN after every step.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque

import numpy as np
import torch

from nano_batch.core import Engine
from nano_batch.models import PagedRunner

# Matrices this small only wait for further threads, long when the machine is busy.
torch.set_num_threads(1)


def rank_of(name, place):
    """0 takes the likeliest token at this place of this sequence's output, 1 the second likeliest."""
    return int(zlib.crc32(f"{name}:{place}".encode()) % 4 == 0)


class Serving:
    """The friendly form of the engine in a loop."""

    def __init__(self, model, num_blocks, block_size, *, num_swap_blocks=0, layout="NHD", **options):
        self.model = model
        self.engine = Engine(
            num_blocks, block_size, num_swap_blocks=num_swap_blocks,
            sliding_window=model.config.sliding_window, **options,
        )  # fmt: skip
        self.cache = model.new_cache(num_blocks, block_size, num_swap_blocks=num_swap_blocks, layout=layout)
        self.runner = PagedRunner(model, self.cache)
        self.prompts, self.tokens, self.ranks, self.lanes_wanted, self.parts = {}, {}, {}, {}, {}
        self.ended, self.seen = {}, Counter()
        self.cache._host_blocks.fill_(float("nan"))
        self.poison()

    def add(self, name, prompt, max_tokens, *, n=1, **options):
        self.engine.add_request(name, prompt, max_tokens, n=n, **options)
        self.lanes_wanted[name] = n
        for sequence in [name] if n == 1 else [f"{name}/{index}" for index in range(n)]:
            self.prompts[sequence], self.tokens[sequence], self.ranks[sequence] = list(prompt), [], []

    def fork(self, name, new_id):
        self.engine.fork(name, new_id)
        self.lanes_wanted[new_id] = 1
        for columns in (self.prompts, self.tokens, self.ranks):
            columns[new_id] = list(columns[name])
        self.parts[new_id] = len(self.tokens[new_id])

    def abort(self, name):
        self.ended.update(self.engine.abort(name))

    def step(self, forks=()):
        """Plan, compute, and give tokens; `forks` (parent, new id) are made between plan and tokens."""
        output = self.engine.step()
        self.seen.update(
            steps=1, preempted=len(output.preempted), swap_out=len(output.swap_out),
            swap_in=len(output.swap_in), copies=len(output.copies), cached=sum(output.num_cached_tokens),
            mixed=int(0 < output.num_decodes < len(output.scheduled_requests)),
        )  # fmt: skip
        logits = self.runner.run(output)
        for _, host in output.swap_out:
            assert not self.cache._host_blocks[host].isnan().all()
        for host, _ in output.swap_in:
            self.cache._host_blocks[host] = float("nan")
        chosen = {}
        for name, row in logits.items():
            lanes = self.lanes_wanted.get(name, 1)
            if lanes == 1:
                chosen[name] = self.choose(name, row)
            else:
                chosen[name] = [self.choose(f"{name}/{index}", row, index) for index in range(lanes)]
                self.lanes_wanted[name] = 1
        for parent, new_id in forks:
            if parent in logits:
                place = self.tokens[parent].pop(), self.ranks[parent].pop()
                self.fork(parent, new_id)
                self.tokens[parent].append(place[0])
                self.ranks[parent].append(place[1])
                chosen[new_id] = self.choose(new_id, logits[parent])
            else:
                self.fork(parent, new_id)
        self.ended.update(self.engine.update(chosen))
        self.poison()
        return output

    def choose(self, name, logits, rank=None):
        place = len(self.tokens[name])
        if rank is None:
            rank = 2 if self.parts.get(name) == place else rank_of(name, place)
        token = int(logits.topk(rank + 1).indices[-1])
        self.tokens[name].append(token)
        self.ranks[name].append(rank)
        return token

    def poison(self):
        state = self.engine.snapshot()
        unowned = (state.block_references == 0) & (state.block_cached == 0)
        blocks = torch.from_numpy(np.flatnonzero(unowned))
        for layer in range(self.cache.num_layers):
            for view in self.cache.layer(layer):
                view[blocks] = float("nan")

    def run(self, limit=3000):
        while self.engine.has_unfinished:
            self.step()
            assert self.seen["steps"] < limit, "the engine makes no progress"
        self.check()

    def check(self):
        """Every token is the one that the dense model gives at its place, and no block is still owned."""
        assert self.tokens
        for name, tokens in self.tokens.items():
            check_tokens(self.model, self.prompts[name], tokens, self.ranks[name])
        assert not self.engine.snapshot().block_references.any()


def check_tokens(model, prompt, tokens, ranks):
    if not tokens:
        return
    logits = model.dense([*prompt, *tokens[:-1]])[len(prompt) - 1 :]
    best = logits.topk(max(ranks) + 1).indices
    expected = [int(row[rank]) for row, rank in zip(best, ranks, strict=True)]
    assert tokens == expected


class ArrayServing:
    """The array form in a loop, up to `depth` planned steps having tokens that the engine does not know."""

    def __init__(self, model, num_blocks, block_size, *, depth, padded=False, num_swap_blocks=0, **options):
        self.model, self.depth = model, depth
        self.engine = Engine(
            num_blocks, block_size, num_swap_blocks=num_swap_blocks,
            sliding_window=model.config.sliding_window, **options,
        )  # fmt: skip
        self.buffers = [self.engine.array_buffers(), self.engine.array_buffers()]
        self.engine.bind(self.buffers)
        self.cache = model.new_cache(num_blocks, block_size, num_swap_blocks=num_swap_blocks)
        self.runner = PagedRunner(model, self.cache)
        self.newest = torch.zeros(self.engine.max_num_seqs, dtype=torch.int64)
        self.pad_to = self.engine.max_num_seqs if padded else None
        self.pending, self.names = deque(), {}
        self.prompts, self.sampled, self.tokens, self.ended = {}, {}, {}, {}
        self.seen, self.turn = Counter(), 0
        Serving.poison(self)

    def add(self, name, prompt, max_tokens, *, n=1, **options):
        self.engine.add_request(name, prompt, max_tokens, n=n, **options)
        for sequence in [name] if n == 1 else [f"{name}/{index}" for index in range(n)]:
            self.prompts[sequence], self.sampled[sequence], self.tokens[sequence] = list(prompt), [], []

    def abort(self, name):
        self.ended.update(self.engine.abort(name))

    def step(self):
        counts = self.engine.step_arrays(self.pad_to)
        buffers, self.turn = self.buffers[self.turn], 1 - self.turn
        self.take_lanes()
        movement = self.engine.movement()
        self.seen.update(
            steps=1, preempted=counts.preempted, swap_out=len(movement[0]), swap_in=len(movement[1]),
            unknown=int((buffers["token_ids"][: counts.tokens] < 0).sum()),
        )  # fmt: skip
        logits = self.runner.run_arrays(counts, movement, buffers, self.newest)
        lanes = buffers["sample_lanes"][: counts.samples].tolist()
        names = [self.names[lane] for lane in lanes]
        drawn = [self.choose(name, row) for name, row in zip(names, logits, strict=True)]
        self.newest[lanes] = torch.tensor(drawn, dtype=torch.int64)
        if counts.rows:
            self.pending.append((counts.step, names, drawn))
        if len(self.pending) > self.depth or (self.pending and not counts.rows):
            self.retire()
        Serving.poison(self)

    def take_lanes(self):
        for name, lane, _ in self.engine.lane_changes()[0]:
            base, _, index = name.rpartition("/")
            if index.isdigit() and base in self.names.values():
                first = next(lane for lane, known in self.names.items() if known == base)
                self.names[first] = f"{base}/0"
            self.names[lane] = name

    def choose(self, name, logits):
        place = len(self.sampled[name])
        rank = rank_of(name, place)
        index = name.rpartition("/")[2]
        if place == 0 and index.isdigit():
            rank = int(index)
        token = int(logits.topk(rank + 1).indices[-1])
        self.sampled[name].append((token, rank))
        return token

    def retire(self):
        step, names, drawn = self.pending.popleft()
        for name, token in zip(names, drawn, strict=True):
            if name not in self.ended:
                assert self.sampled[name][len(self.tokens[name])][0] == token
                self.tokens[name].append(token)
        self.ended.update(self.engine.update_arrays(step, np.array(drawn, dtype=np.int32)))

    def run(self, between=lambda serving: None, limit=3000):
        while self.engine.has_unfinished or self.pending:
            self.step()
            between(self)
            assert self.seen["steps"] < limit, "the engine makes no progress"
        for name, tokens in self.tokens.items():
            ranks = [rank for _, rank in self.sampled[name][: len(tokens)]]
            check_tokens(self.model, self.prompts[name], tokens, ranks)
        assert not self.engine.snapshot().block_references.any()
