"""Synthetic workloads: the same on every system, independent streams, facts of the tables met."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from nano_batch.errors import CapacityError, InvalidArgumentError, UnknownOptionError, WorkloadError
from nano_batch.workloads import Families, Fixed, LogNormal, Quantiles, Uniform, Workload, table

TRACES = ("azure_conv", "azure_code", "mooncake_conversation", "mooncake_synthetic")

GOLDEN = {
    "poisson": (
        {"num_requests": 1000, "seed": 0},
        "47900095b862a52278a2ffbe47c0bd739181efe5ccfacd0dcd8aeb695e708368",
    ),
    "bursty": (
        {
            "num_requests": 1000,
            "seed": 2**64 - 1,
            "arrivals": "bursty",
            "rate": 3.0,
            "cv": 4.0,
            "prompts": LogNormal(6.633, 0.985),
            "outputs": Uniform(1, 500),
        },
        "e7de4ce7635f753ea9353afbbfe72f045c13e67c8a030977daed5b8ec87c1d69",
    ),
    "families": (
        {
            "num_requests": 500,
            "seed": 7,
            "like": "mooncake_synthetic",
            "arrivals": "closed_loop",
            "users": 16,
            "families": Families(5, 240, share=0.8, skew=1.2),
        },
        "e6aba50dd915e6780c33e3746bc5a93f97ed537f6d0ccd0b48ad7b0dc2278e9f",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_hashes(name):
    options, digest = GOLDEN[name]
    assert Workload.synthetic(**options).digest == digest


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("side", ["prompt", "output"])
def test_tables_meet_the_published_facts(name, side):
    facts = table(name)[side]["facts"]
    workload = Workload.synthetic(1_000_000, like=name, seed=1)
    tokens = workload.prompt_tokens if side == "prompt" else workload.output_tokens
    logs = np.log(tokens)
    median, p95, p99 = np.quantile(tokens, [0.5, 0.95, 0.99])
    # A million draws: quantiles and the mean within 1.5 % (or half a token), mu and sigma within 0.01.
    for got, fact in ((median, "median"), (tokens.mean(), "mean"), (p95, "p95"), (p99, "p99")):
        assert got == pytest.approx(facts[fact], rel=0.015, abs=0.5), fact
    assert logs.mean() == pytest.approx(facts["mu"], abs=0.01)
    assert logs.std() == pytest.approx(facts["sigma"], abs=0.01)


@pytest.mark.parametrize("name", TRACES)
def test_tables_say_where_their_numbers_come_from(name):
    content = table(name)
    assert content["name"] == name
    assert content["cite"]
    assert content["arrivals"]["source"]
    for side in ("prompt", "output"):
        assert (
            set(content[side]["facts"])
            == {"median", "mean", "p95", "p99", "mu", "sigma"}
            == set(content[side]["fitted"])
        )
        assert content[side]["source"]


def test_arrivals_have_the_tables_rate_and_cv():
    code = table("azure_code")["arrivals"]
    workload = Workload.synthetic(400_000, like="azure_code", arrivals="bursty")
    assert workload.rate_per_s == pytest.approx(code["rate_per_s"], rel=0.1)
    assert workload.arrival_cv == pytest.approx(code["cv"], rel=0.1)
    poisson = Workload.synthetic(200_000, like="mooncake_conversation")
    assert poisson.rate_per_s == pytest.approx(3.40, rel=0.01)
    assert poisson.arrival_cv == pytest.approx(1.0, rel=0.01)


def test_streams_are_independent():
    base = Workload.synthetic(200, seed=3)
    other = Workload.synthetic(200, seed=3, prompts=Uniform(1, 9))
    assert np.array_equal(base.arrival_s, other.arrival_s)
    assert np.array_equal(base.output_tokens, other.output_tokens)
    assert not np.array_equal(base.prompt_tokens, other.prompt_tokens)
    bursty = Workload.synthetic(200, seed=3, arrivals="bursty", cv=2.0)
    assert np.array_equal(base.prompt_tokens, bursty.prompt_tokens)
    assert not np.array_equal(base.arrival_s, bursty.arrival_s)
    families = Workload.synthetic(200, seed=3, families=Families(2, 32))
    assert np.array_equal(base.prompt_tokens + 32, families.prompt_tokens)
    assert Workload.synthetic(200, seed=4) != base
    assert Workload.synthetic(50, seed=3) == base.head(50)


def test_families_share_their_prefix_only():
    workload = Workload.synthetic(100, prompts=Uniform(1, 40), families=Families(3, 32, block_size=8), seed=1)
    prefixes = {tuple(workload.block_ids_of(row)[:4]) for row in range(100)}
    assert prefixes == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}
    own = [block for row in range(100) for block in workload.block_ids_of(row)[4:]]
    assert len(own) == len(set(own))
    assert min(own) == 12


def test_closed_loop_and_at_once():
    loop = Workload.synthetic(10, arrivals="closed_loop", users=3)
    assert np.array_equal(np.isnan(loop.arrival_s), [False] * 3 + [True] * 7)
    assert (loop.arrival_s[:3] == 0).all()
    assert loop.users == 3
    assert loop[4:].users == 3
    assert loop[:2].users is None
    assert (Workload.synthetic(10, arrivals="at_once").arrival_s == 0).all()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_spec_recreates_its_workload(name):
    workload = Workload.synthetic(**GOLDEN[name][0])[3:400:2]
    if workload.users is None:
        workload = workload.scaled(rate=9.0).shifted(1.5)
    spec = json.loads(json.dumps(workload.spec))
    assert Workload.from_spec(spec) == workload
    assert Workload.from_spec(spec).name == workload.name


def test_a_spec_is_json_whatever_kind_of_numbers_were_given():
    workload = Workload.synthetic(
        np.int64(5),
        seed=np.uint32(3),
        rate=np.float32(2.0),
        prompts=Uniform(np.int64(1), np.int64(9)),
        outputs=np.int32(4),
        families=Families(np.int64(2), np.int64(32), share=np.float64(0.5)),
    )
    assert Workload.from_spec(json.loads(json.dumps(workload.spec))) == workload


def test_a_spec_of_another_generator_is_refused():
    spec = {**Workload.synthetic(1).spec, "generator": "mt19937/0"}
    with pytest.raises(WorkloadError, match="mt19937/0"):
        Workload.from_spec(spec)
    with pytest.raises(WorkloadError, match="frame"):
        Workload.from_spec({"source": "frame"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_requests": 0}, "num_requests is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"rate": 0.0}, "rate is 0"),
        ({"rate": float("nan")}, "rate is NaN"),
        ({"cv": 2.0}, "cv is 2.0; it has no meaning with arrivals='poisson'"),
        ({"arrivals": "closed_loop"}, "needs users="),
        ({"arrivals": "closed_loop", "users": 2, "rate": 1.0}, "rate is 1.0"),
        ({"arrivals": "closed_loop", "users": 0}, "users is 0"),
        ({"prompts": 0}, "prompt tokens is 0"),
        ({"outputs": True}, "outputs is True"),
        ({"prompts": Uniform(5, 4)}, "high is 4"),
        ({"prompts": LogNormal(1.0, -1.0)}, "sigma is -1"),
        ({"prompts": Quantiles((0.0, 0.5), (1.0, 2.0))}, "probabilities"),
        ({"families": Families(2, 20)}, "20 and 16"),
        ({"families": Families(0, 16)}, "count is 0"),
        ({"families": Families(1, 16, share=2.0)}, "share is 2"),
    ],
)
def test_bad_numbers_are_refused_by_name(options, words):
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        Workload.synthetic(**options)
    assert isinstance(caught.value, ValueError)


def test_too_many_blocks_are_refused():
    with pytest.raises(CapacityError, match="block id"):
        Workload.synthetic(2, prompts=2**31 - 1, families=Families(1, 16))


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        ({"arrivals": "posson"}, "'poisson'"),
        ({"like": "azure_covn"}, "'azure_conv'"),
        ({"prompts": "mooncake_sinthetic"}, "'mooncake_synthetic'"),
    ],
)
def test_a_misspelt_word_names_the_nearest(options, nearest):
    with pytest.raises(UnknownOptionError, match=f"did you mean {nearest}"):
        Workload.synthetic(**options)


def test_lengths():
    workload = Workload.synthetic(2000, prompts=Fixed(7), outputs=LogNormal(4.0, 2.0, 10, 90), seed=5)
    assert (workload.prompt_tokens == 7).all()
    assert (workload.output_tokens.min(), workload.output_tokens.max()) == (10, 90)
    steps = Workload.synthetic(4000, prompts=Quantiles((0.0, 0.25, 1.0), (10.0, 10.0, 20.0)))
    assert (steps.prompt_tokens == 10).mean() == pytest.approx(0.25 + 0.75 * 0.05, abs=0.02)


def test_columns_are_read_only():
    workload = Workload.synthetic(3)
    with pytest.raises(ValueError, match="read-only"):
        workload.prompt_tokens[0] = 1
    with pytest.raises(FrozenInstanceError):
        workload.name = "other"
