"""The sampler against a row by row reference in float64, written from the definitions."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from nano_batch import SamplingParams  # noqa: E402
from nano_batch.engine.random_numbers import uniform  # noqa: E402
from nano_batch.engine.sampler import Sampler, greedy  # noqa: E402

CPU = torch.device("cpu")
VOCAB = 23


def row_of(params, *, seed=0, sequence=0, prompt=(), output=()):
    return SimpleNamespace(params=params, seed=seed, sequence=sequence, prompt=prompt, output=output)


def admit(sampler, lane, row):
    sampler.admit(lane, row.params, row.seed, row.sequence, row.prompt, row.output)


def sample(sampler, logits, lanes):
    return sampler.sample(logits, torch.tensor(lanes), lanes)


def sampled(rows, logits, lanes=None):
    """What a new sampler makes of rows, each in the lane of its place unless others are given."""
    lanes = list(range(len(rows))) if lanes is None else lanes
    sampler = Sampler(max(lanes) + 1, logits.shape[1], CPU)
    for lane, row in zip(lanes, rows, strict=True):
        admit(sampler, lane, row)
    return sample(sampler, logits, lanes)


def penalised(logits, row):
    """float64 logits after the penalties and, before min_tokens, without the stop tokens."""
    p, scores = row.params, logits.double().tolist()
    for token in {*row.prompt, *row.output}:
        scores[token] *= 1 / p.repetition_penalty if scores[token] > 0 else p.repetition_penalty
    for token, count in Counter(row.output).items():
        scores[token] -= p.presence_penalty + p.frequency_penalty * count
    for token in p.stop_token_ids:
        if len(row.output) < p.min_tokens and token < len(scores):
            scores[token] = -math.inf
    return scores


def probabilities(logits, row):
    """The exact probability of each token, by the definitions, in float64."""
    p, scores = row.params, penalised(logits, row)
    if p.temperature == 0:
        return [float(token == scores.index(max(scores))) for token in range(len(scores))]
    weights = [math.exp((score - max(scores)) / p.temperature) for score in scores]
    order = sorted(range(len(weights)), key=lambda token: -weights[token])
    kept = order[: p.top_k or len(order)]
    total, before, nucleus = sum(weights[token] for token in kept), 0.0, []
    for token in kept:
        if before < p.top_p * total or p.top_p == 1:
            nucleus.append(token)
        before += weights[token]
    kept = {token for token in nucleus if weights[token] >= p.min_p * weights[order[0]]}
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(weights))]


def by_inversion(logits, row):
    """The token that the row's number falls on, and how far it is from the border of another's part."""
    chances = probabilities(logits, row)
    order = list(range(len(chances)))
    if row.params.filtered:
        scores = penalised(logits, row)
        order.sort(key=lambda token: -scores[token])
    ints = (torch.tensor([one]) for one in (row.seed, row.sequence, len(row.output)))
    number, reached = float(uniform(*ints)), 0.0
    borders = []
    for token in order:
        borders.append(reached)
        reached += chances[token]
    found = max(
        at for at, border in enumerate(borders) if border <= number and (chances[order[at]] > 0 or at == 0)
    )
    return order[found], min(abs(number - border) for border in [*borders, reached])


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([None, 1, 3, 10, 500]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.6]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    presence_penalty=st.sampled_from([0.0, 0.8, -0.8]),
    frequency_penalty=st.sampled_from([0.0, 0.4, -0.4]),
    min_tokens=st.sampled_from([0, 3, 8]),
    stop_token_ids=st.sampled_from([(), (3,), (1, 7, 500)]),
)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=12)
ROWS = st.builds(
    lambda params, seed, sequence, prompt, output: row_of(
        params, seed=seed, sequence=sequence, prompt=prompt, output=output
    ),
    PARAMS,
    st.integers(0, 2**63 - 1),
    st.integers(0, 5),
    TOKENS,
    TOKENS,
)


@given(rows=st.lists(ROWS, min_size=1, max_size=5), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=300, deadline=None)
def test_tokens_are_those_of_the_definitions(rows, seed, data):
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    before = logits.clone()
    lanes = data.draw(st.permutations(range(len(rows))))
    tokens = sampled(rows, logits, lanes).tokens.tolist()
    for token, row, scores in zip(tokens, rows, logits, strict=True):
        expected, margin = by_inversion(scores, row)
        # Where float32 may see the number on the other side of a border, the token must be possible at all.
        assert token == expected or (margin < 1e-5 and probabilities(scores, row)[token] > 0)
    assert torch.equal(logits, before)


# Chi-square with as many degrees of freedom: the value passed once in a million.
def chi_square_limit(freedom):
    return freedom * (1 - 2 / (9 * freedom) + 4.753 * math.sqrt(2 / (9 * freedom))) ** 3  # Wilson, Hilferty


def chi_square(counts, expected):
    return sum((count - want) ** 2 / want for count, want in zip(counts, expected, strict=True))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.6),
        SamplingParams(top_k=6),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.1),
        SamplingParams(temperature=1.7, top_k=15, top_p=0.9, min_p=0.05),
        SamplingParams(repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.3, top_p=0.95),
    ],
    ids=repr,
)
def test_tokens_are_drawn_as_often_as_their_probability_says(params):
    draws = 20_000
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(5)) * 1.5
    rows = [row_of(params, seed=seed, prompt=(1, 2), output=(2, 5, 5)) for seed in range(draws)]
    counts = torch.bincount(sampled(rows, logits.expand(draws, -1)).tokens, minlength=VOCAB).tolist()
    chances = probabilities(logits[0], rows[0])
    assert all(count == 0 for count, chance in zip(counts, chances, strict=True) if chance == 0)
    likely = [token for token in range(VOCAB) if chances[token] * draws >= 5]
    assert len(likely) >= 3
    statistic = chi_square([counts[token] for token in likely], [chances[token] * draws for token in likely])
    assert statistic < chi_square_limit(len(likely))
    # The test can fail: a quarter more for the likeliest token is seen.
    moved = [chances[token] * draws * (1.25 if chances[token] == max(chances) else 1) for token in likely]
    assert chi_square([counts[token] for token in likely], moved) > chi_square_limit(len(likely))


def test_a_sequence_of_tokens_is_drawn_independently():
    """Pairs of tokens at following places come as often as the product of their probabilities says."""
    sampler, logits = Sampler(8000, 3, CPU), torch.tensor([[0.0, 0.5, 1.0]]).expand(8000, -1)
    for lane in range(8000):
        admit(sampler, lane, row_of(SamplingParams(), seed=7, sequence=lane))
    lanes = list(range(8000))
    first, second = (sample(sampler, logits, lanes).tokens for _ in range(2))
    chances = logits[0].double().softmax(0)
    expected = (chances[:, None] * chances * 8000).flatten().tolist()
    assert chi_square(torch.bincount(first * 3 + second, minlength=9).tolist(), expected) < chi_square_limit(
        8
    )


GRIDS = {
    "seeds": lambda i: (i, 0 * i, 0 * i),
    "sequences": lambda i: (0 * i + 9, i, 0 * i),
    "places": lambda i: (0 * i + 9, 0 * i, i),
    "all": lambda i: (i // 10_000, i // 100 % 100, i % 100),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_random_numbers_are_uniform_and_independent_of_their_neighbours(grid):
    count = 100_000
    numbers = uniform(*GRIDS[grid](torch.arange(count))).numpy()
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert len(np.unique(numbers)) == count
    bins = np.bincount((numbers * 64).astype(int), minlength=64)
    assert chi_square(bins, [count / 64] * 64) < chi_square_limit(63)
    for distance in (1, 2, 100, 10_000):
        pairs = (numbers[:-distance] * 8).astype(int) * 8 + (numbers[distance:] * 8).astype(int)
        assert chi_square(np.bincount(pairs, minlength=64), [len(pairs) / 64] * 64) < chi_square_limit(63)
    low_bits = (numbers * 2.0**52).astype(np.int64) % 16
    assert chi_square(np.bincount(low_bits, minlength=16), [count / 16] * 16) < chi_square_limit(15)


def test_random_numbers_are_those_of_splitmix64():
    """In plain integers of any size, for seeds at both ends of their range."""

    def mixed(x):
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    golden = 0x9E3779B97F4A7C15
    for seed in (0, 1, 123_456_789, 2**63 - 1):
        for sequence, place in ((0, 0), (3, 0), (0, 5), (2**16, 2**31)):
            state = mixed(mixed((seed + golden) % 2**64) ^ ((sequence + 1) * golden) % 2**64)
            bits = mixed((state + (place + 1) * golden) % 2**64)
            assert float(uniform(*(torch.tensor([one]) for one in (seed, sequence, place)))) == (
                ((bits >> 12) + 0.5) * 2.0**-52
            )


@given(rows=st.lists(ROWS, min_size=2, max_size=9), vocab=st.integers(VOCAB, 70), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_a_row_is_sampled_alike_in_any_batch(rows, vocab, seed):
    for row in rows:
        row.params.__dict__["logprobs"] = 3
    logits = torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(seed)) * 3
    together = sampled(rows, logits)
    for place, row in enumerate(rows):
        alone = sampled([row], logits[place : place + 1], [place % 3])
        assert together.logprobs_of(place, 3) == alone.logprobs_of(0, 3)
        assert together.tokens[place] == alone.tokens[0]


@pytest.mark.parametrize(
    "changes", [{}, {"top_p": 0.9}, {"frequency_penalty": 0.9, "repetition_penalty": 1.2}]
)
def test_another_lane_continues_the_stream(changes):
    row = row_of(SamplingParams(**changes), seed=11, sequence=2, prompt=(1, 2))
    logits = torch.randn(30, 1, VOCAB, generator=torch.Generator().manual_seed(1))
    stays, moves = Sampler(4, VOCAB, CPU), Sampler(4, VOCAB, CPU)
    admit(stays, 0, row)
    expected = [int(sample(stays, one, [0]).tokens) for one in logits]
    assert len(set(expected)) > 3
    row.output = []
    for place, one in enumerate(logits):
        lane = place // 5 % 4
        if place % 5 == 0:
            # Who had the lane before leaves nothing behind.
            admit(moves, lane, row_of(SamplingParams(presence_penalty=1.0), output=[3] * 9))
            sample(moves, torch.zeros(1, VOCAB), [lane])
            admit(moves, lane, row)
        row.output.append(int(sample(moves, one, [lane]).tokens))
    assert row.output == expected


ALL_KINDS = [
    SamplingParams(temperature=0),
    SamplingParams(),
    SamplingParams(top_k=3, top_p=0.9),
    SamplingParams(presence_penalty=0.5, logprobs=2),
]
FAULTY = {
    "nan": lambda row: row.index_fill_(0, torch.tensor([4]), math.nan),
    "all nan": lambda row: row.fill_(math.nan),
    "inf": lambda row: row.index_fill_(0, torch.tensor([4]), math.inf),
    "all -inf": lambda row: row.fill_(-math.inf),
}


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.parametrize("params", ALL_KINDS, ids=repr)
def test_a_row_that_is_no_number_gives_minus_one_and_leaves_others_alone(fault, params):
    rows = [row_of(one, seed=place) for place, one in enumerate([*ALL_KINDS, params, *ALL_KINDS])]
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(2))
    good = sampled(rows, logits).tokens.tolist()
    assert min(good) >= 0
    FAULTY[fault](logits[len(ALL_KINDS)])
    good[len(ALL_KINDS)] = -1
    assert sampled(rows, logits).tokens.tolist() == good


@pytest.mark.parametrize("params", ALL_KINDS, ids=repr)
def test_a_token_of_minus_infinity_is_never_drawn(params):
    logits = torch.full((200, VOCAB), -math.inf)
    logits[:, [3, 8]] = torch.tensor([0.0, 1.0])
    tokens = sampled([row_of(params, seed=seed) for seed in range(200)], logits).tokens
    assert set(tokens.tolist()) == ({8} if params.temperature == 0 else {3, 8})


@pytest.mark.parametrize("temperature", [1e-9, 1e-44, 1e-300, 1e6])
@pytest.mark.parametrize("changes", [{}, {"top_p": 0.9}, {"min_tokens": 2, "stop_token_ids": [8]}])
def test_extreme_temperatures(temperature, changes):
    params = SamplingParams(temperature=temperature, **changes)
    logits = torch.randn(400, VOCAB, generator=torch.Generator().manual_seed(3)) * 100
    tokens = sampled([row_of(params, seed=seed) for seed in range(400)], logits).tokens
    if changes.get("stop_token_ids"):
        logits[:, 8] = -math.inf
    if temperature < 1:
        assert torch.equal(tokens, logits.argmax(1))
    else:
        assert len(set(tokens.tolist())) >= VOCAB - 3  # nearly even
    assert not changes.get("stop_token_ids") or 8 not in tokens


def test_stop_tokens_are_out_of_reach_until_min_tokens():
    params = SamplingParams(temperature=0, min_tokens=2, stop_token_ids=[4, VOCAB + 3])
    sampler, logits = Sampler(1, VOCAB, CPU), torch.zeros(1, VOCAB)
    logits[0, 4], logits[0, 6] = 2, 1
    admit(sampler, 0, row_of(params))
    assert [int(sample(sampler, logits, [0]).tokens) for _ in range(4)] == [6, 6, 4, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logprobs_are_those_of_the_models_own_distribution(dtype):
    asked = [None, 0, 2, 5, 20]
    logits = torch.randn(len(asked), 12, generator=torch.Generator().manual_seed(4)).to(dtype)
    rows = [row_of(SamplingParams(temperature=0.3, top_k=2, logprobs=count)) for count in asked]
    result = sampled(rows, logits)
    expected = logits.double().log_softmax(1)
    for place, count in enumerate(asked):
        told = result.logprobs_of(place, count)
        if count is None:
            assert told is None
            continue
        token = int(result.tokens[place])
        assert told.logprob == pytest.approx(float(expected[place, token]), abs=1e-5)
        best = expected[place].sort(descending=True, stable=True).values[:count].tolist()
        assert told.top_logprobs == pytest.approx(best, abs=1e-5)
        assert [float(expected[place, token]) for token in told.top_ids] == pytest.approx(best, abs=1e-5)
    assert sampled([row_of(SamplingParams())], logits[:1]).logprobs_of(0, 3) is None


def test_greedy():
    logits = torch.tensor(
        [[1.0, 3, 2], [-math.inf, -5, -math.inf], [math.nan, 1, 2], [math.inf, 0, 0], [-math.inf] * 3]
    )
    assert greedy(logits).tolist() == [1, 1, -1, -1, -1]
    assert greedy(logits[:2].bfloat16()).tolist() == [1, 1]
    assert greedy(logits[:0]).tolist() == []
