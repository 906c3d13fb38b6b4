"""Runs planned steps on the device: blocks moved, tokens computed, one sampled for each row that ends.

Nothing here waits for the device: the host may plan and start the next step while this one runs. A token that
the next step needs stays on the device, in `newest`, by lane.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nano_batch.attention import DecodePlan, PrefillPlan
from nano_batch.attention.cuda.backend import decode_refusal
from nano_batch.attention.cuda.prefill import library_refusal
from nano_batch.core import Engine, StepCounts
from nano_batch.cuda.available import why_not
from nano_batch.engine import mixed_rows
from nano_batch.engine.newest import begin_step, take_likeliest
from nano_batch.engine.penalties import on_device
from nano_batch.engine.sampler import Sampled, Sampler
from nano_batch.engine.step_arrays import DeviceArrays, HostArrays, Layout
from nano_batch.engine.step_graphs import StepGraph, StepGraphs, decode_sizes
from nano_batch.kv_cache import KVCache
from nano_batch.models import PagedInputs, PagedMistral


@dataclass(frozen=True)
class Launched:
    """A step on its way: what it samples will be on the host when `ready` says so."""

    step: int
    turn: int  # which of the two sets of arrays it uses
    sampled: Sampled  # on the host; valid once `ready`
    ready: torch.cuda.Event | None = None
    out_of_memory: list[int] = field(default_factory=list)  # lanes of rows that could not be computed

    def wait(self) -> Sampled:
        """What was sampled, waiting for the device; a token is -1 where the logits were no numbers."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.sampled


@dataclass(frozen=True)
class Step:
    """A planned step in its arrays, on the host and on the device."""

    counts: StepCounts
    host: HostArrays
    tensors: dict[str, torch.Tensor]

    def samples_of(self, first: int, last: int) -> slice:
        """The samples that are taken from the rows from `first` to before `last`."""
        rows = self.host.arrays["sample_rows"][: self.counts.samples]
        return slice(*np.searchsorted(rows, [first, last]).tolist())


_READ: list[tuple[torch.cuda.Event, list[HostArrays]]] = []
"""Arrays of runners that are gone, from which the device may still read, and to which it may write."""


def _keep_until_read(host: list[HostArrays], device: torch.device) -> None:
    """Keep pinned arrays until the device has come here: PyTorch does not know that kernels use them."""
    _READ[:] = [(event, kept) for event, kept in _READ if not event.query()]  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        _READ.append((event, host))


