"""`nano-batch bench kv_cache`: what it compares, and how near bf16 and a cache in fp8 stay to float32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nano_batch.benchmarks import kv_cache
from nano_batch.models import MistralConfig, PagedMistral
from nano_batch.models.checkpoint import draw_weights


@pytest.fixture(scope="module")
def model():
    made = PagedMistral(replace(MistralConfig.named("small"), num_layers=2, vocab_size=2000))
    draw_weights(made, seed=1)
    return made


def test_rows(model):
    exact, quantised = kv_cache.compared(model)
    assert (exact["kv_cache_dtype"], exact["logits_error"], exact["greedy_agreement_percent"]) == (
        "auto",
        0,
        100,
    )
    assert quantised["kv_cache_dtype"] == "fp8_e4m3"
    assert quantised["tokens"] == kv_cache.PROMPTS * kv_cache.TOKENS
    # A stored number is off by a sixteenth at most.
    assert 1e-3 < quantised["logits_error"] < 0.1
    assert 80 < quantised["greedy_agreement_percent"] < 100


def test_logits_are_those_of_dense_passes(model):
    tokens = torch.randint(2000, (2, 40))
    paged = kv_cache.logits_of(model, tokens, None).view(2, 40, -1)
    for prompt, logits in zip(tokens.tolist(), paged, strict=True):
        torch.testing.assert_close(logits, model.dense(prompt), atol=1e-4, rtol=0)


def test_bf16_stays_near_float32(model):
    """Of the same weights, rounded once: their norms apart by 2e-2 at most."""
    small = PagedMistral(model.config, dtype=torch.bfloat16)
    for name, view in small.state_dict().items():
        view.copy_(model.state_dict()[name])
    tokens = torch.randint(2000, (2, 60))
    exact, rounded = (kv_cache.logits_of(one, tokens, None).double() for one in (model, small))
    error = float((exact - rounded).norm() / exact.norm())
    assert 1e-4 < error < 2e-2


def test_the_command_tells_both(capsys):
    from nano_batch.cli import main

    assert main(["bench", "kv_cache", "--model", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "kv_cache_dtype=fp8_e4m3" in printed
    assert "logits_error" in printed
