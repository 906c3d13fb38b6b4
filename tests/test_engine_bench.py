"""`nano-batch bench engine`: its work, its rows and file, each engine really serving, and the pictures."""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nano_batch import cli, errors  # noqa: E402
from nano_batch.benchmarks import engine as bench  # noqa: E402
from nano_batch.benchmarks.engines import ours, work  # noqa: E402
from nano_batch.benchmarks.engines.base import Served, check_served  # noqa: E402
from nano_batch.benchmarks.engines.contest import ENGINES, Contest  # noqa: E402
from nano_batch.benchmarks.engines.limit import Limit, card_of  # noqa: E402
from nano_batch.benchmarks.engines.measured_file import MeasuredFile  # noqa: E402
from nano_batch.benchmarks.engines.ours import NanoBatch  # noqa: E402
from nano_batch.benchmarks.engines.rates import ROWS, Rates, measure_rates, sustained_rates  # noqa: E402
from nano_batch.benchmarks.engines.rows import row, with_limits  # noqa: E402
from nano_batch.benchmarks.engines.two_devices import NanoBatchOnTwo  # noqa: E402
from nano_batch.benchmarks.engines.work import CPU_CASES, CUDA_CASES, Case, Request, requests_of  # noqa: E402
from nano_batch.engine import InferenceEngine  # noqa: E402
from nano_batch.lessons import engine_speed, measured_engines  # noqa: E402
from nano_batch.models import MistralConfig, PagedMistral, load_mistral  # noqa: E402
from nano_batch.simulator import Roofline, StepFeatures  # noqa: E402
from nano_batch.simulator.cards import model_card  # noqa: E402

