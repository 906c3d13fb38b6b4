"""Steps in arrays of a fixed size, as CUDA graphs hold them, without a graph.

Each step that an engine plans is computed twice: as it is, and over a copy of the cache padded to some size,
where everything past the step's own part is noise.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from small_engines import prompts_of, run_to_end  # noqa: E402

from nano_batch import InferenceEngine, SamplingParams  # noqa: E402
from nano_batch.attention import dense_attention, paged, paged_attention_fwd  # noqa: E402
from nano_batch.attention.cuda import prefill  # noqa: E402
from nano_batch.attention.rope import rotated  # noqa: E402
from nano_batch.engine import mixed_rows  # noqa: E402
from nano_batch.engine.choice import greedy  # noqa: E402
from nano_batch.engine.runner import StepRunner  # noqa: E402
from nano_batch.engine.step_graphs import StepGraphs, fastest  # noqa: E402
from nano_batch.models import MistralConfig, PagedMistral, base  # noqa: E402

LANES, TOKENS = 12, 48


def attend_to_arrays(query, keys, values, query_starts, key_starts, most_queries, most_keys, *, scale,
                     window_size, **options):  # fmt: skip
    """What the library computes for rows in arrays of a fixed size; a token of no row gets noise."""
    assert (most_queries, most_keys) == (len(query), len(keys))
    assert query_starts[-1] <= len(query)
    assert key_starts[-1] <= len(keys)
    window = None if window_size[0] < 0 else window_size[0] + 1
    attended = torch.full_like(query, float("nan"))
    bounds = zip(
        *(each.tolist() for each in (query_starts, query_starts[1:], key_starts, key_starts[1:])),
        strict=False,
    )
    for first, end, oldest, last in bounds:
        rows = query[first:end], keys[oldest:last], values[oldest:last]
        if end > first:
            attended[first:end] = dense_attention(*rows, scale=scale, sliding_window=window)
    return attended


def turn_and_attend(query, key_cache, value_cache, plan, scale, rope=None, turned=0):
    """What the kernel for prompts does with queries of which those from token `turned` on are not turned."""
    if rope is not None:
        ahead = rotated(query, rope.positions, rope.cosines, rope.sines)[turned:]
        query = torch.cat([query[:turned], ahead])
    return prefill.prefill_by_library(query, key_cache, value_cache, plan, scale=scale)


def decode_into(query, key_cache, value_cache, table, lens, block_size, *, plan, out=None, **options):
    """What the CUDA kernels do with `out`: the rows of length -1 are left."""
    assert plan is None
    caches = key_cache, value_cache
    if out is None:
        return paged_attention_fwd(query, *caches, table, lens, block_size, **options)
    own = lens >= 0
    assert set(lens[~own].tolist()) <= {-1}
    out[own] = paged_attention_fwd(query[own], *caches, table[own], lens[own], block_size, **options)
    return out


def small_model(window):
    config = MistralConfig(97, 32, 48, 2, 4, 2, 8, 1e4, sliding_window=window, max_position_embeddings=256,
                           dtype=torch.float32)  # fmt: skip
    model, generator = PagedMistral(config), torch.Generator().manual_seed(0)
    for view in model.state_dict().values():
        if view.dim() == 1:
            view.uniform_(0.5, 1.5, generator=generator)
        else:
            view.normal_(0, 1.5 * view.shape[1] ** -0.5, generator=generator)
    return model


class Twice:
    """Stands for `StepRunner._logits`: computes steps both ways, of what is copied, and compares."""

    def __init__(self, seed):
        self.random, self.seen = random.Random(seed), Counter()
        self.eager = StepRunner._logits

    def compute(self, runner, step, first, last, failed):
        state = runner.cache, runner.newest
        before = [layer.clone() for layer in self.tensors(runner)]
        runner.on_device.memory.random_(0, 256)
        self.take(runner, step, step.counts.rows, step.counts.tokens, extra=False)
        copied = replace(step, tensors=runner.on_device.tensors)
        logits = self.eager(runner, copied, first, last, failed)
        written = [layer.clone() for layer in self.tensors(runner)]
        for layer, old in zip(self.tensors(runner), before, strict=True):
            layer.copy_(old)
        self.padded(runner, step, logits, written, before)
        for layer, new in zip(self.tensors(runner), written, strict=True):
            layer.copy_(new)
        assert (runner.cache, runner.newest) == state
        return logits

    def tensors(self, runner):
        return [view for layer in range(runner.cache.num_layers) for view in runner.cache.layer(layer)]

    def padded(self, runner, step, logits, written, before):
        counts, host = step.counts, step.host
        kept, newest = host.memory.clone(), runner.newest.clone()
        runner.on_device.memory.random_(0, 256)
        made = self.decodes(runner, step) if counts.decodes == counts.rows else self.mixed(runner, step)
        host.memory.copy_(kept)
        if made is None:
            return
        padded, tokens = (part[: counts.samples] for part in made)
        torch.testing.assert_close(padded, logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(tokens, greedy(padded))
        lanes = torch.from_numpy(host.arrays["sample_lanes"][: counts.samples]).long()
        assert torch.equal(runner.newest[lanes], tokens)
        others = torch.ones(LANES, dtype=torch.bool).index_fill_(0, lanes, False).nonzero().flatten()
        assert torch.equal(runner.newest[others], newest[others])
        runner.newest.copy_(newest)
        slots = torch.from_numpy(host.arrays["slot_mapping"][: counts.tokens].copy())
        for new, expected, old in zip(self.tensors(runner), written, before, strict=True):
            new, expected, old = (one.reshape(-1, *one.shape[2:]) for one in (new, expected, old))
            torch.testing.assert_close(new[slots], expected[slots], rtol=1e-4, atol=1e-4)
            untouched = torch.ones(len(new), dtype=torch.bool).index_fill_(0, slots[slots >= 0], False)
            assert torch.equal(new[untouched].nan_to_num(7), old[untouched].nan_to_num(7))

    def decodes(self, runner, step):
        size = self.random.randint(step.counts.rows, LANES)
        self.spoil(step, mixed_rows.shapes(LANES))
        step.host.pad_decodes(step.counts.rows, size)
        self.take(runner, step, size, size, extra=False)
        self.seen["decodes"] += 1
        return runner._decode_step(size)

    def mixed(self, runner, step):
        counts, window = step.counts, runner.model.config.sliding_window
        size = self.random.randint(max(counts.tokens, counts.samples), TOKENS)
        self.spoil(step, mixed_rows.shapes(LANES))
        fits = mixed_rows.fill(counts, step.host, size, runner.cache.block_size, window)
        assert fits == (self.keys_seen(step, window) <= mixed_rows.SEEN_FOR_TOKEN * size)
        self.seen.update(mixed=int(fits and counts.decodes > 0), prompts=int(fits), no_room=int(not fits),
                         shared=int(counts.samples > counts.rows))  # fmt: skip
        if not fits:
            return None
        self.take(runner, step, counts.rows, size, extra=True)
        return runner._mixed_step(size)

    def keys_seen(self, step, window):
        """Counted one by one."""
        arrays, total = step.host.arrays, 0
        for row in range(step.counts.decodes, step.counts.rows):
            queries = int(arrays["query_start_loc"][row + 1] - arrays["query_start_loc"][row])
            length = int(arrays["context_lens"][row])
            oldest = 0 if window is None else max(0, length - queries - window + 1)
            total += length - oldest
        return total

    def spoil(self, step, shapes):
        """Noise in all arrays past the step's own part, and in those that are made for it."""
        counts, arrays = step.counts, step.host.arrays
        own = {"token_ids": counts.tokens, "positions": counts.tokens, "slot_mapping": counts.tokens,
               "query_start_loc": counts.rows + 1, "context_lens": counts.rows, "lanes": counts.rows,
               "sample_rows": counts.samples, "sample_lanes": counts.samples,
               **dict.fromkeys(shapes, 0)}  # fmt: skip
        assert set(arrays) - set(own) == {"block_table"}
        for name, used in own.items():
            rest = arrays[name][used:]
            rest[...] = [self.random.randint(-(2**30), 2**30) for _ in range(len(rest))]

    def take(self, runner, step, rows, tokens, *, extra):
        """As on CUDA: past the rows and tokens that are copied, the device's arrays hold what was there."""
        runner.on_device.device = torch.device("cuda")
        runner.on_device.take(step.host, rows, tokens, extra=extra)
        runner.on_device.device = runner.device


