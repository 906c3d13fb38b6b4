"""The tiny transformer: its paged form computes what its dense form computes."""

from __future__ import annotations

import random

import pytest
import torch

from nano_batch import errors
from nano_batch.models import PagedInputs, TinyConfig, TinyTransformer


class Paged:
    """Sequences in a cache whose blocks are dealt at random and whose unwritten slots are NaN."""

    def __init__(self, model, block_size, prompts, seed=0):
        self.model, self.size, self.rng = model, block_size, random.Random(seed)
        self.cache = model.new_cache(-(-64 // block_size) * len(prompts), block_size)
        for layer in range(model.config.num_layers):
            for view in self.cache.layer(layer):
                view.fill_(float("nan"))
        self.free = self.rng.sample(range(self.cache.num_blocks), self.cache.num_blocks)
        self.tokens, self.stored = [list(prompt) for prompt in prompts], [0] * len(prompts)
        self.tables = [[self.free.pop() for _ in range(-(-64 // block_size))] for _ in prompts]

    def step(self, counts):
        """Compute `counts[row]` further tokens of each row; return their logits row by row."""
        tokens, positions, slots = [], [], []
        for row, count in enumerate(counts):
            for position in range(self.stored[row], self.stored[row] + count):
                tokens.append(self.tokens[row][position])
                positions.append(position)
                slots.append(self.tables[row][position // self.size] * self.size + position % self.size)
            self.stored[row] += count
        inputs = PagedInputs(
            torch.tensor(tokens), torch.tensor(positions), slots,
            torch.tensor(self.tables, dtype=torch.int32), torch.tensor(self.stored, dtype=torch.int32),
            torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32),
        )  # fmt: skip
        return self.model.paged(inputs, self.cache).split(counts)


def prompts_of(model, lengths, seed):
    rng = random.Random(seed)
    return [[rng.randrange(model.config.vocab_size) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
def test_chunks_and_decodes_equal_the_dense_forward(block_size, window):
    model = TinyTransformer(TinyConfig(sliding_window=window), seed=block_size)
    prompts = prompts_of(model, [20, 7, 11], seed=block_size)
    paged = Paged(model, block_size, prompts)
    parts = [[], [], []]
    for counts in ([1, 1, 4], [1, 3, 5], [10, 1, 1], [8, 2, 1]):
        for row, logits in enumerate(paged.step(counts)):
            parts[row].append(logits)
    for prompt, logits in zip(prompts, parts, strict=True):
        torch.testing.assert_close(torch.cat(logits), model.dense(prompt), atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("window", [None, 6])
def test_greedy_tokens_are_the_same(dtype, window):
    model = TinyTransformer(TinyConfig(sliding_window=window), seed=1, dtype=dtype)
    prompts = prompts_of(model, [5, 1, 9], seed=3)
    paged = Paged(model, 4, prompts)
    counts = [5, 1, 9]
    for _ in range(30):
        for row, logits in enumerate(paged.step(counts)):
            paged.tokens[row].append(int(logits[-1].argmax()))
        counts = [1, 1, 1]
    for prompt, tokens in zip(prompts, paged.tokens, strict=True):
        assert tokens[len(prompt) :] == model.greedy(prompt, 30)


def test_every_token_matters():
    """What the comparisons rest on: changing any one visible token changes the next logits by much."""
    model = TinyTransformer(seed=1)
    (prompt,) = prompts_of(model, [40], seed=5)
    logits = model.dense(prompt)[-1]
    for position in range(40):
        other = [*prompt]
        other[position] = (other[position] + 1) % model.config.vocab_size
        assert (model.dense(other)[-1] - logits).abs().max() > 1e-4
    assert len(set(model.greedy(prompt, 40))) > 10


def test_the_window_hides_what_lies_before_it():
    """Through two layers a window of 4 reaches back 2 * (4 - 1) positions, and no further."""
    model = TinyTransformer(TinyConfig(sliding_window=4), seed=1)
    (prompt,) = prompts_of(model, [20], seed=6)
    logits = model.dense(prompt)[-1]
    for position, same in [(12, True), (13, False)]:
        other = [*prompt]
        other[position] = (other[position] + 1) % model.config.vocab_size
        assert torch.equal(model.dense(other)[-1], logits) == same


def test_a_seed_gives_one_model():
    assert torch.equal(TinyTransformer(seed=4).dense([1, 2, 3]), TinyTransformer(seed=4).dense([1, 2, 3]))
    assert not torch.equal(TinyTransformer(seed=4).dense([1, 2]), TinyTransformer(seed=5).dense([1, 2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 does not divide num_heads=4"),
        ({"head_dim": 7}, "head_dim=7 is not even"),
        ({"sliding_window": 0}, "sliding_window=0"),
    ],
)
def test_sizes_that_make_no_model_are_refused(change, message):
    with pytest.raises(errors.InvalidArgumentError, match=message):
        TinyConfig(**change)


def test_a_cache_of_another_model_is_refused():
    model, other = TinyTransformer(), TinyTransformer(TinyConfig(num_layers=3))
    inputs = PagedInputs(
        torch.tensor([1]),
        torch.tensor([0]),
        [0],
        torch.tensor([[0]]),
        torch.tensor([1]),
        torch.tensor([0, 1]),
    )
    with pytest.raises(errors.ShapeError, match="the cache has 3 layers"):
        model.paged(inputs, other.new_cache(4, 2))
