"""The CUDA kernels against float64 dense attention and the plain forms. Skipped where there is no device.

NANO_BATCH_EXAMPLES sets how many shapes are drawn for each test.
"""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext

import pytest
import torch
from attention_cases import Case, cases, check_turning, check_writing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nano_batch import errors
from nano_batch.attention import DecodePlan, cache_ops, paged_attention_fwd
from nano_batch.attention.cuda import decode, plan
from nano_batch.attention.cuda.prefill_kernel import kernel_refusal
from nano_batch.attention.cuda.variant import COPIED_DIMS
from nano_batch.attention.fp8 import QUANTISED, as_bits
from nano_batch.attention.rope import Rope, rope_tables
from nano_batch.kv_cache import KVCache

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
EXAMPLES = int(os.environ.get("NANO_BATCH_EXAMPLES", "200"))
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
drawn = {"device": "cuda", "dtypes": KERNEL_DTYPES, "head_dims": (64, 80, 96, 128, 256), "most_context": 5000}


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# Each is one program: what a test draws beside it costs no compilation.
VARIANTS = [
    *({"dtype": BF16, "head_dim": head_dim, "group": group, "block_size": block_size}
      for head_dim, group, block_size in [(64, 1, 1), (64, 8, 16), (80, 6, 7), (96, 4, 32), (128, 4, 16),
                                          (128, 16, 256), (128, 32, 64), (256, 2, 16), (256, 16, 100)]),
    *({"dtype": FP16, "head_dim": head_dim, "group": group, "block_size": block_size, "layout": "HND"}
      for head_dim, group, block_size in [(64, 4, 64), (128, 7, 16), (128, 1, 1), (256, 8, 128)]),
    *({"dtype": dtype, "head_dim": head_dim, "group": group, "block_size": block_size, "fp8": True,
       "per_head": group != 4}
      for dtype, head_dim, group, block_size in [
          (BF16, 64, 4, 16), (BF16, 128, 4, 16), (FP16, 128, 16, 7), (BF16, 256, 8, 32), (FP32, 80, 3, 16)]),
    *({"dtype": FP32, "head_dim": head_dim, "group": group, "block_size": block_size}
      for head_dim, group, block_size in [(4, 1, 16), (64, 6, 7), (128, 4, 16), (256, 8, 256)]),
    {"dtype": BF16, "head_dim": 128, "group": 4, "block_size": 16, "soft_cap": 3.0},
    {"dtype": FP16, "head_dim": 64, "group": 5, "block_size": 9, "soft_cap": 30.0, "fp8": True},
    {"dtype": FP32, "head_dim": 96, "group": 2, "block_size": 32, "soft_cap": 3.0},
    {"dtype": BF16, "head_dim": 128, "group": 4, "block_size": 16, "integers": torch.int64},
    *({"dtype": dtype, "head_dim": 128, "group": 4, "block_size": 16, "unaligned": True, "fp8": fp8}
      for dtype, fp8 in [(BF16, False), (FP16, False), (FP32, False), (BF16, True)]),
    {"dtype": FP16, "head_dim": 20, "group": 3, "block_size": 16},
]  # fmt: skip
COPIED = [
    sizes
    for sizes in VARIANTS
    if sizes["dtype"] != FP32 and sizes["head_dim"] in COPIED_DIMS and sizes["block_size"] % 16 == 0
    and not sizes.get("fp8") and not sizes.get("unaligned")
]  # fmt: skip
"""Whose tiles Hopper's copy engine brings."""


@st.composite
def decode_cases(draw):
    lengths = st.one_of(st.just(0), st.integers(1, 80), st.integers(1, 5000))
    contexts = draw(st.lists(lengths, max_size=draw(st.sampled_from([5, 40]))))
    window = draw(st.one_of(st.none(), st.integers(1, 45), st.integers(1, 5000)))
    scale = draw(st.sampled_from([None, 0.02, -0.1]))
    sizes = {"kv_heads": 2} | draw(st.sampled_from(VARIANTS))
    return Case(draw(st.integers(0, 2**32)), contexts, [1] * len(contexts), window=window, scale=scale,
                device="cuda", **sizes)  # fmt: skip


