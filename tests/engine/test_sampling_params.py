"""Parameters of a request: what they take, what they refuse, and what they say of themselves."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

from nano_batch import SamplingParams
from nano_batch.errors import InvalidArgumentError

WRONG = {
    "temperature": [-0.1, math.nan, math.inf, 1.1e6, "1", True, None],
    "top_k": [-1, 2**31, 1.5, True, "all"],
    "top_p": [0, -0.5, 1.01, math.nan, "0.5"],
    "min_p": [-0.01, 1.01, math.nan],
    "repetition_penalty": [0, -1, 9e-7, math.inf, 1.1e6],
    "presence_penalty": [math.nan, math.inf, -1.1e6, "0"],
    "frequency_penalty": [math.nan, -math.inf, None],
    "max_tokens": [0, -1, 2**31, 1.0, None],
    "min_tokens": [-1, 17, 1.0],  # more than the 16 of max_tokens
    "n": [0, 2**16 + 1, 1.0],
    "seed": [-1, 2**63, 0.5, True],
    "stop": ["", ["a", ""], [1], 7],
    "stop_token_ids": [[-1], [2**31], ["a"], [1.0], 7],
    "ignore_eos": [1, "yes", None],
    "logprobs": [-1, 21, True],
}
EDGES = {
    "temperature": [0, 1e-9, 1e6],
    "top_k": [None, 0, 1, 2**31 - 1],
    "top_p": [1e-9, 1],
    "min_p": [0, 1],
    "repetition_penalty": [1e-6, 1e6],
    "presence_penalty": [-2.0, 2],
    "max_tokens": [1 << 20],
    "min_tokens": [16],
    "n": [1, 2**16],
    "seed": [0, 2**63 - 1, None],
    "stop": ["x", ("a", "b"), []],
    "stop_token_ids": [[0], (2**31 - 1,), {3}],
    "logprobs": [0, 20, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, all_ in WRONG.items() for value in all_])
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(InvalidArgumentError, match=name.removesuffix("_ids")):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, all_ in EDGES.items() for value in all_])
def test_a_value_at_its_limit_is_taken(name, value):
    given = getattr(SamplingParams(**{name: value}), name)
    if name in ("stop", "stop_token_ids"):
        assert given == ((value,) if isinstance(value, str) else tuple(value))
    else:
        assert given == value


def test_the_tables_name_every_field():
    assert set(WRONG) == set(SamplingParams.__dataclass_fields__)


def test_parameters_do_not_change():
    with pytest.raises(AttributeError):
        SamplingParams().temperature = 0.5


def test_repr_says_what_is_not_the_default():
    assert repr(SamplingParams()) == "SamplingParams()"
    assert repr(SamplingParams(temperature=0, stop="\n")) == "SamplingParams(temperature=0, stop=('\\n',))"


@pytest.mark.parametrize(
    ("changes", "greedy", "filtered", "penalised"),
    [
        ({}, False, False, False),
        ({"temperature": 0}, True, False, False),
        ({"temperature": 0, "top_k": 3}, True, True, False),
        ({"temperature": 0, "presence_penalty": 0.5}, False, False, True),
        ({"temperature": 0, "repetition_penalty": 1.5}, False, False, True),
        ({"temperature": 0, "frequency_penalty": -0.5}, False, False, True),
        ({"temperature": 0, "min_tokens": 2, "stop_token_ids": [1]}, False, False, False),
        ({"temperature": 0, "min_tokens": 2}, True, False, False),
        ({"temperature": 0, "logprobs": 0}, False, False, False),
        ({"top_p": 0.9}, False, True, False),
        ({"min_p": 0.1}, False, True, False),
    ],
)
def test_what_the_sampler_has_to_do(changes, greedy, filtered, penalised):
    params = SamplingParams(**changes)
    assert (params.greedy, params.filtered, params.penalised) == (greedy, filtered, penalised)