WHOLE = Case("offline", 256, 256)
COLUMNS = {
    "case", "engine", "concurrency", "requests", "output_tokens", "tok_per_s", "ttft_p50_s", "ttft_p99_s",
    "ttft_batch_p50_s", "tpot_p50_ms", "tpot_p99_ms", "e2e_p50_s", "step_ms", "limit_ms",
    "limit_percent", "sustained_percent",
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return load_mistral("tiny", load_format="dummy", seed=5)


def few_requests(seed, count=7, *, gap_s=0.0):
    """Short random ones, so that every engine really serves them."""
    source = random.Random(seed)
    return [
        Request([source.randrange(3, 4096) for _ in range(source.randint(4, 40))], source.randint(1, 12),
                number * gap_s)
        for number in range(count)
    ]  # fmt: skip


# The work.


def test_the_work_is_that_of_the_seeded_program():
    random.seed(0)
    drawn = [
        ([random.randrange(3, 32000) for _ in range(random.randint(64, 512))], random.randint(32, 256))
        for _ in range(256)
    ]
    made = requests_of(WHOLE, 32_000)
    assert [(each.prompt, each.output_tokens) for each in made] == drawn
    assert sum(each.output_tokens for each in made) == 37_897


def test_making_the_work_leaves_the_shared_generator_alone():
    random.seed(9)
    expected = random.random()
    random.seed(9)
    requests_of(WHOLE, 32_000)
    assert random.random() == expected


def test_a_changed_work_is_refused(monkeypatch):
    monkeypatch.setattr(work, "OUTPUT_LENGTHS", (32, 257))
    monkeypatch.setattr(work, "_all_drawn", work._all_drawn.__wrapped__)
    with pytest.raises(errors.BenchmarkError, match="37,897"):
        requests_of(WHOLE, 32_000)


def test_a_small_vocabulary_keeps_the_lengths():
    large, small = requests_of(WHOLE, 32_000), requests_of(WHOLE, 4096)
    lengths = [[(len(each.prompt), each.output_tokens) for each in made] for made in (large, small)]
    assert lengths[0] == lengths[1]
    ids = {token for each in small for token in each.prompt}
    assert min(ids) >= 3
    assert max(ids) < 4096


def test_steady_and_poisson():
    steady = requests_of(Case("steady", 8, 8), 32_000)
    assert {(len(each.prompt), each.output_tokens, each.arrival_s) for each in steady} == {(300, 200, 0.0)}
    assert len({tuple(each.prompt) for each in steady}) == 8
    arrivals = [each.arrival_s for each in requests_of(Case("poisson", 256, 256, 8), 32_000)]
    assert arrivals[0] == 0
    assert arrivals == sorted(arrivals)
    assert 255 / arrivals[-1] == pytest.approx(8, rel=0.2)
    assert np.std(np.diff(arrivals)) == pytest.approx(1 / 8, rel=0.2)


def test_the_cases():
    offline = {(case.concurrency, case.requests) for case in CUDA_CASES if case.name == "offline"}
    assert offline == {(1, 8), (8, 32), (32, 64), (64, 128), (128, 128), (256, 256)}
    for cases in (CUDA_CASES, CPU_CASES):
        assert {case.name for case in cases} == {"offline", "steady", "poisson"}
        assert len({case.label for case in cases}) == len(cases)


def test_what_the_environment_asks_for():
    plan = bench.plan_of({}, CUDA_CASES)
    assert (list(plan.cases), list(plan.engines), plan.runs) == (CUDA_CASES, list(ENGINES), 3)
    asked = {"NANO_BATCH_CASES": "offline-8, steady", "NANO_BATCH_ENGINES": "limit", "NANO_BATCH_RUNS": "2"}
    plan = bench.plan_of(asked, CUDA_CASES)
    steady = {f"steady-{concurrency}" for concurrency in (1, 8, 32, 64, 128, 256)}
    assert {case.label for case in plan.cases} == {"offline-8", *steady}
    assert (list(plan.engines), plan.runs) == (["limit"], 2)
    with pytest.raises(errors.UnknownOptionError, match="'offline-64'"):
        bench.plan_of({"NANO_BATCH_CASES": "offline-63"}, CUDA_CASES)
    with pytest.raises(errors.UnknownOptionError, match="'nano_batch'"):
        bench.plan_of({"NANO_BATCH_ENGINES": "nano_bach"}, CUDA_CASES)
    with pytest.raises(errors.InvalidArgumentError, match="NANO_BATCH_RUNS='0'"):
        bench.plan_of({"NANO_BATCH_RUNS": "0"}, CUDA_CASES)


# Rows.


def test_a_row_of_known_times():
    run = [
        Served(0.0, 0.5, [1.0, 1.1, 1.2], [7, 8, 9]),
        Served(0.0, 1.5, [2.0, 2.3], [7, 8]),
        Served(1.0, 2.0, [4.0], [7]),
    ]
    made = row(Case("offline", 2, 3), "x", [run, run])
    assert (made["output_tokens"], made["tok_per_s"], made["runs"]) == (6, 1.5, 2)  # 6 tokens in 4 s
    assert (made["ttft_p50_s"], made["ttft_batch_p50_s"], made["e2e_p50_s"]) == (2.0, 0.5, 2.3)
    assert made["ttft_p99_s"] == pytest.approx(2.98)
    assert made["tpot_p50_ms"] == 200.0  # 100 and 300; one token has none
    assert made["step_ms"] == 100.0  # gaps of 100, 100, 300


def test_a_row_has_the_median_of_its_runs_and_their_spread():
    runs = [[Served(0.0, 0.0, [1.0, span], [1, 2])] for span in (2.0, 4.0, 8.0)]
    made = row(Case("offline", 1, 1), "x", runs)
    assert (made["tok_per_s"], made["tok_per_s_least"], made["tok_per_s_most"]) == (0.5, 0.25, 1.0)
    single = row(Case("offline", 1, 1), "x", [[Served(0.0, 0.0, [1.0], [1])]])
    assert (single["tpot_p50_ms"], single["step_ms"]) == (None, None)


def test_limits_are_of_the_same_load():
    def made(engine, rate, step, concurrency=1):
        return {"case": "offline", "engine": engine, "concurrency": concurrency, "rate_per_s": None,
                "requests": 8, "tok_per_s": rate, "step_ms": step}  # fmt: skip

    sustained = made("limit_sustained", 100.0, 8.0)
    given = [made("limit", 200.0, 5.0), sustained, made("x", 50.0, 21.0), made("x", 70.0, 22.0, 8)]
    found = [
        (each["limit_ms"], each["limit_percent"], each["sustained_percent"]) for each in with_limits(given)
    ]
    assert found == [(5.0, 100.0, 200.0), (5.0, 50.0, 100.0), (5.0, 25.0, 50.0), (None, None, None)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda one: one.token_ids.pop(), "gave request 1 1 tokens at 2 times; it asked for 2"),
        (lambda one: (one.token_ids.append(1), one.token_times_s.append(3.0)), "gave request 1 3 tokens"),
        (lambda one: one.token_times_s.reverse(), "go back"),
    ],
)
def test_other_tokens_than_asked_for_are_refused(spoil, message):
    requests = [Request([5], 2), Request([6], 2)]
    served = [Served(0.0, 0.0, [1.0, 2.0], [4, 4]) for _ in requests]
    check_served("x", requests, served, clocked=True)
    spoil(served[1])
    with pytest.raises(errors.BenchmarkError, match=message):
        check_served("x", requests, served, clocked=True)
    with pytest.raises(errors.BenchmarkError, match="served 1 of 2"):
        check_served("x", requests, served[:1], clocked=True)


