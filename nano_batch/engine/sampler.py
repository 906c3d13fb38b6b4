"""Chooses the tokens of a step on the device, which the host does not wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nano_batch.display import Shown, html_table
from nano_batch.engine.choice import MAX_VOCAB, NO_TOKEN, draw, greedy, likeliest, weights_of
from nano_batch.engine.filters import keep_min_p, keep_top
from nano_batch.engine.lanes import (
    FREQUENCY,
    MIN_P,
    MIN_TOKENS,
    PLACE,
    PRESENCE,
    REPETITION,
    STREAM,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    LaneParameters,
    Users,
)
from nano_batch.engine.logprobs import Logprobs
from nano_batch.engine.penalties import StopTokens, TokenHistory, Tokens, on_device
from nano_batch.engine.pinned import copy_pinned
from nano_batch.engine.random_numbers import uniforms
from nano_batch.engine.sampling_params import SamplingParams
from nano_batch.errors import DeviceError, DtypeError, InvalidArgumentError, InvalidTokenError, ShapeError


@dataclass(frozen=True, eq=False, repr=False)
class Sampled(Shown):
    """The tokens of a step, on the device or copied from there."""

    tokens: torch.Tensor  # [samples] int64; −1 where the logits hold NaN or +inf, or nothing finite
    logprobs: Logprobs | None = None  # of the rows that ask for them

    def to_host(self, memory: torch.Tensor) -> Sampled:
        """A copy in pinned memory, complete once the device's stream has come here.

        Args:
            memory: int64, pinned, of as many tokens or more: where the tokens go.
        """
        logprobs = None if self.logprobs is None else self.logprobs.to_host()
        tokens = memory[: len(self.tokens)]
        copy_pinned(tokens, self.tokens)
        return Sampled(tokens, logprobs)

    def __repr__(self) -> str:
        return f"Sampled: {len(self.tokens)} tokens, {'no' if self.logprobs is None else 'with'} logprobs"


class Sampler:
    """Samples by the parameters of each lane, whose state it keeps on the device.

    A row's token depends on its logits, its parameters and what its request holds so far, and its random
    number on (seed, sequence index, place in the output) alone: not on the lane, nor on who else is in the
    step. A request that is admitted again goes on as if it had never left.
    """

    def __init__(
        self,
        max_num_seqs: int,
        vocab_size: int,
        device: torch.device | str = "cpu",
        *,
        eos_token_id: int | None = None,
    ) -> None:
        """Make the state of `max_num_seqs` lanes; that of penalties is allocated when first needed.

        Raises:
            InvalidArgumentError: no lanes, or a vocabulary that is empty or of more than 2²² tokens.
        """
        if max_num_seqs < 1:
            raise InvalidArgumentError(f"max_num_seqs is {max_num_seqs}; it must be at least 1")
        if not 1 <= vocab_size <= MAX_VOCAB:
            raise InvalidArgumentError(f"vocab_size is {vocab_size}; it must be from 1 to {MAX_VOCAB}")
        self.max_num_seqs, self.vocab_size = max_num_seqs, vocab_size
        self.device, self.eos_token_id = torch.empty(0, device=device).device, eos_token_id
        self._sizes = max_num_seqs, vocab_size, self.device
        self._lanes = LaneParameters(*self._sizes)
        self._history: TokenHistory | None = None
        self._stops: StopTokens | None = None

    def __repr__(self) -> str:
        return f"Sampler: {self.max_num_seqs} lanes, {self.vocab_size:,} tokens, on {self.device}"

    def _repr_html_(self) -> str:
        taken = [(lane, params) for lane, params in enumerate(self._lanes.params) if params is not None]
        return html_table(repr(self), ["lane", "parameters"], taken)

    def admit(
        self,
        lane: int,
        params: SamplingParams,
        sequence_index: int,
        prompt_token_ids: Tokens,
        output_token_ids: Tokens,
    ) -> None:
        """Give a lane to a sequence of a request, which may have tokens already. The host does not wait.

        Args:
            lane: 0 to max_num_seqs − 1; whoever had it is forgotten.
            params: with a seed, unless the temperature is 0.
            sequence_index: 0 to n − 1.
            prompt_token_ids: the request's prompt.
            output_token_ids: what the sequence has sampled so far, the newest token included.

        Raises:
            InvalidArgumentError: no such lane, a negative sequence index or no seed; the state is unchanged.
            InvalidTokenError: a token that matters (of a penalty or a stop) is outside of the vocabulary.
        """
        if not 0 <= lane < self.max_num_seqs:
            raise InvalidArgumentError(f"lane is {lane}; it must be from 0 to {self.max_num_seqs - 1}")
        if sequence_index < 0:
            raise InvalidArgumentError(f"sequence_index is {sequence_index}; it must be at least 0")
        if params.seed is None and params.temperature > 0:
            raise InvalidArgumentError("seed is None; sampling at a temperature above 0 needs a number")
        stops = self._stop_tokens(params)
        if params.penalised:
            self._check_tokens("prompt_token_ids", prompt_token_ids)
            self._check_tokens("output_token_ids", output_token_ids)
        if params.min_tokens > 1:
            self._check_tokens("stop_token_ids", stops)
            self._stops = self._stops or StopTokens(*self._sizes)
            self._stops.admit(lane, stops)
        if params.penalised:
            self._history = self._history or TokenHistory(*self._sizes)
            self._history.admit(lane, prompt_token_ids, output_token_ids)
        self._lanes.admit(lane, params, sequence_index, len(output_token_ids))

    def only_greedy(self, host_lanes: Sequence[int] | npt.NDArray[np.integer]) -> bool:
        """Whether `greedy` chooses the tokens of all these lanes: then `sample` need not be called."""
        return self._lanes.users(np.asarray(host_lanes, dtype=np.int64)).all_greedy

    def sample(
        self,
        logits: torch.Tensor,
        lanes: torch.Tensor,
        host_lanes: Sequence[int] | npt.NDArray[np.integer],
    ) -> Sampled:
        """Choose a token for each row, and move its lane to the next place. The host does not wait.

        Args:
            logits: [samples, vocab_size], of any float dtype; not changed.
            lanes: int64 [samples] on the device, no lane twice, all admitted.
            host_lanes: the same lanes on the host.

        Raises:
            ShapeError, DtypeError, DeviceError: a tensor does not fit; the state is unchanged.
            InvalidArgumentError: a lane that nobody was admitted to.
        """
        self._check(logits, lanes, len(host_lanes))
        users = self._lanes.users(np.asarray(host_lanes, dtype=np.int64))
        if users.all_greedy:
            return Sampled(greedy(logits))
        raw = logits.float()
        tokens = self._choose(raw, lanes, users)
        self._lanes.advance(lanes)
        if len(users.penalised) and self._history is not None:
            rows = self._index(users.penalised)
            self._history.add(lanes[rows], tokens[rows])
        if not len(users.logprobs):
            return Sampled(tokens)
        rows = self._index(users.logprobs)
        return Sampled(tokens, Logprobs.of(users.logprobs, raw[rows], tokens[rows]))

    def _choose(self, raw: torch.Tensor, lanes: torch.Tensor, users: Users) -> torch.Tensor:
        largest, tokens = likeliest(raw)
        numbers, counts = self._lanes.of(lanes)
        scores = self._adjusted(raw, lanes, users, numbers.float(), counts)
        if scores is not raw:
            largest, best = likeliest(scores)
            tokens = torch.where(tokens < 0, NO_TOKEN, best)
        if not users.draws:
            return tokens
        temperature = numbers[TEMPERATURE].float()
        weights = weights_of(scores, largest, torch.where(temperature > 0, temperature, 1.0))
        drawn = draw(self._filtered(weights, users, numbers, counts), uniforms(counts[STREAM], counts[PLACE]))
        return torch.where((temperature > 0) & (tokens >= 0), drawn, tokens)

    def _adjusted(
        self,
        logits: torch.Tensor,
        lanes: torch.Tensor,
        users: Users,
        numbers: torch.Tensor,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        """Penalties and barred stop tokens, in the rows that have them; `logits` itself where none has."""
        if len(users.penalised) and self._history is not None:
            rows = self._index(users.penalised)
            penalties = numbers[REPETITION, rows], numbers[PRESENCE, rows], numbers[FREQUENCY, rows]
            penalised = self._history.penalise(logits[rows], lanes[rows], *penalties)
            logits = logits.index_copy(0, rows, penalised)
        if len(users.barred) and self._stops is not None:
            rows = self._index(users.barred)
            short = counts[PLACE, rows] + 1 < counts[MIN_TOKENS, rows]
            logits = logits.index_copy(0, rows, self._stops.bar(logits[rows], lanes[rows], short))
        return logits

    def _filtered(
        self, weights: torch.Tensor, users: Users, numbers: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        if len(users.top):
            rows = self._index(users.top)
            kept = keep_top(weights[rows], counts[TOP_K, rows], numbers[TOP_P, rows], users.widest)
            weights = weights.index_copy(0, rows, kept)
        return keep_min_p(weights, numbers[MIN_P]) if users.min_p else weights

    def _index(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        return on_device(rows, self.device)

    def _stop_tokens(self, params: SamplingParams) -> list[int]:
        ends = [] if params.ignore_eos or self.eos_token_id is None else [self.eos_token_id]
        return [*params.stop_token_ids, *ends]

    def _check_tokens(self, name: str, tokens: Tokens) -> None:
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise InvalidTokenError(f"{name} holds {worst}; a token id is from 0 to {self.vocab_size - 1}")

    def _check(self, logits: torch.Tensor, lanes: torch.Tensor, samples: int) -> None:
        if tuple(logits.shape) != (samples, self.vocab_size):
            needed = [samples, self.vocab_size]
            raise ShapeError(f"logits have shape {list(logits.shape)}; these lanes need {needed}")
        if tuple(lanes.shape) != (samples,):
            raise ShapeError(f"lanes has shape {list(lanes.shape)}; host_lanes has {samples}")
        if not logits.is_floating_point() or lanes.dtype != torch.int64:
            raise DtypeError(
                f"logits are {logits.dtype} and lanes {lanes.dtype}; they must be float and int64"
            )
        if logits.device != self.device or lanes.device != self.device:
            raise DeviceError(f"logits are on {logits.device}, lanes on {lanes.device}; not on {self.device}")
