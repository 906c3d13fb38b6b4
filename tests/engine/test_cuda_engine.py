"""The engine on a CUDA device: its graphs, and its tokens beside a CPU's. Skipped where there is none."""

from __future__ import annotations

import random

import pytest
import torch

from nano_batch.cuda.launch import is_hopper
from nano_batch.engine import InferenceEngine, SamplingParams
from nano_batch.models import MistralConfig, PagedMistral, base, load_mistral

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def work(count, seed=0, vocab=4096, longest=150):
    draw = random.Random(seed)
    prompts = [[draw.randrange(vocab) for _ in range(draw.randint(1, longest))] for _ in range(count)]
    return prompts, [draw.randint(1, 40) for _ in range(count)]


def tokens_of(engine, prompts, params):
    outputs = engine.generate(prompts, params, progress=False)
    assert not engine.engine.snapshot().block_references.any()
    return [[sequence.token_ids for sequence in output.sequences] for output in outputs]


def moved(model, device, dtype=None):
    copy = PagedMistral(model.config, dtype=dtype or model.dtype, device=device)
    for name, view in copy.state_dict().items():
        view.copy_(model.state_dict()[name])
    return copy


@pytest.mark.parametrize("steps_in_flight", [0, 1])
@pytest.mark.parametrize("graphs", [None, False])
@pytest.mark.parametrize("crowded", [False, True])
def test_tokens_equal_a_cpus_in_float32(steps_in_flight, graphs, crowded):
    """Greedy and drawn ones, with preemption where memory is short."""
    model = load_mistral("tiny", load_format="dummy")
    prompts, lengths = work(24)
    params = [
        SamplingParams(
            temperature=place % 2, top_p=0.9, seed=place, max_tokens=length, n=1 + (place % 5 == 4)
        )
        for place, length in enumerate(lengths)
    ]
    few = {"max_num_seqs": 6, "num_blocks": 80, "block_size": 4, "max_num_batched_tokens": 64}
    options = few if crowded else {"num_blocks": 600}
    expected = tokens_of(InferenceEngine(model, **options), prompts, params)
    engine = InferenceEngine(
        moved(model, "cuda"), cuda_graphs=graphs, steps_in_flight=steps_in_flight, **options
    )
    assert (engine.runner.decode_graphs is None) == (graphs is False)
    assert tokens_of(engine, prompts, params) == expected


@pytest.mark.parametrize("turning", [None, True, False])
@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8_e4m3"])
def test_graphs_of_any_mix_compute_what_eager_steps_do(window, kv_cache_dtype, turning, monkeypatch):
    """Decodes, chunks of prompts and cached prefixes in one graph: the same probabilities, in float16.

    In graphs (`turning`) or in eager steps attention turns prompts' queries where it can, in all others a
    kernel before it.
    """
    config = MistralConfig(512, 256, 640, 3, 8, 2, 64, 10_000.0, sliding_window=window, dtype=torch.float16)
    model = moved(load_dummy(config), "cuda", config.dtype)
    prompts, lengths = work(40, vocab=512)
    prompts[7:14] = [prompts[6][:50] + prompt for prompt in prompts[7:14]]
    params = [SamplingParams(temperature=0, max_tokens=length, logprobs=4) for length in lengths]
    options = {"num_blocks": 400, "max_num_seqs": 12, "max_num_batched_tokens": 200, "max_model_len": 512}
    results = []
    for graphs in (True, False):
        monkeypatch.setattr(base, "TURNED_BEFORE", 0 if graphs is turning else 2048)
        engine = InferenceEngine(model, cuda_graphs=graphs, kv_cache_dtype=kv_cache_dtype, **options)
        assert (engine.runner.mixed_graphs is None) == (not graphs)
        results.append(engine.generate(prompts, params, progress=False))
    alike = 0
    for one, other in zip(*results, strict=True):
        places = zip(one.token_ids, one.logprobs, other.token_ids, other.logprobs, strict=True)
        for token, left, other_token, right in places:
            assert abs(left.top_logprobs[0] - right.top_logprobs[0]) < 0.03
            if token != other_token or left.top_ids[0] != right.top_ids[0]:
                break  # two equally likely tokens: what follows is another text
            alike += 1
    assert alike > 0.8 * sum(lengths)


