"""Where the time of a step goes, kernel by kernel.

`decode`: steps of `concurrency` decodes behind 300 prompt tokens each, as the engine runs them (in CUDA
graphs, one step in flight). `prefill`: steps of prompts of 512 tokens, 8,192 together, one token asked of
each. A row for each kernel, of a CPU for each operation that PyTorch sees, with its `calls` a step and `us` a
step (PyTorch's profiler, the mean of 20 steps, 5 of prompts); those below `LEAST_PERCENT` of the step are
together in `other`. Kernels that overlap count in full, each. The row `step` has the mean time of steps that
nothing watched, by the host's clock, and `limit_us`: what copy bandwidth and matrix products, measured in the
same run, allow (`nano_batch/benchmarks/engines/limit.py`); `between` is the step without its kernels: where
they overlap, less than nothing; on a CPU it holds the core's own kernels, which PyTorch does not see.

`nano-batch bench step --model tiny`: another shape; by default "mistral-7b-v0.1" in bf16 on CUDA, and "tiny"
on a CPU, where the steps are smaller.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from nano_batch.benchmarks.engines.limit import Limit, card_of
from nano_batch.benchmarks.engines.ours import greedy
from nano_batch.benchmarks.engines.rates import Rates, measure_rates
from nano_batch.benchmarks.engines.work import LONGEST, Case, requests_of
from nano_batch.benchmarks.report import Row, report, torch_versions
from nano_batch.engine import InferenceEngine, RequestOutput
from nano_batch.models import PagedMistral, load_mistral
from nano_batch.simulator import StepFeatures

LEAST_PERCENT = 0.2
MOST_NAME = 90
"""Characters of a kernel's name: what follows are its arguments."""


@dataclass(frozen=True)
class Load:
    """Steps of one kind.

    Attributes:
        concurrency: sequences of a step.
        prompt: prompt tokens of each; of decodes, what they have behind them.
        steps: how many are timed, and as many again are profiled.
    """

    case: str
    concurrency: int
    prompt: int
    steps: int

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.concurrency * (self.prompt if self.case == "prefill" else 1)


CUDA_LOADS = [*(Load("decode", count, 300, 20) for count in (1, 8, 32, 64, 128, 256)),
              Load("prefill", 16, 512, 5)]  # fmt: skip
CPU_LOADS = [*(Load("decode", count, 300, 20) for count in (1, 4, 8)), Load("prefill", 2, 256, 5)]


def run(model: str | None = None) -> dict[str, Any]:
    """Time and profile each load.

    Args:
        model: a name of `nano_batch.models.mistral.SHAPES`.

    Raises:
        UnknownOptionError: there is no such shape.
    """
    cuda = torch.cuda.is_available()
    name, loads = model or ("mistral-7b-v0.1" if cuda else "tiny"), CUDA_LOADS if cuda else CPU_LOADS
    made = load_mistral(name, device="cuda" if cuda else "cpu", load_format="dummy")
    rates = measure_rates(made, sorted({load.tokens for load in loads}))
    rows = [row for load in loads for row in rows_of(made, load, rates)]
    device = torch.cuda.get_device_name() if cuda else "cpu"
    about = {"model": repr(made.config), "dtype": str(made.dtype), "device": device}
    return {**report("step", rows), **about, "versions": torch_versions()}


def rows_of(model: PagedMistral, load: Load, rates: Rates) -> list[Row]:
    """The rows of a load, the longest kernels first, then `between` and `step`."""
    steps = _Steps(model, load)
    seconds = steps.timed()
    kernels = steps.profiled()
    step_us = seconds * 1e6
    large = {name: each for name, each in kernels.items() if each[1] >= step_us * LEAST_PERCENT / 100}
    small = [each for name, each in kernels.items() if name not in large]
    listed = sorted(large.items(), key=lambda item: -item[1][1])
    if small:
        listed.append(("other", (sum(calls for calls, _ in small), sum(us for _, us in small))))

    def row(kernel: str, calls: float | None, us: float, limit_us: float | None = None) -> Row:
        return {
            "case": load.case, "concurrency": load.concurrency, "tokens": load.tokens, "kernel": kernel,
            "calls": calls, "us": round(us, 1), "percent": round(100 * us / step_us, 1),
            "limit_us": None if limit_us is None else round(limit_us, 1),
        }  # fmt: skip

    limit_us = 1e6 * Limit(card_of(model), rates).step_s(_features(load))
    rows = [row(name, calls, us) for name, (calls, us) in listed]
    rows.append(row("between", None, step_us - sum(us for _, us in kernels.values())))
    return [*rows, row("step", None, step_us, limit_us)]


def _features(load: Load) -> StepFeatures:
    """Of the steps that are timed, in the middle of them."""
    if load.case == "prefill":
        pairs = load.concurrency * load.prompt * (load.prompt + 1) // 2
        return StepFeatures(
            prefill_tokens=load.tokens, prefill_sequences=load.concurrency, prefill_context=load.tokens,
            prefill_pairs=pairs, sampled=load.concurrency,
        )  # fmt: skip
    context = load.concurrency * (load.prompt + load.steps)
    return StepFeatures(decode_sequences=load.concurrency, decode_context=context, sampled=load.concurrency)


class _Steps:
    """An engine that does steps of one kind, over and over."""

    def __init__(self, model: PagedMistral, load: Load) -> None:
        self.model, self.load = model, load
        prefill = load.case == "prefill"
        # One step in flight holds its sequences until its tokens are seen.
        options: dict[str, Any] = {"max_num_batched_tokens": load.tokens} if prefill else {}
        self.engine = InferenceEngine(
            model, max_num_seqs=load.concurrency * (2 if prefill else 1), max_model_len=LONGEST,
            enable_prefix_caching=False, **options,
        )  # fmt: skip
        drawn = requests_of(Case("steady", load.concurrency, load.concurrency), model.config.vocab_size)
        self.prompts = [(request.prompt * 2)[: load.prompt] for request in drawn]
        self.added = 0
        if not prefill:
            outputs = self._add(LONGEST - load.prompt)
            while not all(output.token_ids for output in outputs):
                self.engine.step()
        self._do(2)

    def _add(self, output_tokens: int) -> list[RequestOutput]:
        numbers = range(self.added, self.added + len(self.prompts))
        self.added = numbers.stop
        return [
            self.engine.add_request(str(number), prompt, greedy(output_tokens))
            for number, prompt in zip(numbers, self.prompts, strict=True)
        ]

    def _do(self, count: int) -> None:
        """So many steps, to their end on the device."""
        if self.load.case == "prefill":
            for _ in range(count):
                self._add(1)
            while self.engine.has_unfinished:
                self.engine.step()
        else:
            for _ in range(count):
                self.engine.step()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    def timed(self) -> float:
        """Seconds a step."""
        start = time.perf_counter()
        self._do(self.load.steps)
        return (time.perf_counter() - start) / self.load.steps

    def profiled(self) -> dict[str, tuple[float, float]]:
        """Calls and microseconds a step of each kernel."""
        cuda = self.model.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
            self._do(self.load.steps)
        found: dict[str, tuple[float, float]] = {}
        for event in profiled.key_averages():
            us = event.self_device_time_total if cuda else event.self_cpu_time_total
            name = event.key.removeprefix("void ")[:MOST_NAME]
            calls, before = found.get(name, (0.0, 0.0))
            if us > 0:
                found[name] = calls + event.count / self.load.steps, before + us / self.load.steps
        return found
