"""What a cell can end with shows itself: a short stable repr, a small table; no script, no address."""

import importlib
import inspect
import re

import numpy as np
import pytest

import nano_batch
from nano_batch import BlockCache, Engine, Workload, drive, lab, metrics
from nano_batch.errors import NanoBatchError
from nano_batch.metrics import SLO, throughput, token_times, waste
from nano_batch.records import Kind, Phase, Schedule, SequenceState, replay
from nano_batch.simulator import (
    Constant,
    Cost,
    OwnPolicy,
    PolicyColumns,
    Profile,
    Roofline,
    StepFeatures,
    hardware_card,
    model_card,
    simulate_fleet,
)
from nano_batch.studies.batching import default_cost
from nano_batch.viz import BlockTableView, Control, RunView, Selection, SteeredView, View, chart
from nano_batch.workloads import Families, Fixed, LogNormal, Quantiles, Uniform

torch = pytest.importorskip("torch")

from nano_batch import InferenceEngine, SamplingParams  # noqa: E402
from nano_batch.attention.new_tokens import NewTokens  # noqa: E402
from nano_batch.attention.rope import Rope, rope_tables  # noqa: E402
from nano_batch.engine import (  # noqa: E402
    AsyncInferenceEngine,
    RecordedEngine,
    RequestMetrics,
    RequestOutput,
    SequenceOutput,
    TokenLogprobs,
)
from nano_batch.kv_cache import KVCache, MemoryUsage  # noqa: E402
from nano_batch.models import (  # noqa: E402
    MistralConfig,
    PagedInputs,
    PagedMistral,
    PagedRunner,
    RopeScaling,
    TinyConfig,
    TinyTransformer,
)

MODULES = (
    "nano_batch",
    "nano_batch.core",
    "nano_batch.engine",
    "nano_batch.kv_cache",
    "nano_batch.lab",
    "nano_batch.lessons",
    "nano_batch.metrics",
    "nano_batch.models",
    "nano_batch.picker",
    "nano_batch.records",
    "nano_batch.simulator",
    "nano_batch.studies",
    "nano_batch.viz",
    "nano_batch.workloads",
)
# Bases of views, a view's or a cache's inside, and words: no cell ends with one of these.
NOT_SHOWN = {
    View,
    RunView,
    SteeredView,
    # what a chart is made of
    *(chart.Area, chart.Axis, chart.Band, chart.Bars, chart.Chart, chart.Line, chart.Panel),
    *(chart.Cells, chart.Points, chart.Ribbon, chart.Rule, chart.Shade, chart.Text),
    Control,
    Selection,
    Kind,
    Phase,
    Schedule,
    SequenceState,
    Cost,
    OwnPolicy,
    PolicyColumns,
    StepFeatures,
    NewTokens,
}


def public_classes():
    found = set()
    for name in MODULES:
        module = importlib.import_module(name)
        for each in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
            value = getattr(module, each)
            own = inspect.isclass(value) and value.__module__.startswith(("nano_batch", "builtins"))
            if own and not issubclass(value, NanoBatchError):
                found.add(value)
    return found - NOT_SHOWN


def small_profile():
    """The smallest that is one."""
    one = {"tokens": [1], "rows": [1], "pairs": [1], "seconds": [1e-3]}
    grid = {"sequences": [1, 2], "context": [16, 32], "seconds": [[1e-3, 2e-3], [2e-3, 3e-3]]}
    tables = {"linear": one, "sampling": one, "prefill_attention": one, "decode_attention": grid}
    times = dict.fromkeys(
        ("overhead_s", "host_s", "host_per_sequence_s", "block_copy_s", "block_swap_s"), 1e-6
    )
    return {"version": 1, "device": "a test", "model": "none", "date": "never", "tables": tables, **times}