@given(case=decode_cases())
@many
def test_decode_equals_dense_attention(case):
    case.check(case.decode(backend="cuda"))
    case.check(case.decode(backend="cuda", validate=False))


@pytest.mark.parametrize("window", [None, 40, 2000])
@pytest.mark.parametrize("sizes", COPIED, ids=str)
def test_attention_writes_the_newest_keys_and_values(sizes, window):
    if not plan.is_hopper(torch.device("cuda")):
        pytest.skip("only where Hopper's copy engine brings tiles are keys and values put into them")
    contexts = [3000, 0, 1, 700, 17, 16, 33] + [9000] * 6
    for seed in range(3):
        case = Case(seed, contexts, [1] * len(contexts), window=window, device="cuda", **sizes)
        check_writing(case, nullcontext(), nullcontext(), left={3} if seed else ())


@pytest.mark.parametrize("way", ["copied", "few", "many"])
@pytest.mark.parametrize("sizes", VARIANTS, ids=str)
def test_every_variant(sizes, way, monkeypatch):
    """Contexts that many workers share, beside short ones and none.

    By tiles that are copied, or as on other devices, of few rows and of many.
    """
    copies = way == "copied"
    if copies and not plan.is_hopper(torch.device("cuda")):
        pytest.skip("only Hopper's copy engine brings tiles: this device takes the other two ways")
    monkeypatch.setattr(plan, "is_hopper", lambda device: copies)
    monkeypatch.setattr(plan, "FEW_DECODES", 48 if way == "few" else 0)
    contexts = [3000, 0, 1, 700, 17]
    if copies:
        contexts += [9000] * 6  # so that each of 132 blocks copies more tiles than shared memory has room for
    case = Case(1, contexts, [1] * len(contexts), device="cuda", **sizes)
    chosen = plan.variant_of(case.query, *case.views, case.table, case.soft_cap is not None, copies)
    tensor_cores = sizes["dtype"] != FP32 and sizes["head_dim"] % 16 == 0 and not sizes.get("unaligned")
    # Large heads in scattered blocks leave too few registers, unless they are quantised.
    tensor_cores &= sizes["head_dim"] <= 128 or sizes["block_size"] % 16 == 0 or sizes.get("fp8", False)
    copied = (
        copies and not sizes.get("fp8") and sizes["head_dim"] in COPIED_DIMS and sizes["block_size"] % 16 == 0
    )
    by_cores = "decode_hopper.cu" if copied else "decode.cu"
    assert chosen.source == (by_cores if tensor_cores else "decode_plain.cu")
    made = case.plan(settled=copies)
    for _ in range(3):
        made.parts.fill_(float("nan"))
        case.check(case.decode(backend="cuda", plan=made))


@given(case=cases(prefill=True, **drawn | {"most_context": 2000}))
@many
def test_prefill_equals_dense_attention(case):
    case.check(case.prefill(backend="cuda"))


@pytest.mark.parametrize("window", [None, 1, 150])
@pytest.mark.parametrize(
    ("contexts", "queries"), [([90, 0, 300], [40, 2, 300]), ([2500, 700, 33], [2300, 1, 33])]
)
@pytest.mark.parametrize(
    ("dtype", "head_dim", "group", "block_size"),
    [(BF16, 128, 4, 16), (BF16, 64, 8, 7), (FP16, 128, 1, 32), (FP16, 64, 6, 1), (BF16, 128, 16, 256)],
)
def test_prompts_by_the_kernel(dtype, head_dim, group, block_size, contexts, queries, window):
    """With few blocks, of which a multiprocessor has two, and with many, of which Hopper's may have three."""
    sizes = {"dtype": dtype, "head_dim": head_dim, "group": group, "block_size": block_size, "kv_heads": 8}
    case = Case(3, contexts, queries, window=window, device="cuda", **sizes)
    assert kernel_refusal(case.query, *case.views) is None
    case.check(case.prefill_by_kernel())
    check_turning(case, 20)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("per_head", [False, True])
