"""`08_paged_mistral`: its pictures against what the engine, a dense model and Transformers say."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nano_batch import SamplingParams, lab  # noqa: E402
from nano_batch.errors import (  # noqa: E402
    InvalidArgumentError,
    LabError,
    UnknownOptionError,
    ViewError,
)
from nano_batch.lessons import live_engines, live_view, same_model  # noqa: E402
from nano_batch.lessons.attention_read import attention_weights  # noqa: E402
from nano_batch.lessons.held_tokens import held_at  # noqa: E402
from nano_batch.lessons.live_engines import LiveEngines, requests  # noqa: E402
from nano_batch.records import SequenceState, replay  # noqa: E402


def greedy(count):
    return SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)


def drawn(count, seed=None):
    draw = random.Random(seed)
    return [draw.randrange(4096) for _ in range(count)]


@pytest.fixture(scope="module")
def model():
    return lab.paged_mistral(model_seed=5).model


def two_requests(**options):
    """An engine that has served a and then b, which begins as a does."""
    engine = lab.paged_mistral(**options)
    prompt = drawn(37, 1)
    engine.add_request("a", prompt, greedy(20))
    for _ in range(8):
        engine.step()
    engine.add_request("b", [*prompt[:35], 7, 8, 9], greedy(14))
    while engine.has_unfinished:
        engine.step()
    return engine


# What is stored where.


@pytest.mark.parametrize(
    "options", [{}, {"num_blocks": 5, "watermark": 0.0}, {"max_num_batched_tokens": 13, "block_size": 8}]
)
def test_what_is_held_is_the_replayed_state(options):
    engine = two_requests(**options)
    log, ended = engine.engine.events(), set()
    for step in range(1, int(log.step[-1]) + 1):
        state = replay(log, step=step)
        rows = {int(number): row for row, number in enumerate(state.sequence)}
        for number in (0, 1):
            held = held_at(log, number, step)
            if number not in rows:
                assert held.ended or not held.stored
                ended |= {number} if held.ended else set()
                continue
            row = rows[number]
            assert held.stored == state.stored[row]
            assert [held.table[place] for place in sorted(held.table)] == state.table(row).tolist()
            assert held.ended == (state.state[row] == SequenceState.ENDING)
    assert ended == {0, 1}
    if options.get("num_blocks"):
        assert engine.run().steps.preemptions.sum() > 0


def test_the_picture_says_what_was_found_and_computed():
    engine = two_requests()
    view = lab.written(engine, step=9)
    assert "b has 38 tokens stored in 3 blocks, 32 of them found in the cache; this step computed 6" in (
        view.caption()
    )
    by_request = {name: [row[2] for row in view.table().rows if row[0] == name] for name in ("a", "b")}
    assert by_request["a"][:2] == by_request["b"][:2]
    assert by_request["a"][2] != by_request["b"][2]
    assert [row[4] for row in view.table().rows if row[0] == "b"] == ["2", "2", "1"]


def cells_of(view, panel):
    return {series.name: list(series.words) for series in view.chart.panels[panel].series}


def test_tokens_stand_in_their_colours():
    engine = two_requests()
    view = lab.written(engine, "b", step=9)
    a, b = engine.sequences()["a"][1], engine.sequences()["b"][1]
    found = cells_of(view, 0)
    tokens = [str(token) for token in [*b.prompt_token_ids, *b.token_ids]]
    assert found["stored, in a block that two share"] == tokens[:32]
    assert found["computed in this step"] == tokens[32:38]
    # The one sampled last is known, and not stored; what comes later is not known yet.
    assert found["not stored"] == [tokens[38], *[""] * 13]
    view.step = 1
    assert set(cells_of(view, 0)) == {"not stored"}
    view.step = int(engine.run().steps.step[-1])
    assert found.keys() != cells_of(view, 0).keys()
    assert len(cells_of(lab.written(engine, "a"), 0)["kept by the prefix cache"]) == 48
    assert len(a.prompt_token_ids) + len(a.token_ids) == 57


def test_what_cannot_be_shown_is_refused():
    engine = lab.paged_mistral()
    with pytest.raises(ViewError, match="call its step"):
        lab.written(engine)
    engine.add_request("question", [1, 2, 3], greedy(2))
    with pytest.raises(LabError, match="nothing stored"):
        lab.attention_read(engine, "question")
    while engine.has_unfinished:
        engine.step()
    with pytest.raises(UnknownOptionError, match="did you mean 'question'"):
        lab.written(engine, "qestion")
    with pytest.raises(UnknownOptionError, match="did you mean 'question'"):
        lab.attention_read(engine, "qestion")
    with pytest.raises(LabError, match="given its blocks back"):
        lab.attention_read(engine, "question")


# Attention through the table.


def dense_weights(model, tokens):
    """[layers, heads, tokens]: the last row of the softmax of each layer of a pass without a cache."""
    from nano_batch.attention.rope import rotated

    kept, positions = [], torch.arange(len(tokens))

    def attend(_, query, keys, values):
        query, keys = (rotated(x, positions, model.cosines, model.sines).to(x.dtype) for x in (query, keys))
        keys, values = (x.repeat_interleave(4, dim=1) for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", query, keys) / query.shape[2] ** 0.5
        scores.masked_fill_(positions[None, :] > positions[:, None], float("-inf"))
        weights = scores.softmax(dim=2)
        kept.append(weights[:, -1])
        return torch.einsum("hqk,khd->qhd", weights, values)

    logits = model._forward(torch.tensor(tokens), attend, None)
    torch.testing.assert_close(logits, model.dense(tokens))
    return torch.stack(kept)


@pytest.mark.parametrize("steps", [1, 4, 12])
@pytest.mark.parametrize("block_size", [4, 16])
def test_weights_read_through_the_table_are_those_of_dense_attention(steps, block_size):
    engine = lab.paged_mistral(num_blocks=40, block_size=block_size)
    first = engine.add_request("first", drawn(30), greedy(3))
    engine.step()
    output = engine.add_request("a", drawn(27), greedy(20))
    for _ in range(steps):
        engine.step()
    view = lab.attention_read(engine, "a")
    tokens = [*output.prompt_token_ids, *output.token_ids][:-1]
    expected = dense_weights(engine.model, tokens)
    assert first.prompt_token_ids[0] is not None
    before = [layer.clone() for layer in engine.cache.layer(2)]
    table = [int(row[1]) for row in view.table().rows]
    assert table != sorted(range(len(table)))  # other blocks were taken before
    found = attention_weights(engine.model, engine.cache, table, tokens[-1], len(tokens))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip(before, engine.cache.layer(2), strict=True))
    view.layer, view.head = 3, 5
    shares = np.add.reduceat(expected[3, 5].numpy(), np.arange(0, len(tokens), block_size))
    assert [float(row[3]) for row in view.table().rows] == pytest.approx(100 * shares, abs=0.06)
    while engine.has_unfinished:  # looking has changed nothing
        engine.step()
    assert (
        lab.paged_mistral().generate([output.prompt_token_ids], greedy(20), progress=False)[0].token_ids
        == output.token_ids
    )


def test_a_context_beyond_the_table_is_refused(model):
    cache = model.new_cache(4, 8)
    for context in (0, 17):
        with pytest.raises(InvalidArgumentError, match="the table's 16 slots"):
            attention_weights(model, cache, [0, 1], 5, context)


# The same model as Transformers'.


def test_logits_and_tokens_are_those_of_transformers():
    pytest.importorskip("transformers")
    same = lab.same_as_transformers(lab.paged_mistral(), drawn(29), max_tokens=10)
    assert same.compared == 39
    assert same.largest_difference < 1e-4
    # Two tokens may be all but equally likely; the logits are what holds for any prompt.
    assert len(same.tokens) == len(same.their_tokens) == 10


def test_a_wrong_weight_would_be_seen(monkeypatch):
    pytest.importorskip("transformers")
    paged = same_model.paged_logits
    monkeypatch.setattr(same_model, "paged_logits", lambda *given: paged(*given) + 1e-3)
    same = lab.same_as_transformers(lab.paged_mistral(), drawn(9, 2), max_tokens=3)
    assert same.holds is False
    assert "NOT below" in repr(same)


def test_paged_logits_are_the_dense_ones(model):
    tokens = drawn(50)
    torch.testing.assert_close(same_model.paged_logits(model, tokens), model.dense(tokens))


def test_without_transformers_it_says_so(monkeypatch, model):
    monkeypatch.setattr(same_model, "find_spec", lambda _: None)
    same = lab.same_as_transformers(lab.paged_mistral(), [1, 2, 3], max_tokens=2)
    assert same.holds is None
    assert "pip install transformers" in repr(same)
    assert "pip install transformers" in same._repr_html_()
    monkeypatch.setattr(live_engines, "find_spec", lambda _: None)
    live = LiveEngines(model)
    assert {row["engine"] for row in live.at(1)} == {"nano_batch", "limit"}
    assert "pip install transformers" in " ".join(live_view.chart(live, None, 1).says)


# Live throughput, and what was recorded.


def row(engine, concurrency, rate):
    return {"case": "offline", "engine": engine, "concurrency": concurrency, "rate_per_s": None,
            "requests": 8, "output_tokens": 100, "tok_per_s": rate, "limit_percent": rate / 100}  # fmt: skip


class Timed:
    """In place of `LiveEngines`: rates that are known."""

    device, has_transformers = "a test", True

    def __init__(self):
        self.rows, self.calls = [], []

    def at(self, concurrency):
        if not any(each["concurrency"] == concurrency for each in self.rows):
            self.calls.append(concurrency)
            rates = {"nano_batch": 300, "transformers_generate": 200, "limit": 10_000}
            self.rows += [row(engine, concurrency, rate * concurrency) for engine, rate in rates.items()]
        return [each for each in self.rows if each["concurrency"] == concurrency]

    @property
    def limits(self):
        return [row("limit", concurrency, 10_000 * concurrency) for concurrency in (1, 2, 4, 8, 16)]


@pytest.fixture
def engine(model):
    class Engine:
        pass

    made = Engine()
    made.model = model
    return made


def test_a_position_is_measured_once_and_the_bound_is_always_drawn(engine, monkeypatch):
    monkeypatch.setattr(live_view, "recorded_engines", lambda: None)
    live = Timed()
    view = lab.live_throughput(engine, live=live)
    for concurrency in (8, 4, 8):
        view.concurrency = concurrency
        panel = view.chart.panels[0]
        bound, *diamonds = panel.series
        assert (bound.colour, list(bound.x)) == ("bound", [1, 2, 4, 8, 16])
        assert {series.mark for series in diamonds} == {"diamond"}
        assert f"{300 * concurrency:,} tokens/s" in view.chart.says[0]
    assert live.calls == [4, 8]
    assert [row[0] for row in view.table().rows] == ["4"] * 3 + ["8"] * 3


def test_what_is_not_recorded_is_said(engine, monkeypatch):
    monkeypatch.setattr(live_view, "recorded_engines", lambda: None)
    view = lab.live_throughput(engine, live=Timed())
    assert view.chart.panels[1].series == ()
    assert view.chart.panels[1].marks[0].words == "not measured yet"
    assert "nano-batch bench engine" in view.caption()


def test_recorded_curves_stand_in_a_panel_of_their_own(engine, tmp_path, monkeypatch):
    import json

    from nano_batch.lessons import engine_speed, measured_engines

    sizes = (1, 8, 64)
    rows = [
        {**row(engine_name, size, rate * size), "runs": 1, "tok_per_s_least": 1.0, "tok_per_s_most": 2.0,
         **dict.fromkeys(engine_speed.TABLE), "tok_per_s": rate * size, "limit_percent": 50.0, "session": 1}
        for engine_name, rate in (("nano_batch", 90), ("transformers_generate", 30), ("limit", 150))
        for size in sizes
    ]  # fmt: skip
    content = {"device": "NVIDIA H900", "model": "mistral-7b-v0.1", "dtype": "bfloat16",
               "sessions": [{"date": "2026-11-26", "commit": "9999999"},
                            {"date": "2026-11-27", "commit": "abc1234"}], "rows": rows}  # fmt: skip
    (tmp_path / "engine_h900.json").write_text(json.dumps(content))
    monkeypatch.setattr(measured_engines, "MEASURED", tmp_path)
    view = lab.live_throughput(engine, live=Timed())
    panel = view.chart.panels[1]
    assert "NVIDIA H900" in panel.title
    assert panel.note == "2026-11-27, commit abc1234"  # of what is drawn
    assert panel.note in view.caption()
    marks = {series.mark for series in panel.series if hasattr(series, "mark")}
    assert marks == {"circle"}
    assert "bound" in {series.colour for series in panel.series}
    (tmp_path / "engine_h900.json").rename(tmp_path / "engine_cpu_tiny.json")
    assert live_view.recorded_engines() is None


def test_a_live_measurement_gives_every_engine_the_same_requests(model):
    pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    live = LiveEngines(model)
    rows = {each["engine"]: each for each in live.at(2)}
    assert rows.keys() == {"nano_batch", "transformers_generate", "limit"}
    assert len({each["output_tokens"] for each in rows.values()}) == 1
    assert rows["nano_batch"]["output_tokens"] == sum(each.output_tokens for each in requests(2, 4096))
    assert all(each["tok_per_s"] > 0 for each in rows.values())
    assert live.at(2) == list(rows.values())
    assert torch.get_num_threads() == threads
    assert [each["concurrency"] for each in live.limits] == [1, 2, 4, 8, 16]
    rates = [each["tok_per_s"] for each in live.limits]
    assert rates == sorted(rates)
