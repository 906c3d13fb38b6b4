"""Serves a model: requests in, tokens out, scheduled by the Rust core over a paged KV cache."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from nano_batch._choices import check_choice
from nano_batch.core import Engine, StepCounts
from nano_batch.display import html_table, readable_bytes
from nano_batch.engine.cache_size import blocks_that_fit, prepared_fit
from nano_batch.engine.outputs import RequestOutput, TokenLogprobs
from nano_batch.engine.requests import ServedRequest, ServedSequence
from nano_batch.engine.runner import Launched, StepRunner
from nano_batch.engine.sampling_params import SamplingParams
from nano_batch.engine.text import TOKENIZER, CheckpointTokenizer, Tokenizer
from nano_batch.errors import InvalidArgumentError, InvalidTokenError, StalledError, UnknownRequestError
from nano_batch.models import PagedMistral, load_mistral
from nano_batch.models.checkpoint import LoadFormat
from nano_batch.models.mistral_config import read_eos_token_ids
from nano_batch.models.parallel import WHOLE, Shard

if TYPE_CHECKING:
    from typing_extensions import Self

Prompt = str | Sequence[int]
KVCacheDtype = Literal["auto", "fp8_e4m3"]
_MOST_EMPTY_STEPS = 16


@dataclass(frozen=True)
class _Pending:
    """A step on its way, and whose tokens it samples."""

    launched: Launched
    sequences: list[ServedSequence]
    out_of_memory: list[ServedSequence]


class InferenceEngine:
    """Continuous batching of a model over a paged KV cache.

    `generate` serves a list of prompts to the end, `stream` one prompt token by token; `add_request` and
    `step` are for whoever drives the engine himself.

    Args:
        model: what computes; `from_pretrained` loads one.
        tokenizer: turns strings into tokens and back; None takes and gives token ids only.
        eos_token_ids: tokens that end an output, unless a request ignores them.
        block_size: token slots of a KV block.
        num_blocks: of the KV cache; None takes what the memory has room for (`cache_size.py`).
        gpu_memory_fraction: of the device's memory for weights, activations and KV cache together.
        kv_cache_dtype: "auto" stores keys and values in the model's dtype, "fp8_e4m3" in 8 bit.
        max_model_len: the most tokens of a sequence, prompt and output; None, the model's own limit.
        max_num_seqs: sequences that run at once.
        max_num_batched_tokens: the token budget of a step.
        steps_in_flight: 1 plans and starts a step while the one before it runs; a request then computes one
            token more than it needs when a stop token ends it. 0 waits for each step's tokens.
        deterministic: compute each token alone: on a CPU a request's logits and tokens then do not depend, in
            a single bit, on what else is served. Slow.
        cuda_graphs: run steps of decodes, and small ones with prompts, as CUDA graphs; None where the device
            and the kernels allow it. Which of them a step goes to is timed at the start, so that two engines
            may differ by a rounding.
        prepare_weights: keep the first layer's products of all words, and half of the weights a second time
            as Hopper's products read them faster (`PagedMistral.prepare`, which is to be called anew where
            weights change under an engine): a step takes about 1 % less. None: on CUDA, where that takes at
            most a tenth of the KV cache's room (`cache_size.py`). What a model has it keeps, and each engine
            makes it anew.
        seed: of the seeds that are drawn for requests without one; None draws it, too.
        **scheduler: the other options of `nano_batch.Engine`: policy, preemption, num_swap_blocks,
            enable_prefix_caching, enable_chunked_prefill, eviction, watermark, event_log, sjf_ageing.

    Raises:
        InvalidArgumentError, UnknownOptionError: an option is out of range or unknown.
        CacheAllocationError: there is no memory for the KV cache, or for prepared weights.
    """

    def __init__(
        self,
        model: PagedMistral,
        tokenizer: Tokenizer | None = None,
        *,
        eos_token_ids: Sequence[int] = (),
        block_size: int = 16,
        num_blocks: int | None = None,
        gpu_memory_fraction: float = 0.9,
        kv_cache_dtype: KVCacheDtype = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        steps_in_flight: Literal[0, 1] = 1,
        deterministic: bool = False,
        cuda_graphs: bool | None = None,
        prepare_weights: bool | None = None,
        seed: int | None = None,
        **scheduler: Any,
    ) -> None:
        """Allocate the KV cache, make the scheduler, and capture the graphs."""
        if steps_in_flight not in (0, 1):
            raise InvalidArgumentError(f"steps_in_flight={steps_in_flight!r} is neither 0 nor 1")
        check_choice("kv_cache_dtype", kv_cache_dtype, KVCacheDtype)
        self.model, self.tokenizer, self.eos_token_ids = model, tokenizer, tuple(eos_token_ids)
        self.max_model_len = _checked_model_len(max_model_len, model.config.max_position_embeddings)
        self.steps_in_flight = steps_in_flight
        cache_dtype = torch.float8_e4m3fn if kv_cache_dtype == "fp8_e4m3" else model.dtype
        most_blocks = max_num_seqs * -(-self.max_model_len // max(block_size, 1))
        if prepare_weights is None:
            prepare_weights = prepared_fit(
                model, block_size, cache_dtype, fraction=gpu_memory_fraction, num_blocks=num_blocks,
                most_blocks=most_blocks,
            )  # fmt: skip
        if num_blocks is None:
            fit = blocks_that_fit(
                model, block_size, cache_dtype, fraction=gpu_memory_fraction,
                step_tokens=max_num_batched_tokens, most_blocks=most_blocks,
                beside=model.preparing_bytes if prepare_weights else 0,
            )  # fmt: skip
            num_blocks = model.shard.least(fit, model.device)
        self.engine = Engine(
            num_blocks, block_size, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens,
            sliding_window=model.config.sliding_window, max_model_len=self.max_model_len, **scheduler,
        )  # fmt: skip
        self.cache = model.new_cache(
            num_blocks, block_size, num_swap_blocks=scheduler.get("num_swap_blocks", 0), dtype=cache_dtype
        )
        if prepare_weights or model.is_prepared:
            model.prepare()
        self.runner = StepRunner(
            self.engine, model, self.cache, token_by_token=deterministic, cuda_graphs=cuda_graphs
        )
        self._seeds = random.Random(seed)
        self._started = time.perf_counter()
        self._requests: dict[str, ServedRequest] = {}
        self._sequences: dict[str, ServedSequence] = {}  # by the scheduler's names
        self._lanes: dict[int, ServedSequence] = {}
        self._pending: deque[_Pending] = deque()
        self._numbered = self._empty_steps = 0

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        load_format: LoadFormat = "auto",
        model_seed: int = 0,
        tensor_parallel_size: int = 1,
        **options: Any,
    ) -> InferenceEngine:
        """Make an engine of a checkpoint's folder, or with random weights of a named shape.

        Args:
            folder_or_name, dtype, load_format: as for `load_mistral`.
            device: None takes a CUDA device where there is one.
            model_seed: of random weights.
            tensor_parallel_size: devices to split the model among, a process each, which end with the engine
                (`parallel_engine.py`); a script that asks for several guards its main part, as all that spawn
                processes do.
            **options: of the engine.

        Raises:
            Those of `load_mistral` and of the engine.
            InvalidArgumentError, DeviceError, ParallelError: the model cannot be split so, there are not as
                many devices, or a process could not start.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        asked: dict[str, Any] = {"dtype": dtype, "load_format": load_format, "model_seed": model_seed}
        if tensor_parallel_size == 1:
            return cls.loaded(folder_or_name, device, WHOLE, **asked, **options)
        # It builds on this class.
        from nano_batch.engine.parallel_engine import parallel_engine

        return parallel_engine(folder_or_name, tensor_parallel_size, device, **asked, **options)

    @classmethod
    def loaded(
        cls,
        folder_or_name: str | Path,
        device: torch.device | str,
        shard: Shard,
        *,
        dtype: torch.dtype | None,
        load_format: LoadFormat,
        model_seed: int,
        **options: Any,
    ) -> Self:
        """An engine over a part of a checkpoint's model; arguments and errors of `from_pretrained`."""
        model = load_mistral(
            folder_or_name, load_format=load_format, seed=model_seed, dtype=dtype, device=device, shard=shard
        )
        folder, tokenizer = Path(folder_or_name), None
        if load_format == "auto":
            options.setdefault("eos_token_ids", read_eos_token_ids(folder))
            if (folder / TOKENIZER).is_file():
                tokenizer = CheckpointTokenizer(folder)
        return cls(model, tokenizer, **options)

    def close(self) -> None:
        """End what runs outside of this process: the other ranks of a model that is split, else nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_unfinished(self) -> bool:
        """Whether any request is not at its end."""
        return bool(self._requests) or bool(self._pending)

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        """Queue a request; what is returned is filled by the steps that follow.

        Args:
            request_id: unlike any that is being served, and not of the form "name/number".
            prompt: token ids, or a string where there is a tokenizer.
            params: None, the defaults of `SamplingParams`.
            priority, cache_salt: as for `Engine.add_request`.

        Raises:
            DuplicateRequestError, ReservedRequestIdError, EmptyPromptError, InvalidTokenError,
            RequestTooLargeError, InvalidArgumentError; nothing is queued then.
        """
        params = self._resolved(SamplingParams() if params is None else params)
        tokens = self._tokens(prompt)
        most = self.model.config.vocab_size
        unknown = [token for token in params.stop_token_ids if token >= most]
        if unknown:
            raise InvalidTokenError(f"stop token {unknown[0]} is not from 0 to {most - 1}")
        if params.stop and self.tokenizer is None:
            raise InvalidArgumentError(f"stop={params.stop!r} needs a tokenizer; stop_token_ids needs none")
        arrival = time.perf_counter() - self._started
        options = {"arrival_time": arrival, "priority": priority, "cache_salt": cache_salt}
        return self._queue(request_id, tokens, params, options)

    def _queue(
        self, request_id: str, tokens: list[int], params: SamplingParams, options: dict[str, Any]
    ) -> RequestOutput:
        """Queue what needs no more of this process: no clock, no seed, no default."""
        self.engine.add_request(
            request_id, tokens, params.max_tokens, min_tokens=params.min_tokens, n=params.n,
            stop_token_ids=params.stop_token_ids, **options,
        )  # fmt: skip
        request = ServedRequest.of(request_id, tokens, params, self.tokenizer)
        self._requests[request_id] = request
        self._sequences[request_id] = request.sequences[0]
        self._sequences.update({sequence.name: sequence for sequence in request.sequences})
        return request.output

    def _resolved(self, params: SamplingParams) -> SamplingParams:
        """With a seed, and the model's end tokens among those that end the output."""
        seed = self._seeds.getrandbits(63) if params.seed is None else params.seed
        ends = () if params.ignore_eos else self.eos_token_ids
        return params.resolved(seed, ends)

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InvalidArgumentError("a prompt is a string, and there is no tokenizer: give token ids")
            return self.tokenizer.encode(prompt)
        try:
            tokens = np.asarray(prompt)
        except ValueError as error:
            raise InvalidTokenError(f"a prompt is no list of token ids: {error}") from error
        if tokens.size and (tokens.ndim != 1 or tokens.dtype.kind not in "iu"):
            raise InvalidTokenError(
                f"a prompt has dtype {tokens.dtype} and {tokens.ndim} dimensions; it needs token ids"
            )
        most = self.model.config.vocab_size
        wrong = tokens[(tokens < 0) | (tokens >= most)]
        if wrong.size:
            raise InvalidTokenError(f"token id {wrong[0]} is not from 0 to {most - 1}")
        if isinstance(prompt, list) and set(map(type, prompt)) <= {int}:
            return prompt.copy()  # its numbers as they are: to make others takes as long as all else here
        return cast(list[int], tokens.astype(np.int64).tolist())

    def step(self) -> list[RequestOutput]:
        """Plan and start a step, and take in the tokens of the oldest one; return the requests that moved.

        Raises:
            StalledError: there are requests, and none of them can be scheduled.
            Whatever the model raises: the requests of that step end with its name, the others stay.
        """
        moved: dict[str, RequestOutput] = {}
        try:
            self._take_in(self.steps_in_flight, moved)  # more are on their way after an interrupt
            # A step without rows took its turn, too: then one on its way may use the arrays that the next is
            # written to.
            if self._pending and self._pending[-1].launched.turn == self.runner.turn:
                self._take_in(0, moved)
            pending = self._launch() if self.engine.has_unfinished else None
            if pending is not None:
                self._pending.append(pending)
            self._take_in(0 if pending is None else self.steps_in_flight, moved)
        finally:
            self._forget(moved)
        return list(moved.values())

    def _take_in(self, left: int, moved: dict[str, RequestOutput]) -> None:
        """Take in the oldest steps on their way but for so many."""
        while len(self._pending) > left:
            self._await(self._pending[0].launched)  # interrupted here, the step is still to be taken in
            self._retire(self._pending.popleft(), moved)

    def _await(self, launched: Launched) -> None:
        launched.wait()

    def _launch(self) -> _Pending | None:
        counts = self.engine.step_arrays()
        arrays = self.runner.take_turn()
        taken = self._note_lanes()
        self._planned(counts)
        lanes = arrays["sample_lanes"][: counts.samples].tolist()
        sequences = [self._lanes[lane] for lane in lanes]
        if counts.rows == 0:
            self._check_progress()
        greedy = all(sequence.request.params.greedy for sequence in sequences)
        try:
            # Before all else: blocks of requests that the step does not compute are among them.
            self.cache.move(*self.engine.movement())
            for sequence, lane in taken:
                self._admit(sequence, lane)
            launched = self.runner.launch(counts, lanes, greedy=greedy)
        except BaseException as error:
            rows = arrays["lanes"][: counts.rows].tolist()
            self._abandon(counts.step, rows, counts.samples, type(error).__name__)
            raise
        # A lane may be another's before this step is taken in: who had it is noted now.
        failed = [self._lanes[lane] for lane in launched.out_of_memory]
        return _Pending(launched, sequences, failed) if counts.rows else None

    def _planned(self, counts: StepCounts) -> None:
        """A step has been planned and is not launched yet: where a subclass looks."""

    def _note_lanes(self) -> list[tuple[ServedSequence, int]]:
        """Who took which lane in the step just planned."""
        taken, left = self.engine.lane_changes()
        for name, _ in left:
            self._sequences[name].request.output.metrics.preemptions += 1
        for name, lane, cached in taken:
            sequence = self._lanes[lane] = self._sequences[name]
            metrics = sequence.request.output.metrics
            if np.isnan(metrics.first_scheduled_s):
                metrics.first_scheduled_s = time.perf_counter()
                metrics.cached_tokens = cached
        return [(self._lanes[lane], lane) for _, lane, _ in taken]

    def _admit(self, sequence: ServedSequence, lane: int) -> None:
        """Make the sampler's state of a lane anew."""
        request, output = sequence.request, sequence.output
        prompt = request.output.prompt_token_ids
        self.runner.sampler.admit(lane, request.params, output.index, prompt, output.token_ids)

    def _check_progress(self) -> None:
        self._empty_steps = 0 if self._pending else self._empty_steps + 1
        # A step may only move blocks; the step after it then schedules something.
        if self._empty_steps > _MOST_EMPTY_STEPS:
            raise StalledError(
                f"{self.engine.num_waiting} requests wait and {self.engine.num_running} run, but "
                f"{self._empty_steps} steps in a row scheduled none (limit {_MOST_EMPTY_STEPS})"
            )

    def _retire(self, pending: _Pending, moved: dict[str, RequestOutput]) -> None:
        """Take in a step's tokens; first what went wrong, for a faulty row's blocks must not be cached."""
        sampled = pending.launched.wait()
        tokens = sampled.tokens.tolist()
        for sequence in pending.out_of_memory:
            self._end(sequence, "out_of_memory", moved)
        for sequence, token in zip(pending.sequences, tokens, strict=True):
            if token < 0:
                self._end(sequence, "nan_logits", moved)
        given = np.maximum(np.array(tokens, np.int32), 0)
        ended = self.engine.update_arrays(pending.launched.step, given)
        now = time.perf_counter()
        for at, (sequence, token) in enumerate(zip(pending.sequences, tokens, strict=True)):
            if sequence.output.finish_reason is None:
                asked = sequence.request.params.logprobs
                told = None
                if asked is not None and sampled.logprobs is not None:
                    told = sampled.logprobs.of_sample(at, asked)
                self._give(sequence, token, told, now, ended, moved)
        self._note_ended(ended, moved)

    def _give(
        self,
        sequence: ServedSequence,
        token: int,
        logprobs: TokenLogprobs | None,
        now: float,
        ended: list[tuple[str, str]],
        moved: dict[str, RequestOutput],
    ) -> None:
        output = sequence.request.output
        moved[output.request_id] = output
        output.metrics.output_tokens += 1
        if np.isnan(output.metrics.first_token_s):
            output.metrics.first_token_s = now
        if sequence.take(token, logprobs) and not any(name == sequence.name for name, _ in ended):
            ended += self.engine.finish(sequence.name, "stop")

    def _end(self, sequence: ServedSequence, reason: str, moved: dict[str, RequestOutput]) -> None:
        """End a sequence for a reason of the engine's own; before its first token, its whole request."""
        if sequence.output.finish_reason is None:
            output = sequence.request.output
            name = sequence.name if output.metrics.output_tokens else output.request_id
            self._note_ended(self.engine.finish(name, reason), moved)

    def _note_ended(self, ended: list[tuple[str, str]], moved: dict[str, RequestOutput]) -> None:
        for name, reason in ended:
            first = self._sequences[name]
            request = first.request
            # Before the prompt's end the request's own id stands for all of its sequences.
            for sequence in [first] if name == first.name else request.sequences:
                sequence.end(reason)
            moved[request.output.request_id] = request.output
            if request.output.finished:
                request.output.metrics.finish_s = time.perf_counter()

    def _forget(self, moved: Mapping[str, RequestOutput]) -> None:
        for request_id, output in moved.items():
            if output.finished and request_id in self._requests:  # a step that failed has forgotten its own
                for name in self._requests.pop(request_id).names():
                    del self._sequences[name]
        if not self._requests:
            self._take_in(0, {})  # a step that computed tokens past the end of all keeps blocks

    def _abandon(self, step: int, lanes: list[int], samples: int, reason: str) -> None:
        """A planned step could not be run: its requests end, and the steps before it are taken in."""
        moved: dict[str, RequestOutput] = {}
        for lane in lanes:
            self._end(self._lanes[lane], reason, moved)
        self._take_in(0, moved)
        self.engine.update_arrays(step, np.zeros(samples, np.int32))
        self._forget(moved)

    def abort(self, request_id: str) -> RequestOutput:
        """End a request at once; what it has got stays. Raises `UnknownRequestError` unless it is served."""
        request = self._requests.get(request_id)
        if request is None:
            raise UnknownRequestError(f"request {request_id!r} is not being served")
        moved: dict[str, RequestOutput] = {}
        self._note_ended(self.engine.abort(request_id), moved)
        self._forget(moved)
        return request.output

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = True,
    ) -> list[RequestOutput]:
        """Serve prompts to their ends, and return their outputs in order.

        Args:
            prompts: strings or lists of token ids; one alone is a list of one.
            params: for all of them, or one for each.
            progress: show a bar.

        Raises:
            InvalidArgumentError: not as many parameters as prompts. And what `add_request` and `step` raise;
            then, and when interrupted, what was added here is aborted.
        """
        listed = _listed(prompts)
        each = (
            [params] * len(listed) if params is None or isinstance(params, SamplingParams) else list(params)
        )
        if len(each) != len(listed):
            raise InvalidArgumentError(f"{len(each)} sampling parameters are given for {len(listed)} prompts")
        outputs: list[RequestOutput] = []
        try:
            for prompt, one in zip(listed, each, strict=True):
                outputs.append(self.add_request(self._new_id(), prompt, one))
            with _bar(len(outputs), progress) as bar:
                while (left := sum(not output.finished for output in outputs)) > 0:
                    self.step()
                    bar.update(len(outputs) - left - bar.n)
                bar.update(len(outputs) - bar.n)
        except BaseException:
            self._abort_unfinished(outputs)
            raise
        return outputs

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        """Serve a prompt and give its output each time it has grown; a copy, which later steps do not touch.

        Leaving the iterator early aborts the request. Raises as `add_request` and `step`.
        """
        output = self.add_request(self._new_id(), prompt, params)
        try:
            while not output.finished:
                if any(moved is output for moved in self.step()):
                    yield deepcopy(output)
        finally:
            self._abort_unfinished([output])

    def _abort_unfinished(self, outputs: Sequence[RequestOutput]) -> None:
        for output in outputs:
            if output.request_id in self._requests and not output.finished:
                self.abort(output.request_id)

    def _new_id(self) -> str:
        self._numbered += 1
        return f"request-{self._numbered}"

    def __repr__(self) -> str:
        size = readable_bytes(self.cache.get_memory_usage().total_bytes)
        return (
            f"InferenceEngine({self.model!r},\n  KV cache of {self.cache.num_blocks:,} blocks of "
            f"{self.cache.block_size} ({size}); {len(self._requests)} requests are being served)"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("model", repr(self.model.config)),
            ("device, dtype", f"{self.model.device}, {self.model.dtype}"),
            ("weights", readable_bytes(self.model.weight_bytes)),
            (
                "KV cache",
                f"{self.cache.num_blocks:,} blocks of {self.cache.block_size} tokens, {self.cache.dtype}",
            ),
            ("memory of the KV cache", readable_bytes(self.cache.get_memory_usage().total_bytes)),
            (
                "at most",
                f"{self.engine.max_num_seqs} sequences, {self.engine.max_num_batched_tokens:,} tokens a step",
            ),
            ("requests", f"{self.engine.num_running} run, {self.engine.num_waiting} wait"),
        ]
        return html_table("InferenceEngine", ["", ""], rows)


def _checked_model_len(asked: int | None, most: int) -> int:
    if asked is None:
        return most
    if not 1 <= asked <= most:
        raise InvalidArgumentError(f"max_model_len={asked} is not from 1 to the model's {most}")
    return asked


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A prompt alone is a list of one: a string, or a sequence whose first element is a number."""
    if isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int | np.integer)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _bar(total: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="requests", disable=not shown)