def test_a_quantised_cache_costs_a_few_percent(per_head, layout):
    sizes = {"head_dim": 128, "kv_heads": 8, "group": 4, "block_size": 16, "dtype": torch.bfloat16,
             "fp8": True, "per_head": per_head, "layout": layout, "device": "cuda"}  # fmt: skip
    case = Case(1, [1, 40, 3000], [1] * 3, **sizes)
    case.check(case.decode(backend="cuda"))
    case.check_against_unquantised(case.decode(backend="cuda"))
    case = Case(2, [1, 40, 3000], [1, 30, 700], **sizes)
    case.check_against_unquantised(case.prefill(backend="cuda"))


def test_the_longest_context():
    sizes = {
        "head_dim": 128,
        "kv_heads": 2,
        "group": 4,
        "block_size": 16,
        "dtype": torch.bfloat16,
        "device": "cuda",
    }
    case = Case(3, [131_072, 0, 1, 513], [1] * 4, **sizes)
    case.check(case.decode(backend="cuda"))
    case.window = 100_000
    case.check(case.decode(backend="cuda"))


def test_more_parts_than_a_small_head_could_merge():
    """Small heads have little shared memory: as many workers as have room for their weights."""
    sizes = {"kv_heads": 1, "group": 1, "block_size": 256, "device": "cuda"}
    for case in (Case(4, [131_072], [1], head_dim=4, **sizes),
                 Case(5, [131_072], [1], head_dim=16, dtype=torch.bfloat16, **sizes)):  # fmt: skip
        case.check(case.decode(backend="cuda"))


def test_tokens_past_the_last_row_and_rows_without_context_get_zeros():
    case = Case(4, [0, 90, 0, 17], [3, 40, 2, 17], head_dim=64, dtype=torch.bfloat16, device="cuda")
    expected = case.prefill(backend="cuda")
    case.check(expected)
    case.query = torch.cat([case.query, torch.full_like(case.query[:5], float("nan"))])
    output = case.prefill(backend="cuda")
    assert torch.equal(output[:-5], expected)
    assert output[-5:].eq(0).all()


def test_what_no_kernel_does_is_done_plainly_and_said(caplog, monkeypatch):
    monkeypatch.setattr("nano_batch.cuda.loud._said", set())
    capped = Case(5, [90], [40], head_dim=64, dtype=torch.bfloat16, soft_cap=5.0, device="cuda")
    exact = Case(6, [90], [1], head_dim=64, dtype=torch.float64, device="cuda")
    with caplog.at_level("INFO", logger="nano_batch.cuda"):
        for _ in range(2):
            capped.check(capped.prefill())
            exact.check(exact.decode())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "no soft cap" in warnings[0]
    assert "float64" in warnings[1]


# Writing and copying.


def cache_pair(draw, dtype):
    """The same content on the host and on the device."""
    sizes = (draw(st.integers(1, 9)), draw(st.sampled_from([1, 3, 4, 16])), draw(st.integers(1, 3)))
    head_dim, layout = draw(st.sampled_from([2, 8, 12, 64, 80, 128])), draw(st.sampled_from(["NHD", "HND"]))
    layers = draw(st.integers(1, 3))
    scales = {"key_scale": 0.02, "value_scale": torch.rand(sizes[2]) + 0.1} if dtype == QUANTISED else {}
    pair = [KVCache(*sizes, head_dim, dtype, device, layout=layout, num_layers=layers, **scales)
            for device in ("cpu", "cuda")]  # fmt: skip
    for layer in range(layers):
        for host, device in zip(pair[0].layer(layer), pair[1].layer(layer), strict=True):
            host.copy_(torch.randn(host.shape))
            as_bits(device).copy_(as_bits(host))
    return pair


def contents(cache):
    return torch.stack(
        [view.float().cpu() for layer in range(cache.num_layers) for view in cache.layer(layer)]
    )