# Engines.


class Stepped:
    """An engine in the form of `InferenceEngine`: at most `max_num_seqs` at once, a token each a step.

    It plans ahead: a request's first token is there in the step after the one that computes its prompt.
    """

    def __init__(self, model, *, max_num_seqs, max_model_len, enable_prefix_caching):
        assert not enable_prefix_caching
        self.most, self.longest = max_num_seqs, max_model_len
        self.waiting, self.running, self.at_once = [], [], 0

    @property
    def has_unfinished(self):
        return bool(self.waiting or self.running)

    def add_request(self, request_id, prompt, params):
        assert len(prompt) + params.max_tokens <= self.longest
        metrics = SimpleNamespace(first_scheduled_s=float("nan"))
        self.waiting.append(
            (SimpleNamespace(request_id=request_id, token_ids=[], metrics=metrics), params.max_tokens)
        )

    def step(self):
        time.sleep(1e-4)
        moved = [output for output, _ in self.running]
        for output in moved:
            output.token_ids.append(3)
        self.running = [(output, most) for output, most in self.running if len(output.token_ids) < most]
        while self.waiting and len(self.running) < self.most:
            self.running.append(self.waiting.pop(0))
            self.running[-1][0].metrics.first_scheduled_s = time.perf_counter()
        self.at_once = max(self.at_once, len(self.running))
        return moved


def fake_params(output_tokens):
    return SimpleNamespace(max_tokens=output_tokens)


@pytest.mark.parametrize("gap_s", [0.0, 0.01])
def test_ours_is_stepped_to_the_end(gap_s):
    requests = few_requests(1, gap_s=gap_s)
    stepped = Stepped(None, max_num_seqs=3, max_model_len=768, enable_prefix_caching=False)
    served = ours.serve(stepped, fake_params, requests)
    check_served("ours", requests, served, clocked=True)
    assert stepped.at_once <= 3
    assert all(one.arrival_s == request.arrival_s for one, request in zip(served, requests, strict=True))
    if gap_s:
        assert served[-1].started_s >= requests[-1].arrival_s
    else:
        assert stepped.at_once == 3


def test_an_engine_that_runs_out_of_work_waits_for_the_next_arrival():
    requests = [Request([5], 1), Request([5], 1, 0.05)]
    served = ours.serve(Stepped(None, max_num_seqs=3, max_model_len=9, enable_prefix_caching=False),
                        fake_params, requests)  # fmt: skip
    assert served[0].finish_s < 0.05 <= served[1].started_s


@pytest.fixture
def theirs(model):
    pytest.importorskip("transformers")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from nano_batch.benchmarks.engines import transformers_model

    return transformers_model.transformers_model(model)


def engine_of(name, model):
    contest = Contest.__new__(Contest)
    contest.model = model
    return contest.engine(name)


def dense_greedy(model, request):
    tokens = list(request.prompt)
    for _ in range(request.output_tokens):
        tokens.append(int(model.dense(tokens)[-1].argmax()))
    return tokens[len(request.prompt) :]