def load_dummy(config):
    model = PagedMistral(config, device="cpu", dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    for view in model.state_dict().values():
        view.copy_(
            torch.randn(view.shape, generator=generator) * view.shape[-1] ** -0.5 if view.dim() > 1 else 1.0
        )
    return model


def test_a_step_does_not_wait_for_the_device():
    model = moved(load_mistral("tiny", load_format="dummy"), "cuda", torch.bfloat16)
    engine = InferenceEngine(model, num_blocks=2000, max_num_batched_tokens=4096)
    prompts, _ = work(40, longest=300)
    for name, prompt in enumerate(prompts):
        engine.add_request(
            f"first {name}", prompt, SamplingParams(temperature=name % 2, seed=1, max_tokens=9)
        )
    launch = engine.runner.launch

    def watched(*args, **options):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(*args, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    engine.runner.launch = watched
    while engine.has_unfinished:
        engine.step()


def test_memory_is_measured(caplog):
    model = moved(load_mistral("tiny", load_format="dummy"), "cuda", torch.bfloat16)
    with caplog.at_level("INFO", "nano_batch.engine"):
        engine = InferenceEngine(model, gpu_memory_fraction=0.3, max_model_len=2048, max_num_seqs=64)
    assert engine.cache.num_blocks == 64 * 2048 // 16
    assert "30% of cuda:0" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_first_layer_of_prepared_weights_is_the_same_up_to_a_rounding(dtype):
    model = moved(load_mistral("tiny", load_format="dummy"), "cuda", dtype)
    model.prepare()
    for count in (0, 1, 9, 200, 3000):
        words = torch.randint(4096, (count,), device="cuda")
        ours, plain = (model._started(words, prepared=prepared) for prepared in (True, False))
        assert torch.equal(ours[0], plain[0])
        # What one block of a cluster sends the other is rounded, too.
        most = 2 * torch.finfo(dtype).eps + 1e-5
        largest = float(plain[1].abs().max()) if count else 0
        torch.testing.assert_close(ours[1], plain[1], rtol=most, atol=most * largest)


def test_prepared_weights_give_the_same_tokens():
    """Panels bit for bit; also when weights have changed and another engine is made.

    Its captured graphs, and those of the engines before, read the same places.
    """
    if not is_hopper(torch.device("cuda")):
        pytest.skip("only Hopper's products read panels; on other devices an engine keeps none")
    model = moved(load_mistral("tiny", load_format="dummy"), "cuda", torch.bfloat16)
    prompts, lengths = work(12, longest=8)  # products of few rows alone, whose sums no size changes
    params = [SamplingParams(temperature=0.0, max_tokens=length) for length in lengths]
    options = {"num_blocks": 400, "enable_prefix_caching": False}
    assert model.preparing_bytes == 2 * (4 * 2 * 896 * 256 + 4096 * 12 * 32)
    engine = InferenceEngine(model, **options)
    assert model.preparing_bytes == 0
    kept = model._prepared
    model._prepared = kept[:1]
    without_panels = InferenceEngine(model, **options)
    model._prepared = kept
    expected = tokens_of(without_panels, prompts, params)
    assert tokens_of(engine, prompts, params) == expected
    for layer in model.layers:
        layer.gate_up.mul_(-3)
    model.embedding.mul_(-1)
    changed = tokens_of(InferenceEngine(model, **options), prompts, params)
    assert changed != expected
    for earlier in (without_panels, engine):
        assert tokens_of(earlier, prompts, params) == changed
    for read in kept[:2]:
        what_was = read.tensor.clone()
        read.tensor.zero_()
        assert tokens_of(engine, prompts, params) != changed
        read.tensor.copy_(what_was)
    assert tokens_of(engine, prompts, params) == changed


def test_another_row_goes_on_when_one_has_no_memory(monkeypatch):
    model = moved(load_mistral("tiny", load_format="dummy"), "cuda")
    engine = InferenceEngine(model, num_blocks=800, cuda_graphs=False, max_num_batched_tokens=1000)
    paged = model.paged

    def short_of_memory(inputs, cache):
        if len(inputs.token_ids) > 120:
            raise torch.OutOfMemoryError("no memory")
        return paged(inputs, cache)

    monkeypatch.setattr(model, "paged", short_of_memory)
    prompts = [list(range(length)) for length in (60, 140, 100, 30)]
    outputs = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=5), progress=False)
    assert [output.finish_reason for output in outputs] == ["length", "out_of_memory", "length", "length"]
    assert not engine.engine.snapshot().block_references.any()