def a_step(draw, cache, dtype):
    """Keys, values, query and slots of a few tokens, on the host."""
    total = cache.num_blocks * cache.block_size
    chosen = draw(st.lists(st.integers(0, total - 1), unique=True, max_size=min(total, 9)))
    slots = draw(st.permutations(chosen + [-1] * draw(st.integers(0, 3))))
    keys, values = torch.randn(2, len(slots), cache.num_kv_heads, cache.head_dim).to(dtype)
    query = torch.randn(len(slots), 4, cache.head_dim).to(dtype)
    return keys, values, query, torch.tensor(slots, dtype=torch.int64)


def within(tensor, extra):
    """The same tensor as a part of a wider one, so that its strides (and its address) are others."""
    wide = torch.full(
        (*tensor.shape[:2], tensor.shape[2] + 2 * extra), 7.0, dtype=tensor.dtype, device="cuda"
    )
    part = wide[..., extra : extra + tensor.shape[2]]
    part.copy_(tensor)
    return part


@given(data=st.data())
@many
def test_writing_equals_the_plain_form(data):
    dtype = data.draw(st.sampled_from([*KERNEL_DTYPES, torch.float64, QUANTISED]))
    of_tokens = data.draw(st.sampled_from(KERNEL_DTYPES)) if dtype == QUANTISED else dtype
    host, device = cache_pair(data.draw, dtype)
    keys, values, query, slots = a_step(data.draw, host, of_tokens)
    rope = None
    if data.draw(st.booleans()):
        rope = Rope(torch.randint(0, 99, slots.shape), *rope_tables(99, host.head_dim))
    layer = host.num_layers - 1
    extra = data.draw(st.sampled_from([0, 0, 1, 4, 8]))
    on_device = [within(tensor, extra) for tensor in (keys, values, query)] + [slots.cuda()]
    turn = {"rope": rope, "query": query} if rope else {}
    host.write_kv(keys, values, slots, layer, **turn)
    if rope:
        there = Rope(*(getattr(rope, name).cuda() for name in ("positions", "cosines", "sines")))
        turn = {"rope": there, "query": on_device[2]}
    device.write_kv(*on_device[:2], on_device[3], layer, validate=data.draw(st.booleans()), **turn)
    # A product summed in another order may round the other way: one unit in the last place.
    unit = {torch.float64: 0, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3, QUANTISED: 0.13}
    slack = {"rtol": unit[dtype], "atol": 1e-6} if rope else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(contents(device), contents(host), **slack)
    torch.testing.assert_close(on_device[2].cpu(), query, rtol=unit[of_tokens], atol=1e-6)


@given(data=st.data())
@many
def test_copies_read_every_source_before_any_destination_is_written(data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, QUANTISED]))
    host, device = cache_pair(data.draw, dtype)
    blocks = st.integers(0, host.num_blocks - 1)
    targets = data.draw(st.lists(blocks, unique=True, max_size=9))
    pairs = [(data.draw(blocks), target) for target in targets]
    host.copy_blocks(pairs)
    device.copy_blocks(pairs)
    assert torch.equal(contents(device), contents(host))


def test_many_copies_at_once():
    caches = [KVCache(7001, 4, 2, 8, torch.bfloat16, device) for device in ("cpu", "cuda")]
    for host, device in zip(caches[0].layer(0), caches[1].layer(0), strict=True):
        device.copy_(host.copy_(torch.randn(host.shape)))
    for count in (1, 100, 5999, 6500):
        pairs = torch.stack([torch.randint(0, 7001, (count,)), torch.randperm(7001)[:count]], 1)
        for cache in caches:
            cache.copy_blocks(pairs)
        assert torch.equal(contents(caches[0]), contents(caches[1]))