def small_output():
    """A request with more sequences than a small table holds."""
    logprobs = [TokenLogprobs(-0.5, [7, 1], [-0.5, -1.5])] * 12
    sequences = [
        SequenceOutput(index, list(range(12)), "<script>", "length", logprobs) for index in range(12)
    ]
    return RequestOutput("a", [1, 2, 3], sequences, RequestMetrics(1.0, 3, 1.5, 2.0, 4.0, output_tokens=144))


def examples():
    """One of everything, larger than what fits a small table."""
    workload = Workload.synthetic(24, seed=1, arrivals="at_once")
    engine = Engine(512, 16, max_num_seqs=12, max_num_batched_tokens=512, event_log=True)
    run = drive(engine, workload)
    middle = replay(run.events, step=200)
    busy = Engine(64, 4, event_log=True)
    for number in range(14):
        busy.add_request(f"r{number}", range(5), max_tokens=4)
    output = busy.step()
    arrays = Engine(64, 4, max_num_seqs=4, max_num_batched_tokens=64)
    arrays.bind([arrays.array_buffers(), arrays.array_buffers()])
    arrays.add_request("a", range(5), max_tokens=2)
    cache = KVCache(8, 4, 2, 8, torch.float32, "cpu", num_layers=2)
    model = TinyTransformer()
    served = small_output()
    inference = InferenceEngine(
        PagedMistral(MistralConfig.named("tiny")), num_blocks=4, max_num_seqs=2, max_num_batched_tokens=64
    )
    view = lab.block_table(run, workload)
    prefixes = BlockCache(8)
    prefixes.access(np.arange(5, dtype=np.int32))
    outgrown = lab.check("01-3", 0).view()._log
    crowd = lab.Mix(requests=16, rate=60.0)
    gantt = lab.gantt(crowd)
    schedule = Schedule(gantt.runs["chunked prefill"])
    board = lab.race(crowd.workload(), memory_tokens=65_536, slo=SLO(ttft_s=1.0))
    ints = torch.zeros(3, dtype=torch.int32)
    return [
        engine,
        run,
        run.requests,
        run.steps,
        run.events,
        workload,
        middle,
        busy.snapshot(),
        output,
        arrays.step_arrays(),
        prefixes,
        view,
        view.table(),
        lab.opening(),
        lab.pick_workload(24),
        lab.check("01-1", 32),
        lab.check("01-1"),
        lab.hint("01-1", 1),
        lab.growth(outgrown, "x"),
        lab.evictions(outgrown),
        lab.preemptions(outgrown),
        lab.sharing(48, own_tokens=9, requests=3, memory_tokens=512, block_sizes=(16,)),
        lab.last_block(workload.head(3), memory_tokens=8192, block_sizes=(16, 64)),
        crowd,
        gantt,
        gantt.now(),
        schedule.work,
        schedule.spans,
        metrics.slot_time(schedule.run),
        metrics.quantile(np.arange(50.0), 0.9),
        metrics.prefill_costs(schedule, default_cost()),
        lab.gain(lab.Mix(requests=4)),
        lab.DecodeStep(),
        board,
        board.table(),
        board.first_difference("fcfs", "prefill_first"),
        Fixed(5),
        Uniform(1, 9),
        LogNormal(5.0, 1.0),
        Quantiles.of_trace("azure_conv", "prompt"),
        Families(2, 64),
        SLO(ttft_s=1.0),
        Constant(0.02),
        Profile(small_profile()),
        hardware_card("h100"),
        model_card("mistral-7b-v0.3"),
        Roofline(989e12, 3.35e12, 16.06e9, 131_072.0),
        simulate_fleet(workload, replicas=12, num_blocks=512),
        throughput(run.requests),
        token_times(run),
        waste(middle, 16),
        cache,
        cache.get_memory_usage(),
        model,
        TinyConfig(),
        MistralConfig(),
        RopeScaling("linear", 2.0),
        PagedMistral(MistralConfig.named("tiny")),
        PagedRunner(model, cache),
        inference,
        AsyncInferenceEngine(inference),
        RecordedEngine(inference.model, num_blocks=8, max_num_seqs=2, max_model_len=16),
        lab.SameModel(61, 1e-6, (5, 6, 7), (5, 6, 7)),
        SamplingParams(temperature=0.5, stop="\n"),
        served,
        served.sequences[0],
        served.sequences[0].logprobs[0],
        served.metrics,
        Rope(ints.long(), *rope_tables(16, 8)),
        PagedInputs(ints, ints, ints, ints.reshape(1, 3), ints[:1], ints[:2]),
    ]


