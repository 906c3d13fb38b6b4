"""Sampling parameters take what makes sense and name what does not."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from nano_batch.engine.sampling_params import SamplingParams
from nano_batch.errors import InvalidArgumentError, InvalidTokenError

BAD = [
    *(("temperature", value) for value in (-0.1, 1e-4, 1001, math.nan, math.inf, "1", None, True)),
    *(("top_k", value) for value in (-1, 1.5, True, 2**31, "5")),
    *(("top_p", value) for value in (0, -0.5, 1.01, math.nan, None)),
    *(("min_p", value) for value in (-0.01, 1.01, math.nan)),
    *(("repetition_penalty", value) for value in (0, -1, 0.001, 101, math.inf)),
    *((name, value) for name in ("presence_penalty", "frequency_penalty") for value in (-2.1, 2.1, math.nan)),
    *(("max_tokens", value) for value in (0, -1, 2.0, None, 2**31)),
    *(("min_tokens", value) for value in (-1, 17, 0.5)),
    *(("n", value) for value in (0, 1.0, 2**31)),
    *(("seed", value) for value in (-1, 2**63, 1.0)),
    *(("stop", value) for value in ("", ["a", ""], [1], 5, b"ab")),
    *(("stop_token_ids", value) for value in ("12", 5, [1.5], [True], [None])),
    *(("ignore_eos", value) for value in (1, None)),
    *(("logprobs", value) for value in (-1, 21, 2.0, True)),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_with_its_limit(name, value):
    with pytest.raises(InvalidArgumentError, match=name) as caught:
        SamplingParams(**{name: value})
    shown = value if not isinstance(value, list) else next(each for each in value if each != "a")
    assert repr(shown) in str(caught.value) or isinstance(value, bytes)
    assert "it must" in str(caught.value)


@pytest.mark.parametrize("token", [-1, 2**31])
def test_a_stop_token_outside_of_its_range(token):
    with pytest.raises(InvalidTokenError, match=str(token)):
        SamplingParams(stop_token_ids=[3, token])


def test_the_limits_themselves_are_taken():
    largest = 2**31 - 1
    SamplingParams(1e-3, largest, 1e-300, 1.0, 0.01, -2, 2, largest, largest, largest, 2**63 - 1, logprobs=20)
    assert SamplingParams(seed=0, logprobs=0, min_tokens=16).min_tokens == 16
    with pytest.raises(InvalidArgumentError, match="max_tokens = 4"):
        SamplingParams(max_tokens=4, min_tokens=5)


def test_values_become_plain():
    params = SamplingParams(
        temperature=np.float32(0.5), top_k=np.int64(3), stop="end", stop_token_ids=np.array([1, 2]), top_p=1
    )
    assert (params.temperature, params.top_k, params.stop, params.stop_token_ids) == (
        0.5,
        3,
        ("end",),
        (1, 2),
    )
    assert [type(value) for value in (params.temperature, params.top_k, params.top_p)] == [float, int, float]
    assert type(params.stop_token_ids[0]) is int
    assert SamplingParams(top_k=None) == SamplingParams(top_k=0) == SamplingParams()
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    assert len({params, replace(params), replace(params, seed=1)}) == 2


def test_greedy_is_what_an_argmax_of_the_logits_serves():
    greedy = SamplingParams(temperature=0)
    assert greedy.greedy
    assert replace(greedy, top_k=5, top_p=0.1, min_p=0.5, n=3, seed=4, stop="x", min_tokens=1).greedy
    for other in (
        SamplingParams(),
        replace(greedy, repetition_penalty=1.1),
        replace(greedy, presence_penalty=0.1),
        replace(greedy, frequency_penalty=-0.1),
        replace(greedy, min_tokens=2),
        replace(greedy, logprobs=0),
    ):
        assert not other.greedy


def test_it_cannot_be_changed_and_shows_itself():
    params = SamplingParams(temperature=0.7, seed=5)
    with pytest.raises(FrozenInstanceError):
        params.seed = 6
    assert repr(params) == "SamplingParams(temperature=0.7, seed=5)"
    assert repr(SamplingParams()) == "SamplingParams()"
    assert "<td>temperature</td><td>0.7</td>" in params._repr_html_()