def test_addresses_past_32_bits():
    """The last blocks lie past 2^31 elements of their own tensor."""
    cache = KVCache(2**17 + 64, 16, 8, 128, torch.bfloat16, "cuda")
    assert cache.layer(0)[0].numel() > 2**31
    keys, values = torch.randn(2, 900, 8, 128, device="cuda").bfloat16()
    table = torch.arange(2**17, 2**17 + 57, dtype=torch.int32, device="cuda")[None]
    slots = 2**17 * 16 + torch.arange(900, device="cuda")
    cache.write_kv(keys, values, slots, validate=False)
    assert torch.equal(cache.layer(0)[0][2**17 :].flatten(0, 1)[:900], keys)
    cache.copy_blocks([(2**17 + 3, 2**17 + 60)])
    assert torch.equal(cache.layer(0)[1][2**17 + 60], values[48:64])
    query = torch.randn(1, 32, 1, 128, device="cuda").bfloat16()
    lens = torch.tensor([900], device="cuda")
    output = paged_attention_fwd(query, *cache.layer(0), table, lens, 16, backend="cuda")
    small = KVCache(57, 16, 8, 128, torch.bfloat16, "cuda")
    small.write_kv(keys, values, list(range(900)))
    expected = paged_attention_fwd(query, *small.layer(0), table - 2**17, lens, 16, backend="cuda")
    assert torch.equal(output, expected)


# Streams, graphs and traces.