@pytest.fixture
def twice(monkeypatch, request):
    both = Twice(seed=request.param)
    monkeypatch.setattr(StepRunner, "_logits", lambda *given: both.compute(*given))
    monkeypatch.setattr(StepRunner, "_decode_plan", lambda *given: None)
    monkeypatch.setattr(base, "paged_attention_fwd", decode_into)
    monkeypatch.setattr(prefill, "_varlen", attend_to_arrays)
    monkeypatch.setattr(paged, "library_refusal", lambda *given: None)  # float32, to compare closely
    return both


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("twice", range(4), indirect=True)
@pytest.mark.parametrize("window", [None, 6])
def test_padded_steps_compute_the_same(twice, window, turns, monkeypatch):
    """`turns`: in arrays of a fixed size attention turns queries that a kernel before it turns else."""
    if turns:
        monkeypatch.setattr(base, "TURNED_BEFORE", 0)
        monkeypatch.setattr(prefill, "prefill_by_kernel", turn_and_attend)
        for room in (base, prefill):
            monkeypatch.setattr(room, "is_by_kernel", lambda *given: True)
    engine = InferenceEngine(
        small_model(window), block_size=4, num_blocks=60, max_num_seqs=LANES, max_num_batched_tokens=TOKENS
    )
    for layer in twice.tensors(engine.runner):
        layer.fill_(float("nan"))
    # The last chunk of the longest sees more keys than a step has room for.
    lengths = [110, *(twice.random.randint(1, 40) for _ in range(15))]
    head, *tails = prompts_of(17, *lengths, seed=window or 0)
    outputs = []
    for at, tail in enumerate(tails):
        prompt = [*head, *tail] if at % 3 == 0 else tail
        n, tokens = 1 + 2 * (at % 5 == 0), twice.random.randint(1, 12)
        params = SamplingParams(temperature=at % 2, max_tokens=tokens, n=n, seed=at)
        outputs.append(engine.add_request(f"r{at}", prompt, params))
        for _ in range(twice.random.randint(0, 2)):
            engine.step()
    run_to_end(engine)
    assert {one.finish_reason for output in outputs for one in output.sequences} == {"length"}
    assert min(twice.seen[kind] for kind in ("mixed", "prompts", "decodes", "shared")) > 0
    if window is None:
        assert twice.seen["no_room"] > 0
        assert sum(output.metrics.cached_tokens for output in outputs) > 0


