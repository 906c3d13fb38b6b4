"""The exercises of `04_throughput_vs_concurrency`."""

from __future__ import annotations

import numpy as np

from nano_batch.display import number
from nano_batch.lessons.truth import Exercise, Truth
from nano_batch.metrics import saturation_knee, steady_window, throughput, ttft_s
from nano_batch.records import Run
from nano_batch.simulator import simulate
from nano_batch.viz.table import Table
from nano_batch.workloads import Fixed, Workload

STEP_S, PROMPT, OUTPUT, LIMIT, ROUNDS = 0.02, 64, 50, 8, 10
USERS = (1, 2, 4, 8, 16, 32)


def _served(users: int, max_num_seqs: int = 256) -> Run:
    """A closed loop of equal requests, ten rounds, under steps of 20 ms."""
    workload = Workload.synthetic(
        ROUNDS * users,
        arrivals="closed_loop",
        users=users,
        prompts=Fixed(PROMPT),
        outputs=Fixed(OUTPUT),
        name="the exercise",
    )
    return simulate(
        workload, cost=STEP_S, num_blocks=512, block_size=16, max_num_seqs=max_num_seqs, event_log=True
    )


def _output_per_s(run: Run) -> float:
    return throughput(run.requests, steady_window(run.requests)).output_tokens_per_s


def output_rate() -> Truth:
    """04-1: what eight users get out of a step that takes the same whatever it computes."""
    run = _served(LIMIT)
    found = round(_output_per_s(run))
    mistakes = {
        1 / STEP_S: "That is one user: a step gives a token to each of them.",
        found * (OUTPUT + 1) / OUTPUT: "The step that reads the prompt gives the first token, too.",
        round(LIMIT * OUTPUT / ((OUTPUT + 1) * STEP_S)): "The step that reads the prompt gives a token too.",
        LIMIT
        * (OUTPUT + PROMPT)
        / (OUTPUT * STEP_S): "Those are all tokens; asked are those of the answers.",
        round(LIMIT / (OUTPUT * STEP_S)): "Those are requests per second; each gives 50 tokens.",
    }
    why = (
        f"{LIMIT} tokens a step of {STEP_S:g} s: a request takes {OUTPUT} steps, and another follows at once."
    )
    rows = tuple(
        (request, f"{first:.2f}", f"{last:.2f}")
        for request, first, last in zip(
            run.requests.request_id[::LIMIT].tolist(),
            run.requests.first_token_s[::LIMIT].tolist(),
            run.requests.finish_s[::LIMIT].tolist(),
            strict=True,
        )
    )
    table = Table("one user's requests", ("request", "first token, s", "end, s"), rows)
    return Truth(found, why, {at: text for at, text in mistakes.items() if at != found}, table, run)


def knee() -> Truth:
    """04-2: the knee where at most eight sequences run."""
    runs = [_served(users, LIMIT) for users in USERS]
    rates = [_output_per_s(run) for run in runs]
    found = saturation_knee(USERS, rates)
    if found is None:
        raise RuntimeError(f"throughputs {rates} over {USERS} have no knee")
    mistakes = {
        16.0: "From 16 on a doubling gains nothing, but neither does the one that leads there, from 8.",
        32.0: "From the last point no doubling was measured.",
        4.0: "From 4 users to 8 the throughput doubles.",
    }
    why = f"More than {LIMIT} never run at once: from {number(found)} users no doubling gains 10 %."
    rows = tuple((number(users), number(rate)) for users, rate in zip(USERS, rates, strict=True))
    table = Table(f"at most {LIMIT} at once", ("users", "output, tokens/s"), rows)
    return Truth(int(found), why, mistakes, table, runs[-1])


def waiting() -> Truth:
    """04-3: the time to first token beyond the knee."""
    run = _served(2 * LIMIT, LIMIT)
    late = run.requests.arrival_s > steady_window(run.requests)[0]
    found = round(1e3 * float(np.median(ttft_s(run.requests)[late])))
    step, stay = round(1e3 * STEP_S), round(1e3 * OUTPUT * STEP_S)
    mistakes = {
        float(step): "That is without a queue: eight others are running, and eight wait.",
        float(stay): "So long it waits; its first token comes at the end of the step that reads its prompt.",
        float(2 * stay): "That is until its last token: it waits, and then it runs as long.",
        float(2 * step): "It is admitted only when one of the eight that run has ended.",
    }
    why = f"It waits {OUTPUT} steps while the eight before it run, and its first token takes one more."
    rows = tuple(
        (request, f"{1e3 * value:.0f}")
        for request, value in zip(
            run.requests.request_id[-10:].tolist(), ttft_s(run.requests)[-10:].tolist(), strict=True
        )
    )
    return Truth(found, why, mistakes, Table("the last ten requests", ("request", "TTFT, ms"), rows), run)


EXERCISES = (
    Exercise(
        "04-1",
        "output tokens per second of all users together",
        "tokens/s",
        (
            "How many steps does one request take, from its arrival to its end?",
            "The step that reads the prompt also gives the first token; every other step gives one more.",
            "In every step each of the 8 users gets one token, and there are 50 steps a second.",
        ),
        output_rate,
    ),
    Exercise(
        "04-2",
        "the smallest number of users from which each doubling gains less than 10 %",
        "users",
        (
            "How many sequences run at each number of users?",
            "The throughput follows the sequences that run, not the users.",
            "The first doubling that gains nothing starts at the knee; it ends at twice the knee.",
        ),
        knee,
    ),
    Exercise(
        "04-3",
        "the median time to first token, in milliseconds",
        "ms",
        (
            "By Little's law users = throughput × time in the system: how long is a request there?",
            "Half of that time it runs; in the other half it waits for the eight before it.",
            "It waits 50 steps of 20 ms, and the step that reads its prompt gives the first token.",
        ),
        waiting,
    ),
)