class Step:
    """A decode step over bound buffers: write the new token of each row, then attend."""

    def __init__(self, rows=6, columns=40):
        self.cache = KVCache(rows * columns, 16, 8, 128, torch.bfloat16, "cuda")
        for view in self.cache.layer(0):
            view.normal_()
        self.table = torch.zeros(rows, columns, dtype=torch.int32, device="cuda")
        self.lens = torch.zeros(rows, dtype=torch.int32, device="cuda")
        self.slots = torch.full((rows,), -1, device="cuda")
        self.keys, self.values = torch.empty(2, rows, 8, 128, device="cuda", dtype=torch.bfloat16)
        self.query = torch.empty(rows, 32, 1, 128, device="cuda", dtype=torch.bfloat16)
        self.change([0] * rows)

    def change(self, lens):
        rows, columns = self.table.shape
        table = torch.randperm(rows * columns).view(rows, columns)
        last = [length - 1 for length in lens]
        slots = [int(table[row, at // 16]) * 16 + at % 16 if at >= 0 else -1 for row, at in enumerate(last)]
        self.table.copy_(table)
        self.lens.copy_(torch.tensor(lens))
        self.slots.copy_(torch.tensor(slots))
        for tensor in (self.keys, self.values, self.query):
            tensor.normal_()

    def run(self, backend="cuda", plan=None):
        self.cache.write_kv(self.keys, self.values, self.slots, validate=False)
        return paged_attention_fwd(
            self.query, *self.cache.layer(0), self.table, self.lens, 16, backend=backend, validate=False,
            plan=plan,
        )  # fmt: skip

    def check(self, output):
        expected = self.run("torch").float()
        assert (output.float() - expected).norm() <= 5e-3 * expected.norm()
        assert output[self.lens == 0].eq(0).all()


LENGTHS = [[1, 640, 17, 0, 300, 5], [0, 0, 0, 0, 0, 640], [33, 32, 31, 16, 15, 1], [0] * 6]


def test_a_step_replays_in_a_graph_with_other_lengths_and_tables():
    step = Step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step.run()
    for lens in LENGTHS:
        step.change(lens)
        output.fill_(float("nan"))
        graph.replay()
        step.check(output)


@pytest.mark.parametrize(("planned_within", "settled"), [(False, False), (True, False), (False, True)])
def test_layers_share_a_plan_in_a_graph(planned_within, settled):
    """The plan is made in the graph, or before each replay and outside of it.

    Settled, what a layer's attention reads first is on its way while the layer's keys are written.
    """
    layers = [Step() for _ in range(2)]
    first = layers[0]
    for layer in layers[1:]:
        layer.table, layer.lens, layer.slots = first.table, first.lens, first.slots
    made = DecodePlan(first.query, *first.cache.layer(0), first.table, settled=settled)

    def run():
        if planned_within:
            made.update(first.lens)
        return [layer.run(plan=made) for layer in layers]

    made.update(first.lens)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    for lens in LENGTHS:
        for layer in reversed(layers):  # the first one's table, lengths and slots are the last written
            layer.change(lens)
        for _ in range(2):
            for output in outputs:
                output.fill_(float("nan"))
            if not planned_within:
                made.update(first.lens)
            graph.replay()
            for layer, output in zip(layers, outputs, strict=True):
                layer.check(output)


def test_a_step_waits_for_nothing():
    step = Step()
    step.change(LENGTHS[0])
    step.run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = step.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    step.check(output)


def test_another_stream_and_another_thread():
    step = Step()
    step.change(LENGTHS[0])
    expected = step.run()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    results = []

    def attend():
        with torch.cuda.stream(stream):
            results.append(step.run())
        results.append(step.run())

    thread = threading.Thread(target=attend)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert len(results) == 2
    for result in results:
        assert torch.equal(result, expected)


def test_a_step_is_traced():
    step = Step()
    step.change(LENGTHS[0])
    expected = step.run()

    def run(query, keys, values, cached_keys, cached_values, table, lens, slots):
        cache_ops.write_kv(keys, values, cached_keys, cached_values, slots, *6 * [None])
        return paged_attention_fwd(
            query, cached_keys, cached_values, table, lens, 16, backend="cuda", validate=False
        )

    traced = torch.compile(run, fullgraph=True, backend="aot_eager")
    args = (step.query, step.keys, step.values, *step.cache.layer(0), step.table, step.lens, step.slots)
    assert torch.equal(traced(*args), expected)


def test_a_planned_step_is_compiled():
    step = Step()
    step.change(LENGTHS[0])
    expected = step.run()
    made = DecodePlan(step.query, *step.cache.layer(0), step.table)

    def run(query, cached_keys, cached_values, table, lens):
        made.update(lens)
        return paged_attention_fwd(
            query * 1.0, cached_keys, cached_values, table, lens, 16, validate=False, plan=made
        )

    traced = torch.compile(run, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        output = traced(step.query, *step.cache.layer(0), step.table, step.lens)
        assert torch.equal(output, expected)


def test_checks_of_values_wait_once():
    case = Case(6, [900, 0, 17], [1] * 3, head_dim=64, dtype=torch.bfloat16, device="cuda")
    expected = case.decode(backend="cuda")
    case.check(expected)
    case.table[2, 1] = case.num_blocks
    with pytest.raises(errors.BlockRangeError, match=rf"block_table\[2, 1\] = {case.num_blocks} is seen"):
        case.decode(backend="cuda")


def test_decode_operators_keep_their_promises():
    case = Case(7, [900, 0, 17], [1] * 3, head_dim=64, dtype=torch.bfloat16, device="cuda")
    tensors, numbers = (case.query, *case.views, case.table), (0.1, 0.0, 0, None, None, 1.0)
    made, lens = DecodePlan(*tensors), case.lens()
    torch.library.opcheck(plan._plan, (lens, made.memory, made.heads, 0, made.workers, made.tile))
    made.update(lens)
    arrays = made.memory, made.parts, torch.empty_like(case.query)
    torch.library.opcheck(decode._decode, (*tensors, *arrays, decode._sizes(made), False, *numbers))
    torch.library.opcheck(decode._decode_alone, (*tensors, lens, *numbers))


@pytest.mark.parametrize("kind", ["write", "gather", "copy"])
def test_operators_keep_their_promises(kind):
    keys, values = torch.randn(2, 5, 2, 16, device="cuda")
    caches = [torch.randn(4, 4, 2, 16, device="cuda") for _ in range(2)]
    slots = torch.tensor([3, -1, 0, 15, 99], device="cuda")
    if kind == "copy":
        pairs = torch.tensor([[0, 1], [1, 0], [-1, -1]], device="cuda")
        torch.library.opcheck(torch.ops.nano_batch.copy_blocks.default, (torch.stack(caches)[None], pairs))
    else:
        operators = torch.ops.nano_batch
        operator, absent = (
            (operators.write_kv.default, 6) if kind == "write" else (operators.gather_kv.default, 2)
        )
        torch.library.opcheck(operator, (keys, values, *caches, slots, *absent * [None]))