def test_more_chunks_than_there_is_room_for():
    """The same step, with one chunk more."""
    for chunks in (mixed_rows.MOST_CHUNKS, mixed_rows.MOST_CHUNKS + 1):
        engine = InferenceEngine(
            small_model(None), block_size=4, num_blocks=60, max_num_seqs=20, max_num_batched_tokens=64
        )
        for at in range(chunks):
            engine.add_request(f"r{at}", [1, 2])
        counts, host = engine.engine.step_arrays(), engine.runner.host[0]
        assert counts.rows == chunks
        assert mixed_rows.fill(counts, host, 64, 4, None) == (chunks == mixed_rows.MOST_CHUNKS)


def test_a_step_with_more_samples_than_tokens_gets_a_size_for_them():
    engine = InferenceEngine(
        small_model(None), block_size=4, num_blocks=128, max_num_seqs=20, max_num_batched_tokens=64
    )
    engine.add_request("a", [1, 2], SamplingParams(n=20))
    counts, runner = engine.engine.step_arrays(), engine.runner
    assert (counts.tokens, counts.samples) == (2, 20)
    runner.mixed_graphs = StepGraphs.__new__(StepGraphs)
    graphs = runner.mixed_graphs
    graphs.sizes, graphs._fastest, graphs.graphs = [4, 16, 32], [0, 1, 2], {4: "4", 16: "16", 32: "32"}
    assert runner._captured_step(counts, runner.host[0]) == "32"
    graphs.sizes = [4, 16]
    assert runner._captured_step(counts, runner.host[0]) is None


def test_a_step_goes_to_the_fastest_graph_with_room_for_it():
    graphs = StepGraphs.__new__(StepGraphs)
    graphs.sizes, graphs._fastest = [8, 16, 24, 32], fastest([1.0, 3.0, 2.51, 2.5])
    assert graphs._fastest == [0, 2, 2, 3]  # of two nearly as fast the smaller
    assert [graphs.size_for(needed) for needed in (1, 8, 9, 24, 25, 33)] == [8, 8, 24, 24, 32, None]
    assert fastest([5.0]) == [0]
    assert fastest([5.0, 4.0, 3.0]) == [2, 2, 2]


@pytest.mark.parametrize("most", [1, 63, 64, 65, 500, 1024, 2048, 8192])
def test_the_ladder_of_sizes(most):
    sizes = mixed_rows.token_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == min(most, mixed_rows.MOST_TOKENS)
