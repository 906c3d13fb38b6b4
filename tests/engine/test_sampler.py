"""The sampler beside sampling by its definitions, on random logits, parameters and batches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

sys.path.append(str(Path(__file__).parent))  # so that the reference is found however pytest was started

import sampling_reference as reference  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from nano_batch.engine.choice import UNIT, draw, greedy  # noqa: E402
from nano_batch.engine.filters import keep_top  # noqa: E402
from nano_batch.engine.random_numbers import random_bits, stream_of, uniforms  # noqa: E402
from nano_batch.engine.sampler import Sampler  # noqa: E402
from nano_batch.engine.sampling_params import SamplingParams  # noqa: E402
from nano_batch.errors import (  # noqa: E402
    DtypeError,
    InvalidArgumentError,
    InvalidTokenError,
    ShapeError,
)

torch.set_num_threads(1)
EOS = 1


class Row:
    """A sequence: its parameters, prompt and output, and logits that follow from its name and the place."""

    def __init__(self, params, index=0, prompt=(), vocab=24, dtype=torch.float32):
        self.params, self.index, self.prompt, self.output = params, index, list(prompt), []
        self.vocab, self.dtype = vocab, dtype

    def logits(self, place):
        rng = np.random.default_rng([self.params.seed, self.index, place])
        # Quarters, so that many are equal.
        row = np.round(rng.normal(0, 2, self.vocab) * 4) / 4
        row[rng.random(self.vocab) < 0.1] = -np.inf
        row[0] = 0.0
        return torch.tensor(row, dtype=self.dtype)


def admit(sampler, lane, row):
    sampler.admit(lane, row.params, row.index, row.prompt, row.output)


def sampler_of(rows, lanes=None, count=None):
    sampler = Sampler(count or len(rows), rows[0].vocab, eos_token_id=EOS)
    for lane, row in zip(range(len(rows)) if lanes is None else lanes, rows, strict=True):
        admit(sampler, lane, row)
    return sampler


def step(sampler, rows, lanes):
    """Sample one token for each row, which its output takes."""
    logits = torch.stack([row.logits(len(row.output)) for row in rows])
    given = logits.clone()
    sampled = sampler.sample(logits, torch.tensor(lanes), lanes)
    assert torch.equal(logits, given)
    for row, token in zip(rows, sampled.tokens.tolist(), strict=True):
        row.output.append(token)
    return sampled


def parameters():
    """Every feature alone, together with others, and at its ends."""
    return st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.001, 0.3, 1.0, 1.0, 2.5]),
        top_k=st.sampled_from([0, 0, 1, 2, 7, 24, 1000]),
        top_p=st.sampled_from([1.0, 1.0, 0.95, 0.5, 0.1, 1e-9]),
        min_p=st.sampled_from([0.0, 0.0, 0.05, 0.4, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.7]),
        presence_penalty=st.sampled_from([0.0, 0.0, 1.1, -0.6]),
        frequency_penalty=st.sampled_from([0.0, 0.0, 0.7, -0.3]),
        min_tokens=st.sampled_from([0, 0, 1, 2, 4]),
        stop_token_ids=st.lists(st.integers(2, 23), max_size=3),
        ignore_eos=st.booleans(),
        seed=st.integers(0, 2**63 - 1),
        logprobs=st.sampled_from([None, None, 0, 5, 20]),
    )


@st.composite
def batches(draw):
    rows = st.builds(
        Row, parameters(), st.integers(0, 3), st.lists(st.integers(0, 23), max_size=6),
        dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    )  # fmt: skip
    found = draw(st.lists(rows, min_size=1, max_size=6))
    for row in found:
        row.dtype = found[0].dtype
    return found, draw(st.permutations(range(len(found) + 2)))[: len(found)]


def check_token(row, token, output):
    """A token lies where the cumulative probabilities cross the random number; True if it was checked."""
    params = row.params
    stops = [*params.stop_token_ids, *([] if params.ignore_eos else [EOS])]
    scores = reference.scores(row.logits(len(output)).double().numpy(), params, row.prompt, output, stops)
    if params.temperature == 0:
        assert scores[token] >= scores.max() - 1e-5
        return True
    shares = reference.probabilities(scores, params)
    if shares is None:
        return False
    number = reference.uniform(params.seed, row.index, len(output))
    before, after = shares[:token].sum(), shares[: token + 1].sum()
    assert shares[token] > 0
    assert before - 1e-6 <= number <= after + 1e-6
    return True


def test_every_token_is_the_one_by_definition():
    checked = []

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(batches())
    def check(batch):
        rows, lanes = batch
        sampler = sampler_of(rows, lanes, len(rows) + 2)
        for _ in range(4):
            before = [list(row.output) for row in rows]
            step(sampler, rows, lanes)
            checked.extend(
                check_token(row, row.output[-1], output) for row, output in zip(rows, before, strict=True)
            )

    check()
    assert len(checked) > 500
    assert sum(checked) > 0.9 * len(checked)


@settings(max_examples=60, deadline=None)
@given(batches())
def test_a_row_does_not_see_its_batch_nor_its_lane(batch):
    """Each row alone, admitted anew before every token to a sampler of its own, yields the same bits."""
    rows, lanes = batch
    sampler = sampler_of(rows, lanes, len(rows) + 2)
    for place in range(3):
        alone = []
        for row in rows:
            twin = Row(row.params, row.index, row.prompt, dtype=row.dtype)
            twin.output = list(row.output)
            alone.append(step(sampler_of([twin]), [twin], [0]))
        together = step(sampler, rows, lanes)
        assert [one.tokens.item() for one in alone] == [row.output[place] for row in rows]
        check_logprobs_alone(together.logprobs, alone, rows)


def check_logprobs_alone(together, alone, rows):
    asking = [index for index, row in enumerate(rows) if row.params.logprobs is not None]
    assert ([] if together is None else together.rows.tolist()) == asking
    for place, index in enumerate(asking):
        one = alone[index].logprobs
        for name in ("chosen", "top_ids", "top"):
            assert torch.equal(getattr(together, name)[place], getattr(one, name)[0])


def test_a_sequence_goes_on_in_another_lane_among_others():
    params = SamplingParams(seed=3, top_p=0.9, frequency_penalty=0.5, repetition_penalty=1.2, min_tokens=6)
    whole, moved = Row(params, prompt=[4, 5]), Row(params, prompt=[4, 5])
    sampler = sampler_of([whole])
    for _ in range(10):
        step(sampler, [whole], [0])
    others = [Row(SamplingParams(seed=seed, presence_penalty=1.0, top_k=3)) for seed in range(3)]
    crowd = sampler_of([moved, *others])
    for _ in range(4):
        step(crowd, [moved, *others], [0, 1, 2, 3])
    admit(crowd, 0, others[0])
    admit(crowd, 1, moved)
    for _ in range(6):
        step(crowd, [others[2], moved, others[0]], [3, 1, 0])
    assert moved.output == whole.output
    assert len(set(whole.output)) > 2


def test_the_generator_is_splitmix64():
    """The published first numbers of seed 1234567; streams and float64 numbers as in plain integers."""
    places = torch.arange(3)
    bits = [int(value) % 2**64 for value in random_bits(torch.full((3,), 1234567), places)]
    assert bits == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for seed, index, place in [(0, 0, 0), (2**63 - 1, 5, 9), (7, 2**31 - 2, 2**31 - 2)]:
        given = torch.tensor([stream_of(seed, index)]), torch.tensor([place])
        assert uniforms(*given).item() == reference.uniform(seed, index, place)


# The quantiles of chi-square at which one of 10,000 fair samplers fails.
CHI_SQUARE = {5: 25.74, 6: 27.86, 7: 29.88, 63: 113.0}
LAW = [0.0, 1.5, -1.0, 0.5, 1.5, 2.0, -3.0, 0.25]


def drawn(params, draws=20_000):
    """Tokens of many sequences at several places, all from one row of logits: [draws / 5, 5]."""
    count = draws // 5
    sampler, lanes = Sampler(count, len(LAW)), list(range(count))
    for lane in lanes:
        sampler.admit(lane, params, lane, [], [])
    logits = torch.tensor(LAW).expand(count, -1)
    return np.stack([sampler.sample(logits, torch.tensor(lanes), lanes).tokens for _ in range(5)], axis=1)


def chi_square(counts, shares):
    possible = shares > 0
    assert counts[~possible].sum() == 0
    expected = counts.sum() * shares[possible]
    return ((counts[possible] - expected) ** 2 / expected).sum(), possible.sum() - 1


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.7}, {"top_k": 6}, {"temperature": 1.2, "top_p": 0.97, "min_p": 0.05}]
)
def test_tokens_come_as_often_as_they_should(options):
    params = SamplingParams(seed=11, **options)
    tokens = drawn(params)
    counts = np.bincount(tokens.ravel(), minlength=len(LAW))
    shares = reference.probabilities(np.array(LAW), params)
    distance, freedom = chi_square(counts, shares)
    assert distance < CHI_SQUARE[freedom]
    wrong = shares * np.where(np.arange(len(LAW)) % 2, 1.2, 1.0)
    assert chi_square(counts, wrong / wrong.sum())[0] > CHI_SQUARE[freedom]


def test_neighbours_are_independent():
    """Pairs of successive places, and of successive sequences."""
    tokens = drawn(SamplingParams(seed=12, temperature=2.0))
    shares = reference.probabilities(np.array(LAW), SamplingParams(temperature=2.0))
    pairs = np.outer(shares, shares).ravel()
    for first, second in ((tokens[:, ::2][:, :2], tokens[:, 1::2]), (tokens[::2], tokens[1::2])):
        counts = np.bincount((first * len(LAW) + second).ravel(), minlength=len(pairs))
        distance, freedom = chi_square(counts, pairs)
        assert distance < CHI_SQUARE[freedom]
    counts = np.bincount((tokens * len(LAW) + tokens).ravel(), minlength=len(pairs))
    assert chi_square(counts, pairs)[0] > CHI_SQUARE[63]


BROKEN = {
    "nan": lambda row: row.index_fill(0, torch.tensor([2]), torch.nan),
    "infinite": lambda row: row.index_fill(0, torch.tensor([3]), torch.inf),
    "nothing": lambda row: torch.full_like(row, -torch.inf),
    "all nan": lambda row: torch.full_like(row, torch.nan),
}


@pytest.mark.parametrize("breaks", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {},
        {"top_p": 0.9, "top_k": 5, "min_p": 0.1},
        {"repetition_penalty": 1.2, "logprobs": 3},
        {"min_tokens": 5, "stop_token_ids": [2, 3], "temperature": 0},
    ],
)
def test_a_broken_row_fails_alone(breaks, options):
    rows = [Row(SamplingParams(seed=seed, **options)) for seed in range(4)]
    logits = torch.stack([row.logits(0) for row in rows])
    broken = logits.clone()
    broken[1] = breaks(logits[1])
    lanes = [0, 1, 2, 3]
    good = sampler_of(rows).sample(logits, torch.tensor(lanes), lanes)
    bad = sampler_of(rows).sample(broken, torch.tensor(lanes), lanes)
    assert good.tokens.min() >= 0
    assert bad.tokens[1] == -1
    assert torch.equal(bad.tokens[[0, 2, 3]], good.tokens[[0, 2, 3]])
    if bad.logprobs is not None:
        assert bad.logprobs.chosen[1].isnan()
        assert torch.equal(bad.logprobs.chosen[[0, 2, 3]], good.logprobs.chosen[[0, 2, 3]])


def test_a_row_whose_every_token_is_barred_has_none():
    for temperature in (0, 1):
        row = Row(SamplingParams(temperature=temperature, seed=1, min_tokens=3, stop_token_ids=range(24)))
        assert step(sampler_of([row]), [row], [0]).tokens.tolist() == [-1]


def test_greedy_takes_the_smallest_of_equal_ids():
    logits = torch.tensor([[1.0, 3, 3], [-torch.inf, -torch.inf, -5], [torch.nan, 1, 2], [-torch.inf] * 3])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert greedy(logits.to(dtype)).tolist() == [1, 2, -1, -1]


@pytest.mark.parametrize(("ignore_eos", "first"), [(False, 3), (True, 0)])
def test_a_stop_token_may_be_the_last_of_min_tokens(ignore_eos, first):
    """As the scheduler counts: it ends an output that has min_tokens with it."""
    sampler = Sampler(1, 4, eos_token_id=EOS)
    params = SamplingParams(temperature=0, min_tokens=4, ignore_eos=ignore_eos, stop_token_ids=[2])
    sampler.admit(0, params, 0, [], [])
    logits = torch.tensor([[0.0, 9.0, 5.0, 1.0]])
    tokens = [sampler.sample(logits, torch.tensor([0]), [0]).tokens.item() for _ in range(5)]
    assert tokens.index(EOS) == first
    assert tokens == [3] * first + [EOS] * (5 - first)


def test_logprobs_are_those_of_the_raw_logits():
    params = SamplingParams(seed=4, temperature=0.5, repetition_penalty=1.5, top_k=2, logprobs=20)
    rows = [Row(params, index=index, prompt=[0, 3], vocab=50) for index in range(3)]
    rows[1] = Row(SamplingParams(seed=9), vocab=50)
    logits = torch.stack([row.logits(0) for row in rows]).double().numpy()
    found = step(sampler_of(rows), rows, [0, 1, 2]).logprobs
    assert found.rows.tolist() == [0, 2]
    for place, index in enumerate([0, 2]):
        expected = reference.log_softmax(logits[index])
        np.testing.assert_allclose(found.chosen[place], expected[rows[index].output[0]], atol=1e-5)
        np.testing.assert_allclose(found.top[place], np.sort(expected)[::-1][:20], atol=1e-5)
        np.testing.assert_allclose(expected[found.top_ids[place]], found.top[place], atol=1e-5)
        assert len(set(found.top_ids[place].tolist())) == 20


def test_top_k_and_top_p_at_a_vocabulary_of_usual_size():
    """bfloat16 has many equal logits; the kept set is the beginning of a stable order."""
    rng = np.random.default_rng(5)
    logits = torch.tensor(rng.normal(0, 3, (2, 32_003)), dtype=torch.bfloat16).float().numpy()
    weights = np.floor(np.exp(np.float64(logits - logits.max(1, keepdims=True))) * UNIT).astype(np.int64)
    for top_k, top_p, widest in [
        (50, 1.0, 60),
        (32_003, 0.9, 32_003),
        (2_000, 0.5, 2_000),
        (7, 1e-3, 32_003),
    ]:
        kept = keep_top(
            torch.tensor(weights), torch.tensor([top_k, 1]), torch.tensor([top_p, 1.0]).double(), widest
        )
        order = np.argsort(-weights[0], kind="stable")[:top_k]
        sums = [int(value) for value in np.cumsum(weights[0][order])]
        stay = sum(before < top_p * sums[-1] for before in [0, *sums[:-1]])
        assert sorted(order[:stay]) == kept[0].nonzero()[:, 0].tolist()
        assert kept[1].nonzero()[:, 0].tolist() == [int(np.argmax(weights[1]))]
        assert torch.equal(kept[0][order[:stay]], torch.tensor(weights[0][order[:stay]]))


def test_a_history_counts_and_forgets_who_was_there():
    """Repeated outputs weigh more under a frequency penalty; a lane's earlier prompt does not matter."""
    params = SamplingParams(
        temperature=0, frequency_penalty=0.5, presence_penalty=0.3, repetition_penalty=1.5, logprobs=0
    )
    sampler = Sampler(1, 4)
    sampler.admit(0, params, 0, [3], [3])
    sampler.admit(0, params, 0, [0], [1, 2, 2, 2])
    held = sampler._history.penalise(
        torch.tensor([[3.0, 3.0, -3.0, 3.0]]), torch.tensor([0]), *torch.tensor([[1.5], [0.3], [0.5]])
    )
    torch.testing.assert_close(held, torch.tensor([[2.0, 2 - 0.8, -4.5 - 1.8, 3.0]]))