@pytest.mark.parametrize(
    ("name", "concurrency"),
    [("transformers_generate_single", 1), ("transformers_generate", 3), ("transformers_generate_batch", 3)],
)
def test_transformers_serves_our_weights(theirs, model, name, concurrency):
    """Each way gives exactly the tokens of our dense model, which shares its weights, at any padding."""
    requests = few_requests(random.randrange(10**6))
    with engine_of(name, model).opened(concurrency) as serve:
        served = serve(requests)
    check_served(name, requests, served, clocked=True)
    assert [one.token_ids for one in served] == [dense_greedy(model, each) for each in requests]


def test_static_batches_wait_for_each_other(theirs):
    from nano_batch.benchmarks.engines.transformers_generate import serve

    requests = few_requests(3)
    served = serve(theirs, 3, requests)
    starts = sorted({one.started_s for one in served})
    assert [sum(one.started_s == start for one in served) for start in starts] == [3, 3, 1]
    for start, batch in zip(starts[1:], (served[:3], served[3:6]), strict=True):
        assert max(one.finish_s for one in batch) <= start
    late = [Request([5, 6], 2), Request([7], 2, 0.3), Request([8], 2, 0.3)]
    for one, request in zip(serve(theirs, 3, late), late, strict=True):
        assert one.started_s >= request.arrival_s


def test_transformers_shares_the_memory(theirs, model):
    ours_at = {view.data_ptr() for view in model.state_dict().values()}
    assert {parameter.data_ptr() for parameter in theirs.parameters()} == ours_at


def test_a_window_that_matters_is_refused():
    pytest.importorskip("transformers")
    from nano_batch.benchmarks.engines.transformers_model import transformers_model

    shape = MistralConfig(64, 32, 64, 1, 2, 1, 16, sliding_window=700, dtype=torch.float32)
    with pytest.raises(errors.BenchmarkError, match="700 tokens; the longest sequence has 768"):
        transformers_model(PagedMistral(shape))


def test_without_transformers_the_error_says_so(monkeypatch):
    import sys

    from nano_batch.benchmarks.engines.transformers_model import transformers_module

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(errors.MissingExtraError, match="pip install transformers"):
        transformers_module()


# The limit.

RATES = Rates(4e12, (1, 8, 64), (1e14, 2e14, 8e14))


def test_the_rate_of_products_is_that_of_no_fewer_rows():
    found = [RATES.product_rate(rows) for rows in (1, 2, 8, 9, 64, 1000)]
    assert found == [1e14, 2e14, 2e14, 8e14, 8e14, 8e14]


