"""The physical limit: the same requests, scheduled as ours are, on a device that only moves and multiplies.

A step of r tokens, of which s are sampled from, takes at least

    max(W / b, (r·F₁ + s·F₂ - (r - s)·F₃) / p(r)) + max(K / b, A / p)

W: bytes of the layers' and the logits' matrices, read once a step. F₁, F₂: operations of the layers' matrices
a token, of the logits' a sample. F₃: of the last layer's matrices behind its attention, which only samples
need. K: bytes of the keys and values that are read: of decodes their contexts, of prompts what earlier chunks
left. A: operations of attention's products. b: the copy bandwidth, p(r): the rate of products of r rows, p:
the best of any, all measured in this run (`rates.py`): for `limit` in short runs, for `limit_sustained` over
seconds, for which a GPU's power holds large products back. Layers follow each other, so that inside a step
products and the reading of keys and values do not overlap: their times add. Nothing else takes any time: no
launch, no host, no norm, no sampling.

The steps are those of our own scheduler in virtual time (`nano_batch.simulator`): an engine that schedules
otherwise has other steps, each bound by the same formula. On a CPU the caches hold small models, and the copy
bandwidth is no bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from nano_batch.benchmarks.engines.base import Serve, Served
from nano_batch.benchmarks.engines.rates import Rates
from nano_batch.benchmarks.engines.rows import LIMIT
from nano_batch.benchmarks.engines.work import BUDGET, LONGEST, Case, Request
from nano_batch.metrics import token_times
from nano_batch.models import PagedMistral
from nano_batch.simulator import StepFeatures, simulate
from nano_batch.simulator.cards import ModelCard
from nano_batch.workloads import Workload

BLOCK_SIZE = 16


class Limit:
    """A virtual engine, by the name of its rows, whose steps take the least that `rates` and sizes allow."""

    clocked, baseline = False, False

    def __init__(self, card: ModelCard, rates: Rates, name: str = LIMIT) -> None:
        self.card, self.rates, self.name = card, rates, name

    def suits(self, case: Case) -> bool:
        """All cases."""
        return True

    @contextmanager
    def opened(self, concurrency: int) -> Iterator[Serve]:
        """The schedule of at most `concurrency` requests at once; memory is never short."""
        yield partial(self.serve, concurrency)

    def step_s(self, features: StepFeatures) -> float:
        """Seconds of a step (see the module)."""
        card, rates = self.card, self.rates
        rows = features.prefill_tokens + features.decode_sequences
        flops = rows * card.flops_per_token + features.sampled * card.flops_per_sample
        flops -= max(0, rows - features.sampled) * card.flops_behind_attention
        weights = card.step_weight_bytes / rates.copy_bytes_per_s
        linear = max(weights, flops / rates.product_rate(rows))
        read = features.decode_context + features.prefill_context - features.prefill_tokens
        pairs = features.decode_context + features.prefill_pairs
        keys = read * card.kv_bytes_per_token / rates.copy_bytes_per_s
        return linear + max(keys, pairs * card.flops_per_pair / rates.peak_flops_per_s)

    def serve(self, concurrency: int, requests: Sequence[Request]) -> list[Served]:
        """Reckon when each token is there."""
        workload = Workload(
            np.array([each.arrival_s for each in requests]),
            np.array([len(each.prompt) for each in requests]),
            np.array([each.output_tokens for each in requests]),
        )
        run = simulate(
            workload, cost=self.step_s, num_blocks=concurrency * -(-LONGEST // BLOCK_SIZE) + 1,
            block_size=BLOCK_SIZE, max_num_seqs=concurrency, max_num_batched_tokens=BUDGET,
            enable_prefix_caching=False, event_log=True,
        )  # fmt: skip
        times = token_times(run)
        parts = dict(zip(times.sequence.tolist(), np.split(times.time_s, times.offsets[1:-1]), strict=True))
        return [
            Served(arrival, started, parts[sequence].tolist())
            for arrival, started, sequence in zip(
                run.requests.arrival_s.tolist(), run.requests.first_scheduled_s.tolist(),
                run.requests.sequence.tolist(), strict=True,
            )
        ]  # fmt: skip


def card_of(model: PagedMistral) -> ModelCard:
    """The sizes of a model that is there."""
    c = model.config
    return ModelCard(
        name="model", title=repr(model), parameters=model.weight_bytes // model.dtype.itemsize,
        num_layers=c.num_layers, hidden_size=c.hidden_size, num_heads=c.num_heads,
        num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, intermediate_size=c.intermediate_size,
        vocab_size=c.vocab_size, gated_mlp=True, tied_embeddings=c.tie_word_embeddings,
        sliding_window=c.sliding_window, max_model_len=c.max_position_embeddings,
        bytes_per_parameter=model.dtype.itemsize, source="the model itself",
    )  # fmt: skip