@pytest.fixture(scope="module")
def shown():
    return examples(), examples()


def test_there_is_one_of_every_public_class(shown):
    classes = public_classes()
    assert {Engine, Workload, MemoryUsage, BlockTableView, metrics.Waste, nano_batch.StepCounts} <= classes
    # A widget's own class is one that anywidget derives.
    missing = {cls for cls in classes if not any(isinstance(each, cls) for each in shown[0])}
    assert not missing


def test_repr_is_short_and_the_same_in_every_run(shown):
    for one, other in zip(*shown, strict=True):
        text = repr(one)
        limit = 6 if isinstance(one, View) else 3  # a view's repr is its caption
        assert 1 <= len(text.splitlines()) <= limit, text
        assert not re.search(r"0x[0-9a-f]{4,}", text), text
        assert all(len(line) <= 240 for line in text.splitlines()), text
        assert text == repr(other)


def own_html(one):
    """A picker is a widget; what it picked is the table."""
    return (one if hasattr(one, "_repr_html_") else one.workload)._repr_html_()


def test_html_is_a_small_table_without_a_script(shown):
    for one, other in zip(*shown, strict=True):
        if isinstance(one, View):
            assert {"text/plain", "image/png"} <= one._repr_mimebundle_()[0].keys()
            continue
        html = own_html(one)
        assert "<script" not in html
        assert "style=" not in html  # colours are the host's
        body = html.split("<tbody>")[1:]
        assert body or isinstance(one, lab.Hint | lab.Verdict), html
        # The last row of a cut table says how many more there are.
        assert all(part.count("<tr>") <= 11 for part in body), html
        assert all(part.count("<tr>") <= 10 or "more</td>" in part for part in body), html
        assert html == own_html(other)


def test_texts_in_a_table_are_escaped():
    engine = Engine(8, 4)
    engine.add_request("<script>alert(1)</script>", range(3), max_tokens=2)
    assert "<script" not in engine.step()._repr_html_()
    assert "<script" not in engine.snapshot()._repr_html_()
    workload = Workload.synthetic(3, name="<script>")
    assert "<script" not in workload._repr_html_()
    assert "<script" not in lab.check("01-1", "<script>")._repr_html_()


UNITLESS = {
    "sequence": "a number",
    "request_id": "a name",
    "finish_reason": "a word",
    "step": "a number",
    "back at step": "a number",
    "kind": "a number",
    "block": "a number",
    "argument": "depends on the kind",
    "block_ids": "numbers",
    "state": "a word",
    "blocks": "a count of blocks",
    "request": "a name",
    "taken by": "a name",
    "last held by": "a name",
    "logical block": "a number",
    "panel": "a title",
    "series": "a name",
    **dict.fromkeys(("x", "low", "high"), "in the units of the panel's axes"),
    "scheme": "a name",
    "policy": "a name",
    "fairness": "a share from 0 to 1",
    **dict.fromkeys(("prefill", "decode", "stalled", "preempted"), "a count of requests"),
}
UNITS = re.compile(r"_s$|tokens|blocks|slots|steps$|preemptions|running|waiting|^%|\((?:s|ms|1/s|%)\)$")


def test_to_frame_has_units_in_the_names_of_its_columns(shown):
    tables = [each for each in shown[0] if hasattr(each, "to_frame")]
    assert len(tables) >= 6
    for table in tables:
        frame = table.to_frame()
        assert len(frame)
        for name in frame.columns:
            assert name in UNITLESS or UNITS.search(name), (type(table).__name__, name)
