"""A policy of the reader's own, in the simulator."""

from __future__ import annotations

import time

import numpy as np
import pytest

from nano_batch import simulate
from nano_batch.errors import PolicyError
from nano_batch.workloads import Uniform, Workload

pytestmark = pytest.mark.alone  # a policy has 50 ms a step
OPTIONS = {"num_blocks": 200, "block_size": 16, "max_num_seqs": 8, "max_num_batched_tokens": 512}


def workload() -> Workload:
    return Workload.synthetic(
        60, seed=5, rate=20.0, prompts=Uniform(10, 400), outputs=Uniform(2, 120), name="mixed"
    )


class Arrival:
    """What fcfs does."""

    def score(self, requests):
        return np.zeros(len(requests))


class Shortest:
    """What sjf does without ageing."""

    def score(self, requests):
        left = requests.prompt_tokens - requests.computed_tokens
        return np.maximum(left, 0) + requests.max_tokens - requests.output_tokens


def same_schedule(a, b) -> bool:
    return a.steps == b.steps and a.requests == b.requests and a.events == b.events


@pytest.mark.parametrize(("own", "word"), [(Arrival(), "fcfs"), (Shortest(), "sjf")])
def test_it_gives_the_schedule_of_the_built_in_policy_that_it_repeats(own, word):
    built_in = simulate(workload(), cost=0.03, policy=word, sjf_ageing=0.0, event_log=True, **OPTIONS)
    mine = simulate(workload(), cost=0.03, policy=own, event_log=True, **OPTIONS)
    assert same_schedule(mine, built_in)
    assert mine.settings["engine"]["policy"] == type(own).__name__


def test_it_orders_who_is_served():
    class Longest:
        def score(self, requests):
            return -requests.prompt_tokens

    at_once = Workload(np.zeros(6), [10, 60, 30, 50, 20, 40], [4] * 6)
    run = simulate(at_once, policy=Longest(), num_blocks=50, max_num_seqs=1)
    assert np.argsort(run.requests.first_scheduled_s).tolist() == [1, 3, 5, 2, 4, 0]


def test_columns_are_read_only_and_true():
    seen = []

    class Looks:
        def score(self, requests):
            seen.append(requests)
            with pytest.raises(ValueError, match="read-only"):
                requests.prompt_tokens[0] = 1
            assert np.array_equal(requests.waited_s, requests.now_s - requests.arrival_s)
            assert (requests.computed_tokens[~requests.running] == 0).all()
            assert (np.diff(requests.running.astype(int)) >= 0).all()
            return requests.arrival_s

    given = workload()
    run = simulate(given, cost=0.03, policy=Looks(), **OPTIONS)
    assert len(seen) == len(run.steps)
    assert [each.now_s for each in seen] == run.steps.start_s.tolist()
    last = seen[-1]
    assert np.array_equal(last.prompt_tokens, given.prompt_tokens[last.sequence])


def bad(result):
    class Bad:
        def score(self, requests):
            return result(requests)

    return Bad()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda requests: np.full(len(requests), np.nan), r"Bad.score at step 1 returned NaN for request 0"),
        (
            lambda requests: np.zeros(len(requests) + 1),
            r"Bad.score at step 1 returned shape \(\d+,\); it must",
        ),
        (lambda requests: "x", r"Bad.score at step 1 returned str, not numbers"),
        (lambda requests: sum(range(9_000_000)) * requests.arrival_s, r"took \d+ ms; the limit is 50 ms"),
    ],
)
def test_bad_scores_end_the_run_by_name_with_the_readers_line(result, message):
    with pytest.raises(PolicyError, match=message) as caught:
        simulate(workload(), policy=bad(result), **OPTIONS)
    assert "def score(self, requests):" in str(caught.value)


def test_what_it_raises_comes_through_with_its_own_traceback():
    def fails(requests):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        simulate(workload(), policy=bad(fails), **OPTIONS)
    assert any(entry.name == "fails" for entry in caught.traceback)


def test_waiting_for_something_else_is_not_held_against_it():
    class Sleeps:
        def score(self, requests):
            time.sleep(0.06 if requests.now_s == 0 else 0)
            return requests.arrival_s

    few = workload().head(3)
    assert len(simulate(few, policy=Sleeps(), **OPTIONS).requests) == 3