def test_draw_at_the_ends():
    weights = torch.tensor([[0, 3, 0, 1, 0]]).expand(4, -1)
    uniform = torch.tensor([0.0, 0.75 - 2**-53, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert draw(weights, uniform).tolist() == [1, 1, 3, 3]
    full = torch.full((1, 1000), UNIT)
    assert draw(full, uniform[3:]).tolist() == [999]


class Recorded(TorchFunctionMode):
    """The names of the functions and methods of PyTorch that were called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.add(function.__name__)
        return function(*args, **(kwargs or {}))


SORTS, HISTORY = {"sort", "topk"}, {"__setitem__"}
WAITS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__iter__", "unbind"}
WAITS |= {
    "cpu",
    "numpy",
    "__array__",
    "nonzero",
    "masked_select",
    "unique",
    "equal",
    "allclose",
    "synchronize",
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0}, {"max"}),
        ({}, {"max", "cumsum", "searchsorted"}),
        ({"min_p": 0.1}, {"cumsum"}),
        ({"top_k": 5}, {"topk"}),
        ({"top_p": 0.5}, {"sort"}),
        ({"presence_penalty": 0.5, "logprobs": 2, "min_tokens": 3}, {"index_copy", "__setitem__", "topk"}),
    ],
)
def test_a_batch_pays_for_what_it_uses_and_never_waits(options, expected):
    rows = [Row(SamplingParams(seed=seed, **options)) for seed in range(2)]
    sampler, logits = sampler_of(rows), torch.stack([row.logits(0) for row in rows])
    with Recorded() as recorded:
        sampler.sample(logits, torch.tensor([0, 1]), [0, 1])
    assert recorded.names >= expected
    assert not recorded.names & ((SORTS | HISTORY | WAITS) - expected)
    assert sampler.only_greedy([0, 1]) == (options == {"temperature": 0})
    assert ("cumsum" in recorded.names) == (options != {"temperature": 0})


def test_bad_calls_are_named_and_change_nothing():
    twin, row = Row(SamplingParams(seed=2)), Row(SamplingParams(seed=2))
    sampler, logits, lane = sampler_of([row], count=2), row.logits(0)[None], torch.tensor([0])
    with pytest.raises(ShapeError, match=r"\[1, 23\]"):
        sampler.sample(logits[:, 1:], lane, [0])
    with pytest.raises(ShapeError, match="host_lanes has 1"):
        sampler.sample(logits, torch.tensor([0, 1]), [0])
    with pytest.raises(DtypeError, match="int32"):
        sampler.sample(logits, lane.int(), [0])
    with pytest.raises(DtypeError, match="int64"):
        sampler.sample(logits.nan_to_num(neginf=0).long(), lane, [0])
    for bad in (1, 2, -1):
        with pytest.raises(InvalidArgumentError, match=f"lane {bad} of 2"):
            sampler.sample(logits, lane, [bad])
    with pytest.raises(InvalidArgumentError, match="lane is 2"):
        sampler.admit(2, row.params, 0, [], [])
    with pytest.raises(InvalidArgumentError, match="sequence_index is -1"):
        sampler.admit(0, row.params, -1, [], [])
    with pytest.raises(InvalidArgumentError, match="seed is None"):
        sampler.admit(0, SamplingParams(), 0, [], [])
    penalised = SamplingParams(seed=1, presence_penalty=1.0, min_tokens=3, stop_token_ids=[24])
    for prompt, output, named in ([24], [], "prompt"), ([], [-1], "output"), ([], [], "stop"):
        with pytest.raises(InvalidTokenError, match=f"{named}_token_ids holds (24|-1)"):
            sampler.admit(0, penalised, 0, prompt, output)
    for _ in range(3):
        step(sampler, [row], [0])
    for place in range(3):
        one = Row(twin.params)
        one.output = twin.output
        step(sampler_of([one]), [one], [0])
        assert twin.output[place] == row.output[place]
    for sizes, named in ((0, 5), "max_num_seqs is 0"), ((1, 0), "vocab_size is 0"), ((1, 2**23), "8388608"):
        with pytest.raises(InvalidArgumentError, match=named):
            Sampler(*sizes)


def test_no_rows_and_no_text_too_long():
    sampler = Sampler(2, 32_000)
    sampler.admit(1, SamplingParams(seed=1, logprobs=2), 0, [], [])
    assert sampler.sample(torch.empty(0, 32_000), torch.empty(0, dtype=torch.int64), []).tokens.shape == (0,)
    sampled = sampler.sample(torch.zeros(1, 32_000), torch.tensor([1]), [1])
    assert repr(sampler) == "Sampler: 2 lanes, 32,000 tokens, on cpu"
    assert repr(sampled) == "Sampled: 1 tokens, with logprobs"
    assert repr(sampled.logprobs) == "Logprobs: 1 rows, the likeliest 20 tokens of each"
    assert "seed=1" in sampler._repr_html_()
    assert "int64 [1]" in sampled._repr_html_()
    assert "float32 [1, 20]" in sampled.logprobs._repr_html_()
