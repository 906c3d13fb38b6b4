"""Cache, attention and model on a CUDA device equal themselves on the host. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nano_batch.attention import paged_attention_fwd, paged_attention_prefill
from nano_batch.kv_cache import KVCache
from nano_batch.models import MistralConfig, PagedInputs, PagedMistral, TinyTransformer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def twins(dtype, layout, **sizes):
    """The same random cache on the host and on the device."""
    made = [
        KVCache(12, 4, 2, 16, dtype, device, layout=layout, num_layers=2, num_swap_blocks=6, **sizes)
        for device in ("cpu", "cuda")
    ]
    for layer in range(2):
        for host, device in zip(made[0].layer(layer), made[1].layer(layer), strict=True):
            host.copy_(torch.randn(host.shape))
            device.copy_(host)
    return made


def assert_equal(host, device):
    for layer in range(2):
        for left, right in zip(host.layer(layer), device.layer(layer), strict=True):
            assert torch.equal(left, right.cpu())


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_moving_blocks(layout, monkeypatch):
    host, device = twins(torch.bfloat16, layout)
    monkeypatch.setattr("nano_batch.kv_cache.STAGING_BYTES", 2 * host.get_memory_usage().per_block_bytes)
    keys = torch.randn(5, 2, 16).bfloat16()
    for cache in (host, device):
        new = keys.to(cache.device)
        cache.write_kv(new, -new, [47, -1, 3, 4, 30], layer=1)
        cache.swap_out([(11, 5), (0, 2), (7, 3), (1, 0)])
        cache.copy_blocks([(0, 1), (1, 0), (2, 11)])
        cache.swap_in([(3, 9), (2, 8), (5, 0)])
        cache.write_kv(new, new, torch.tensor([1, 2, -1, 5, 6], device=cache.device))
    assert_equal(host, device)
    assert device._host_blocks.is_pinned()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("window", [None, 6])
def test_attention(dtype, window):
    host, device = twins(dtype, "HND")
    table = torch.tensor([[3, 9, 1, -1], [0, 2, 4, 6], [-1, -1, -1, -1]], dtype=torch.int32)
    lens = torch.tensor([9, 16, 0], dtype=torch.int32)
    starts = torch.tensor([0, 4, 20, 21], dtype=torch.int32)
    query = torch.randn(21, 6, 16).to(dtype)
    results = []
    for cache in (host, device):
        here = [tensor.to(cache.device) for tensor in (query, table, lens, starts)]
        options = {"sliding_window": window}
        caches = cache.layer(1)
        decoded = paged_attention_fwd(here[0][:3].unsqueeze(2), *caches, *here[1:3], 4, **options)
        unread = paged_attention_fwd(
            here[0][:3].unsqueeze(2), *caches, *here[1:3], 4, **options, validate=False
        )
        torch.testing.assert_close(decoded, unread)
        results.append((decoded, paged_attention_prefill(here[0], *caches, *here[1:], 4, **options)))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right.cpu(), atol=TOLERANCE[dtype], rtol=0)


def test_decode_replays_in_a_graph():
    """With `validate=False` nothing waits for the host, so that a CUDA graph can hold the call."""
    _, cache = twins(torch.float32, "NHD")
    table = torch.tensor([[3, 9, 1], [0, 2, 4]], dtype=torch.int32, device="cuda")
    lens = torch.tensor([9, 12], dtype=torch.int32, device="cuda")
    query = torch.randn(2, 4, 1, 16, device="cuda")

    def attend():
        return paged_attention_fwd(query, *cache.layer(0), table, lens, 4, validate=False)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        attend()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = attend()
    lens.copy_(torch.tensor([2, 7], dtype=torch.int32))
    query.normal_()
    graph.replay()
    torch.testing.assert_close(output, attend())


def test_the_model():
    logits = []
    for device in ("cpu", "cuda"):
        model = TinyTransformer(seed=1, device=device)
        inputs = PagedInputs(
            torch.arange(9, device=device), torch.tensor([4, *range(8)], device=device),
            [4, *range(8, 16)], torch.tensor([[0, 1], [2, 3]], device=device),
            torch.tensor([5, 8], device=device), torch.tensor([0, 1, 9], device=device),
        )  # fmt: skip
        logits.append(model.paged(inputs, model.new_cache(4, 4)).cpu())
    torch.testing.assert_close(*logits)


def test_mistral_in_bf16_stays_near_float32():
    """Two layers of the 7B's shape, products of few rows and of many: logits apart by 2e-2 of their norm."""
    config = replace(MistralConfig.named("mistral-7b-v0.1"), num_layers=2)
    exact, rounded = (
        PagedMistral(config, dtype=dtype, device="cuda") for dtype in (torch.float32, torch.bfloat16)
    )
    torch.manual_seed(5)
    for name, view in exact.state_dict().items():
        view.normal_(0, 0.02) if view.dim() > 1 else view.normal_(1, 0.2)
        rounded.state_dict()[name].copy_(view)
        view.copy_(rounded.state_dict()[name])
    for rows in (1, 8, 64, 72, 112, 128, 192, 300):
        tokens = torch.randint(config.vocab_size, (rows,)).tolist()
        expected = exact.dense(tokens).double()
        error = float((rounded.dense(tokens).double() - expected).norm() / expected.norm())
        assert 1e-4 < error < 2e-2, (rows, error)