def test_a_step_of_the_limit():
    """By hand for Mistral 7B: the weights bind a small step, their products a large one."""
    card = model_card("mistral-7b-v0.1")
    limit = Limit(card, RATES)
    weights, keys = card.step_weight_bytes / 4e12, 8 * 500 * card.kv_bytes_per_token / 4e12
    small = StepFeatures(decode_sequences=8, decode_context=8 * 500, sampled=8)
    assert limit.step_s(small) == pytest.approx(weights + keys)
    chunk = StepFeatures(prefill_tokens=4096, prefill_sequences=1, prefill_context=4096,
                         prefill_pairs=4096 * 4097 // 2, sampled=1)  # fmt: skip
    last = 4096 * 4096 + 3 * 4096 * 14_336  # of the last layer, behind its attention
    products = (4096 * card.flops_per_token + card.flops_per_sample - 4095 * 2 * last) / 8e14
    assert limit.step_s(chunk) == pytest.approx(products + 4096 * 4097 / 2 * card.flops_per_pair / 8e14)


def test_with_one_rate_the_limit_is_the_roofline():
    card = model_card("mistral-7b-v0.1")
    limit = Limit(card, Rates(4e12, (1,), (8e14,)))
    roofline = Roofline(8e14, 4e12, card.step_weight_bytes, card.kv_bytes_per_token, card.flops_per_token,
                        card.flops_per_pair, card.flops_per_sample).core()  # fmt: skip
    source = random.Random()
    for _ in range(50):
        decodes = source.randint(1, 256)
        step = StepFeatures(decode_sequences=decodes, decode_context=decodes * source.randint(1, 9000),
                            sampled=decodes)  # fmt: skip
        assert limit.step_s(step) == pytest.approx(roofline.step_time(step)[1])


def test_the_limit_serves_as_many_as_may_run(model):
    limit = Limit(card_of(model), RATES)
    requests = few_requests(4)
    with limit.opened(1) as serve:
        alone = serve(requests)
    check_served("limit", requests, alone, clocked=False)
    for before, after in pairwise(alone):
        assert before.finish_s <= after.started_s + 1e-12
    with limit.opened(7) as serve:
        together = serve(requests)
    assert all(one.started_s == 0 for one in together)
    assert max(one.finish_s for one in together) < alone[-1].finish_s
    steps = sum(each.output_tokens for each in requests)
    assert alone[-1].finish_s >= steps * card_of(model).step_weight_bytes / 4e12


def test_rates_are_measured(model):
    rates = measure_rates(PagedMistral(MistralConfig(64, 32, 64, 1, 2, 1, 16, dtype=torch.float32)))
    assert rates.rows == ROWS
    assert list(rates.product_flops_per_s) == sorted(rates.product_flops_per_s)
    assert 1e8 < rates.copy_bytes_per_s < 1e13
    assert 1e6 < rates.product_flops_per_s[0] <= rates.peak_flops_per_s < 1e15
    assert rates.as_json()["product_tflop_per_s"].keys() == {str(rows) for rows in ROWS}


def test_rates_over_seconds_are_no_higher_and_only_where_power_may_bind(model, monkeypatch):
    """The device is heated by the most rows first; each product is then timed by itself."""
    from nano_batch.benchmarks.on_gpu import timing

    short = Rates(4e12, (128, 256, 512), (1e6, 4e6, 8e6))
    largest = 2 * model.layers[0].gate_up.numel()
    asked = []

    def kept_up(graphs, seconds):
        asked.append((len(graphs[0](0)), seconds))
        return 1e6 * largest * 256 / 2e6  # the largest product of 256 rows at half the rate

    monkeypatch.setattr(timing, "capture", lambda call, copies: [call])
    monkeypatch.setattr(timing, "kept_up", kept_up)
    found = sustained_rates(model, short)
    assert (found.copy_bytes_per_s, found.rows) == (4e12, short.rows)
    assert found.product_flops_per_s == pytest.approx((1e6, 2e6, 4e6))
    assert asked == [(512, 2.0), *4 * [(256, 0.3)], *4 * [(512, 0.3)]]
    assert sustained_rates(model, Rates(4e12, (256,), (1e6,))).product_flops_per_s == (1e6,)
    falling = sustained_rates(model, Rates(4e12, (128, 256), (3e6, 4e6)))
    assert falling.product_flops_per_s == pytest.approx((2e6, 2e6))


def test_a_card_of_a_model_that_is_there():
    name = "mistral-7b-v0.1"
    made, card = card_of(PagedMistral(MistralConfig.named(name), device="meta")), model_card(name)
    for number in (
        "parameters",
        "step_weight_bytes",
        "flops_per_token",
        "kv_bytes_per_token",
        "flops_per_pair",
    ):
        assert getattr(made, number) == getattr(card, number), number


# The whole, with engines that only keep time.


class Paced:
    """An engine whose tokens come one a `step_s`, on no clock, all requests together."""

    clocked = True

    def __init__(self, name, step_s, *, baseline=True, breaks=None):
        self.name, self.step_s, self.baseline, self.breaks = name, step_s, baseline, breaks
        self.calls = []

    def suits(self, case):
        few = {"transformers_generate": case.concurrency > 1, "nano_batch_tp2": case.name == "steady"}
        return few.get(self.name, self.name != "transformers_generate_single" or case.concurrency == 1)

    @contextmanager
    def opened(self, concurrency):
        yield partial(self.serve, concurrency)

    def serve(self, concurrency, requests):
        if self.breaks is not None:
            raise self.breaks
        self.calls.append((concurrency, len(requests), max(each.output_tokens for each in requests)))
        return [
            Served(each.arrival_s, each.arrival_s,
                   [each.arrival_s + self.step_s * (place + 1) for place in range(each.output_tokens)],
                   [3] * each.output_tokens)
            for each in requests
        ]  # fmt: skip


class FakeContest:
    vocab_size, file_name = 4096, "engine_h900.json"

    def __init__(self, device="NVIDIA H900"):
        self.device = device
        steps = {"limit": 0.001, "nano_batch": 0.002, "transformers_generate_batch": 0.004}
        steps |= {"transformers_generate": 0.008, "transformers_generate_single": 0.016}
        steps |= {"nano_batch_tp2": 0.001, "limit_sustained": 0.0016}
        self.engines = {
            name: Paced(name, step, baseline=name.startswith("trans")) for name, step in steps.items()
        }

    def about(self):
        return {"device": self.device, "model": "tiny", "dtype": "float32"}

    def session(self):
        return {"versions": {"torch": "2"}}

    def engine(self, name):
        return self.engines[name]


def measure(folder, *, contest=None, **environment):
    contest = contest or FakeContest()
    return bench.measured(contest, bench.plan_of(environment, CPU_CASES), folder)


@pytest.fixture
def result(tmp_path):
    return measure(tmp_path)


def test_every_case_has_every_engine_that_suits(result, tmp_path):
    written = json.loads((tmp_path / "engine_h900.json").read_text())
    assert result == {**written, "failures": []}
    assert (result["bench"], result["device"], result["model"]) == ("engine", "NVIDIA H900", "tiny")
    assert all(each.keys() >= COLUMNS for each in result["rows"])
    found = {(each["case"], each["concurrency"], each["engine"]) for each in result["rows"]}
    assert len(found) == len(result["rows"]) == 5 * len(CPU_CASES) + 2
    assert ("offline", 1, "transformers_generate_single") in found
    steady = [each for each in result["rows"] if (each["case"], each["engine"]) == ("steady", "nano_batch")]
    assert {(each["step_ms"], each["limit_ms"], each["limit_percent"]) for each in steady} == {
        (2.0, 1.0, 50.0)
    }


def test_engines_are_warmed_up_and_run_several_times(tmp_path):
    contest = FakeContest()
    measure(tmp_path, contest=contest, NANO_BATCH_CASES="offline-4", NANO_BATCH_RUNS="2")
    whole = max(each.output_tokens for each in requests_of(Case("offline", 4, 8), 4096))
    assert contest.engines["nano_batch"].calls == [(4, 4, bench.WARM_TOKENS), *2 * [(4, 8, whole)]]


def test_a_later_run_replaces_its_own_rows(result, tmp_path):
    slower = FakeContest()
    slower.engines["nano_batch"].step_s = 0.005
    asked = {"NANO_BATCH_CASES": "steady-4", "NANO_BATCH_ENGINES": "nano_batch"}
    merged = measure(tmp_path, contest=slower, **asked)
    assert len(merged["rows"]) == len(result["rows"])
    assert len(merged["sessions"]) == 2
    changed = [each for each, before in zip(merged["rows"], result["rows"], strict=True)
               if each["tok_per_s"] != before["tok_per_s"]]  # fmt: skip
    where = [(each["case"], each["concurrency"], each["engine"]) for each in changed]
    assert where == [("steady", 4, "nano_batch")]
    assert (changed[0]["session"], changed[0]["limit_ms"], changed[0]["limit_percent"]) == (1, 1.0, 20.0)
    again = measure(tmp_path)
    assert len(again["sessions"]) == 1  # nothing is left of the two before


def test_another_device_begins_anew(result, tmp_path):
    other = measure(tmp_path, contest=FakeContest("NVIDIA H901"), NANO_BATCH_CASES="steady-1")
    assert {each["case"] for each in other["rows"]} == {"steady"}


def test_what_is_there_is_written_before_an_engine_of_ours_fails(tmp_path):
    contest = FakeContest()
    contest.engines["nano_batch"].breaks = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        measure(tmp_path, contest=contest)
    written = json.loads((tmp_path / "engine_h900.json").read_text())
    assert [each["engine"] for each in written["rows"]] == ["limit", "limit_sustained"]


def test_a_baseline_that_fails_is_told(tmp_path, capsys):
    contest = FakeContest()
    contest.engines["transformers_generate_batch"].breaks = errors.MissingExtraError("no such package")
    found = measure(tmp_path, contest=contest, NANO_BATCH_CASES="offline-4")
    told = "transformers_generate_batch, offline-4: MissingExtraError: no such package"
    assert found["failures"] == found["sessions"][0]["failures"] == [told]
    assert told in capsys.readouterr().err
    engines = {"limit", "limit_sustained", "nano_batch", "transformers_generate"}
    assert {each["engine"] for each in found["rows"]} == engines


def test_an_engine_that_gives_too_few_tokens_has_no_row(tmp_path):
    contest = FakeContest()
    serve = contest.engines["nano_batch"].serve
    contest.engines["nano_batch"].serve = lambda *given: serve(*given)[:-1]
    with pytest.raises(errors.BenchmarkError, match="nano_batch served 3 of 4"):
        measure(tmp_path, contest=contest, NANO_BATCH_CASES="steady-4", NANO_BATCH_ENGINES="nano_batch")


def test_the_limit_of_one_device_says_nothing_of_two(result):
    split = [each for each in result["rows"] if each["engine"] == "nano_batch_tp2"]
    assert [(each["case"], each["step_ms"]) for each in split] == [("steady", 1.0)] * 2
    assert all(
        each["limit_ms"] is each["limit_percent"] is each["sustained_percent"] is None for each in split
    )


def test_two_devices_are_measured_where_there_are_two(monkeypatch):
    made = NanoBatchOnTwo("tiny", torch.float32)
    for devices, suited in ((0, []), (1, []), (2, ["steady-1", "steady-4"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda devices=devices: devices)
        assert [case.label for case in CPU_CASES if made.suits(case)] == suited


def test_two_ranks_serve_the_benchmark_and_end():
    """As on two CUDA devices, with processes on a CPU in their place."""
    engines = []

    def make(*args, **options):
        engines.append(InferenceEngine.from_pretrained(*args, device="cpu", num_blocks=64, **options))
        return engines[0]

    with NanoBatchOnTwo("tiny", torch.float32, make).opened(2) as serve:
        requests = [Request([3, 4, 5], 4), Request([6], 5)]
        check_served("nano_batch_tp2", requests, serve(requests), clocked=True)
    assert engines[0].ranks.closed


def test_a_contest_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    contest = Contest()
    assert (contest.file_name, contest.vocab_size, contest.cases) == ("engine_cpu_tiny.json", 4096, CPU_CASES)
    assert contest.about()["dtype"] == "float32"
    session = contest.session()
    assert session["versions"]["torch"] == torch.__version__
    assert session["threads"] == torch.get_num_threads()
    assert "rates" not in session
    assert [contest.engine(name).name for name in ENGINES[1:]] == list(ENGINES[1:])
    assert isinstance(contest.engine("nano_batch"), NanoBatch)
    with pytest.raises(errors.UnknownOptionError, match="did you mean 'tiny'"):
        Contest("tine")


def test_the_command(capsys, monkeypatch):
    monkeypatch.setattr(bench, "run", lambda model=None: {"rows": [{"model": model}]})
    assert cli.main(["bench", "engine", "--model", "small", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": [{"model": "small"}]}
    assert cli.main(["bench", "engine"]) == 0
    assert "model=None" in capsys.readouterr().out
    assert cli.main(["bench", "scheduler", "--model", "small"]) == 1
    assert "--model=small is for the benchmarks engine and kv_cache" in capsys.readouterr().err


# The pictures, of these rows.


@pytest.fixture
def pictures(result, tmp_path, monkeypatch):
    monkeypatch.setattr(measured_engines, "MEASURED", tmp_path)
    return [engine_speed.engine_throughput, engine_speed.engine_scaling, engine_speed.engine_latency]


def test_each_picture_has_its_source_and_every_engine(pictures, result):
    for picture in pictures:
        view = picture("h900")
        assert "recorded: NVIDIA H900, tiny in float32, " in view.caption()
        assert result["sessions"][0]["date"] in view.caption()
        told = " ".join(panel.note for panel in view.chart.panels)
        assert f"commit {result['sessions'][0]['commit']}" in told
        assert "NVIDIA H900, tiny" in told
        names = {series.name for panel in view.chart.panels for series in panel.series}
        assert {"nano_batch", "Transformers, continuous batching", "Transformers, static batches"} <= names
        assert "the limit over seconds" not in names  # it is told, and in the table
        assert any("the limit over seconds" in row for row in view.table().rows)
        assert all(panel.x.title and panel.y.unit for panel in view.chart.panels)
        assert view.poster()[:8] == b"\x89PNG\r\n\x1a\n"
        figure = view.figure()
        assert {"scatter"} == {trace.type for trace in figure.data}
        assert len(view.table().rows) == len(result["rows"])


def drawn(view, panel, name):
    series = [each for each in view.chart.panels[panel].series if each.name == name]
    return {x: y for each in series for x, y in zip(each.x.tolist(), each.y.tolist(), strict=True)}


def test_the_bound_is_drawn_and_the_numbers_are_the_rows(pictures, result):
    throughput, scaling, latency = (picture() for picture in pictures)
    expected = {each["concurrency"]: each["tok_per_s"] for each in result["rows"]
                if (each["case"], each["engine"]) == ("offline", "nano_batch")}  # fmt: skip
    assert drawn(throughput, 0, "nano_batch") == expected
    limit = drawn(throughput, 0, "the device's limit")
    assert all(limit[at] > expected[at] for at in expected)
    assert "50 % of the limit and 80 % of what it is over seconds; " in throughput.chart.says[0]
    assert drawn(scaling, 0, "nano_batch") == {at: each / expected[1] for at, each in expected.items()}
    assert drawn(scaling, 0, "Transformers, static batches").keys() == {4, 8}
    assert drawn(scaling, 1, "nano_batch")[1] == pytest.approx(50, rel=1e-3)
    over_seconds = drawn(scaling, 1, "nano_batch, of the limit over seconds")
    assert over_seconds == pytest.approx(dict.fromkeys(expected, 80), rel=1e-2)
    assert drawn(latency, 4, "nano_batch") == {1: 2.0, 4: 2.0}
    assert drawn(latency, 4, "the device's limit") == {1: 1.0, 4: 1.0}
    assert "50" in " ".join(throughput.chart.says)


def test_live_rows_have_their_own_marks(pictures, result):
    view = pictures[0](live=result)
    marks = {series.name: series.mark for series in view.chart.panels[0].series if hasattr(series, "mark")}
    assert marks["nano_batch"] == "circle"
    assert marks["nano_batch, live"] == "diamond"
    assert "diamonds: live, NVIDIA H900" in view.caption()


def test_no_measurement_and_an_unknown_one(pictures, tmp_path):
    with pytest.raises(errors.UnknownOptionError, match="'h900'"):
        pictures[0]("h90")
    (tmp_path / "engine_h900.json").unlink()
    with pytest.raises(errors.LabError, match="bench engine makes one"):
        pictures[0]()


# What is committed.


@pytest.mark.parametrize("path", sorted(bench.MEASURED.glob("engine_*.json")), ids=lambda path: path.stem)
def test_a_committed_measurement_is_whole(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["rows"]
    assert (
        MeasuredFile(path, {name: found[name] for name in ("device", "model", "dtype")}).merged({}, [])
        == found
    )
    for session in found["sessions"]:
        assert session["date"]
        assert session["commit"]
        assert session["failures"] == []
        assert {"driver", "torch", "transformers"} <= session["versions"].keys()
    for each in found["rows"]:
        assert each.keys() >= COLUMNS
        assert 0 < each["tok_per_s_least"] <= each["tok_per_s"] <= each["tok_per_s_most"]
        if (each["case"], each["requests"]) == ("offline", 256):
            assert each["output_tokens"] == 37_897