class StepRunner:
    """A model, its KV cache and its sampler, driven by what an `Engine` plans.

    Args:
        engine: whose arrays it binds.
        model, cache: what computes a step.
        token_by_token: compute each token alone, so that its numbers depend on nothing else in the step.
        cuda_graphs: run steps of decodes, and small ones with prompts, as CUDA graphs; None where the
            attention kernels run and tokens are not computed one by one.

    Raises:
        DeviceError, DtypeError, MissingExtraError: graphs are asked for, and the kernels do not run here.
    """

    def __init__(
        self,
        engine: Engine,
        model: PagedMistral,
        cache: KVCache,
        *,
        token_by_token: bool = False,
        cuda_graphs: bool | None = None,
    ) -> None:
        """Bind the arrays, and capture the graphs."""
        self.model, self.cache, self.device = model, cache, model.device
        self.token_by_token = token_by_token
        lanes = engine.max_num_seqs
        layout = Layout(engine, mixed_rows.shapes(lanes))
        self.host = [HostArrays(layout, pinned=self.device.type == "cuda") for _ in range(2)]
        engine.bind([one.of_engine for one in self.host])
        self.on_device = DeviceArrays(layout, self.device)
        # Whoever drops the runner may have left a step on its way.
        weakref.finalize(self, _keep_until_read, self.host, self.device).atexit = False
        self.sampler = Sampler(lanes, model.config.vocab_size, self.device)
        # One more: the place of lane -1, that is of padding.
        self.newest = torch.zeros(lanes + 1, dtype=torch.int64, device=self.device)
        self.turn = 0
        refusal = why_not(self.device) or decode_refusal(self._queries(1), *cache.layer(0))
        if cuda_graphs and refusal is not None:
            raise type(refusal)(f"cuda_graphs=True: {refusal}")
        self.plans_decodes = refusal is None
        self.plans_prefill = refusal is None and library_refusal(self._queries(1), *cache.layer(0)) is None
        self.decode_graphs: StepGraphs | None = None
        self.mixed_graphs: StepGraphs | None = None
        if (refusal is None and not token_by_token) if cuda_graphs is None else cuda_graphs:
            self._capture(lanes, engine.max_num_batched_tokens)

    def _capture(self, lanes: int, most_tokens: int) -> None:
        """Capture the graphs, over arrays whose steps change nothing."""
        pool, agreed = torch.cuda.graph_pool_handle(), self.model.shard.of_first
        self.host[0].pad_decodes(0, lanes)
        self.host[0].arrays["sample_lanes"].fill(-1)
        if self.plans_prefill:
            sizes = mixed_rows.token_sizes(most_tokens)
            mixed_rows.clear(self.host[0], sizes[-1])
            self.on_device.take(self.host[0], lanes, sizes[-1], extra=True)
            self.mixed_graphs = StepGraphs(sizes, self.device, self._mixed_step, pool, agreed)
        self.on_device.take(self.host[0], lanes, lanes)
        self.decode_graphs = StepGraphs(decode_sizes(lanes), self.device, self._decode_step, pool, agreed)

    def take_turn(self) -> dict[str, npt.NDArray[Any]]:
        """What the engine's newest step was written to; once for each step, even for one that fails."""
        self.turn = 1 - self.turn
        return self.host[1 - self.turn].arrays

    def launch(self, counts: StepCounts, lanes: Sequence[int], *, greedy: bool) -> Launched:
        """Start the step that the engine has just planned, whose turn was taken and whose blocks were moved.

        Args:
            counts: from `Engine.step_arrays`.
            lanes: the lane of each sample.
            greedy: whether all of them take the likeliest token and nothing else.
        """
        host = self.host[1 - self.turn]
        failed: list[int] = []
        if counts.rows == 0:
            sampled = Sampled(torch.empty(0, dtype=torch.int64))
        elif (captured := self._captured_step(counts, host)) is not None:
            captured.graph.replay()
            sampled = Sampled(captured.tokens[: counts.samples])
            if not greedy:
                there = self.on_device.tensors["sample_lanes"][: counts.samples]
                sampled = self._sample(captured.logits[: counts.samples], there, lanes, likeliest=False)
        else:
            step = Step(counts, host, self.on_device.take(host, counts.rows, counts.tokens))
            logits = self._logits(step, 0, counts.rows, failed)
            there = step.tensors["sample_lanes"][: counts.samples]
            sampled = self._sample(logits, there, lanes, likeliest=greedy)
        return Launched(counts.step, 1 - self.turn, *self._to_host(sampled, host), failed)

    def _captured_step(self, counts: StepCounts, host: HostArrays) -> StepGraph | None:
        """The graph that computes a step, whose arrays are then on the device; None where there is none."""
        if self.decode_graphs is not None and counts.decodes == counts.rows == counts.samples:
            size = self.decode_graphs.size_for(counts.rows)
            assert size is not None
            host.pad_decodes(counts.rows, size)
            self.on_device.take(host, size, size)
            return self.decode_graphs.graphs[size]
        if self.mixed_graphs is None:
            return None
        # A prompt of few tokens may have more sequences than tokens.
        size = self.mixed_graphs.size_for(max(counts.tokens, counts.samples))
        window, block_size = self.model.config.sliding_window, self.cache.block_size
        if size is None or not mixed_rows.fill(counts, host, size, block_size, window):
            return None
        self.on_device.take(host, counts.rows, size, extra=True)
        return self.mixed_graphs.graphs[size]

    def _decode_step(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A step of `rows` decodes over the device's arrays, as a graph holds it: logits and tokens."""
        tensors = self.on_device.tensors
        lanes = tensors["lanes"][:rows]
        plan = self._decode_plan(tensors["block_table"][:rows], tensors["context_lens"][:rows])
        inputs = PagedInputs(
            *begin_step(tensors["token_ids"][:rows], lanes, tensors["positions"][:rows], self.newest),
            tensors["slot_mapping"][:rows], tensors["block_table"][:rows], tensors["context_lens"][:rows],
            tensors["query_start_loc"][: rows + 1], num_decodes=rows, trusted=True, decode_plan=plan,
        )  # fmt: skip
        return self._likeliest(inputs, lanes)

    def _mixed_step(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A step of up to `tokens` tokens of decodes and prompts (`mixed_rows.py`), as a graph holds it."""
        tensors, window = self.on_device.tensors, self.model.config.sliding_window
        rows = min(tokens, len(tensors["decode_lens"]))
        table, lens = tensors["block_table"][:rows], tensors["decode_lens"][:rows]
        given, lanes, positions = (
            tensors[name][:tokens] for name in ("token_ids", "token_lanes", "positions")
        )
        inputs = PagedInputs(
            *begin_step(given, lanes, positions, self.newest),
            tensors["slot_mapping"][:tokens], table, lens, tensors["query_start_loc"],
            tensors["logit_tokens"][:rows], rows, True, self._decode_plan(table, lens),
            mixed_rows.prefill_plan(tensors, tokens, window),
        )  # fmt: skip
        return self._likeliest(inputs, tensors["sample_lanes"][:rows])

    def _likeliest(self, inputs: PagedInputs, lanes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and the likeliest tokens."""
        logits = self.model.paged(inputs, self.cache)
        return logits, self._take_likeliest(logits, lanes)

    def _take_likeliest(self, logits: torch.Tensor, lanes: torch.Tensor) -> torch.Tensor:
        """The likeliest tokens, of several ranks those of the first, which become their lanes' newest."""
        tokens = take_likeliest(logits, lanes, self.newest)
        if self.model.shard.size > 1:
            self.newest[lanes.long()] = self.model.shard.of_first(tokens)
        return tokens

    def _logits(self, step: Step, first: int, last: int, failed: list[int]) -> torch.Tensor:
        """Logits [samples, vocab_size] of rows, outside of graphs.

        Rows for which the device's memory does not suffice together are computed in two parts; a row for
        which it does not suffice alone has NaN for logits, and its lane goes into `failed`.
        """
        try:
            parts = [self.model.paged(part, self.cache) for part in self._parts(step, first, last)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        except torch.OutOfMemoryError:
            if self.model.shard.size > 1:  # the others would not know of the parts
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if last - first > 1:
            middle = (first + last) // 2
            halves = [(first, middle), (middle, last)]
            return torch.cat([self._logits(step, *half, failed) for half in halves])
        failed.append(int(step.host.arrays["lanes"][first]))
        samples = step.samples_of(first, last)
        shape = (samples.stop - samples.start, self.model.config.vocab_size)
        return torch.full(shape, float("nan"), dtype=self.model.dtype, device=self.device)

    def _parts(self, step: Step, first: int, last: int) -> Iterator[PagedInputs]:
        if not self.token_by_token:
            yield self._rows(step, first, last)
            return
        for row in range(first, last):
            yield from self._tokens(step, row)

    def _rows(self, step: Step, first: int, last: int) -> PagedInputs:
        """The rows from `first` to before `last` as the model takes them."""
        arrays, tensors = step.host.arrays, step.tensors
        starts = arrays["query_start_loc"][first : last + 1].astype(np.int64)
        begin, end = int(starts[0]), int(starts[-1])
        here = slice(begin, end)
        decodes = min(max(step.counts.decodes - first, 0), last - first)
        samples = step.samples_of(first, last)
        ends = arrays["query_start_loc"][arrays["sample_rows"][samples] + 1].astype(np.int64) - (1 + begin)
        table = self._table(step, first, last)
        lens = tensors["context_lens"][first:last]
        starts_there = tensors["query_start_loc"][first : last + 1] - begin
        counts = on_device(np.diff(starts), self.device)
        lanes = tensors["lanes"][first:last]
        of_tokens = torch.repeat_interleave(lanes, counts, output_size=end - begin)
        plans = self._plans(
            table, lens, starts_there, decodes, starts - begin, arrays["context_lens"][first:last]
        )
        return PagedInputs(
            *begin_step(tensors["token_ids"][here], of_tokens, tensors["positions"][here], self.newest),
            tensors["slot_mapping"][here], table, lens, starts_there,
            on_device(ends, self.device), decodes, True, *plans,
        )  # fmt: skip

    def _tokens(self, step: Step, row: int) -> Iterator[PagedInputs]:
        """Each token of a row as a step of its own: one query that sees what was written before it."""
        arrays, tensors = step.host.arrays, step.tensors
        begin, end = arrays["query_start_loc"][row : row + 2].tolist()
        samples = step.samples_of(row, row + 1)
        lane = tensors["lanes"][row : row + 1]
        for token in range(begin, end):
            here = slice(token, token + 1)
            wanted = samples.stop - samples.start if token == end - 1 else 0
            position = tensors["positions"][here]
            yield PagedInputs(
                *begin_step(tensors["token_ids"][here], lane, position, self.newest),
                tensors["slot_mapping"][here],
                self._table(step, row, row + 1, int(arrays["positions"][token]) + 1), position + 1,
                torch.tensor([0, 1], dtype=torch.int32, device=self.device),
                torch.zeros(wanted, dtype=torch.int64, device=self.device), 1, True,
            )  # fmt: skip

    def _table(self, step: Step, first: int, last: int, reach: int | None = None) -> torch.Tensor:
        """The rows' block table; on a CPU, whose attention looks at all columns, those that are in use."""
        table = step.tensors["block_table"][first:last]
        if self.device.type == "cuda":
            return table
        if reach is None:
            reach = int(step.host.arrays["context_lens"][first:last].max())
        return table[:, : -(-reach // self.cache.block_size)]

    def _plans(
        self,
        table: torch.Tensor,
        lens: torch.Tensor,
        starts: torch.Tensor,
        decodes: int,
        host_starts: npt.NDArray[np.int64],
        host_lens: npt.NDArray[np.int32],
    ) -> tuple[DecodePlan | None, PrefillPlan | None]:
        """What the CUDA kernels make once a step for all layers."""
        decode = (
            self._decode_plan(table[:decodes], lens[:decodes]) if decodes and self.plans_decodes else None
        )
        if decodes == len(lens) or not self.plans_prefill:
            return decode, None
        known = torch.from_numpy(host_starts[decodes:]), torch.from_numpy(host_lens[decodes:]).long()
        window = self.model.config.sliding_window
        return decode, PrefillPlan(
            starts[decodes:], lens[decodes:], table[decodes:], self.cache.block_size,
            sliding_window=window, host_lengths=known,
        )  # fmt: skip

    def _decode_plan(self, table: torch.Tensor, lens: torch.Tensor) -> DecodePlan:
        c = self.model.config
        # Settled: a plan lets nothing begin before its end, and a kernel lies between it and attention; and
        # blocks enter the prefix cache at a step's end, so that no row reads what another writes in it.
        plan = DecodePlan(
            self._queries(len(lens)), *self.cache.layer(0), table,
            sliding_window=c.sliding_window, settled=True,
        )  # fmt: skip
        plan.update(lens)
        return plan

    def _queries(self, rows: int) -> torch.Tensor:
        """Queries as the model's: a plan looks at their shape, and no number is read."""
        c = self.model.config
        return torch.empty(rows, c.num_heads, c.head_dim, dtype=self.model.dtype, device=self.device)

    def _sample(
        self, logits: torch.Tensor, lanes: torch.Tensor, host_lanes: Sequence[int], *, likeliest: bool
    ) -> Sampled:
        if likeliest:
            return Sampled(self._take_likeliest(logits, lanes))
        lanes = lanes.long()
        sampled = self.sampler.sample(logits, lanes, host_lanes)
        self.newest[lanes] = self.model.shard.of_first(sampled.tokens)
        return sampled

    def _to_host(self, sampled: Sampled, host: HostArrays) -> tuple[Sampled, torch.cuda.Event | None]:
        if self.device.type == "cpu":
            return sampled, None
        there = sampled.to_host(host.tokens)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        return there, ready
