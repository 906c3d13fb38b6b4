"""Samples a step's tokens on the device, each row from its own parameters; nothing waits for the device.

What a sequence needs lives by lane on the device: parameters, seed, how many tokens it has got, and where
penalties ask for it which. A step may so be sampled before the host has seen the tokens of the one before it.
Which work there is to do is decided on the host, which knows the parameters of each lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nano_batch.engine.outputs import TokenLogprobs
from nano_batch.engine.random_numbers import uniform
from nano_batch.engine.sampling_params import SamplingParams

# Columns of the lanes' parameters.
TEMPERATURE, TOP_K, TOP_P, MIN_P, REPETITION, PRESENCE, FREQUENCY = range(7)
# Columns of the lanes' counters.
SEED, SEQUENCE, PLACE = range(3)


@dataclass(frozen=True)
class Sampled:
    """What a step sampled."""

    tokens: torch.Tensor  # [samples] int64; -1 where the logits were no numbers
    logprobs: torch.Tensor | None = None  # [samples] float32, of the tokens
    top_ids: torch.Tensor | None = None  # [samples, k] int64, the likeliest, k the most that a row asked for
    top_logprobs: torch.Tensor | None = None  # [samples, k] float32

    def to_host(self) -> Sampled:
        """A copy in pinned memory, complete once the device's stream has come here."""
        parts = (self.tokens, self.logprobs, self.top_ids, self.top_logprobs)
        return Sampled(*(None if part is None else part.to("cpu", non_blocking=True) for part in parts))  # type: ignore[arg-type]

    def logprobs_of(self, sample: int, count: int | None) -> TokenLogprobs | None:
        """A sample's log probabilities with `count` likeliest; None where they were not asked for."""
        if count is None or self.logprobs is None or self.top_ids is None or self.top_logprobs is None:
            return None
        top = self.top_ids[sample, :count].tolist(), self.top_logprobs[sample, :count].tolist()
        return TokenLogprobs(float(self.logprobs[sample]), *top)


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """[rows, vocab_size] -> [rows] int64, the likeliest tokens; -1 for a row that holds NaN or infinity.

    A CUDA graph can hold it.
    """
    largest, token = logits.max(dim=1)
    return torch.where(largest.isfinite(), token, -1)


class Sampler:
    """The sampling state of all lanes.

    Args:
        max_num_seqs: lanes.
        vocab_size: columns of the logits.
        device: of the logits.
    """

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        """Begin with empty lanes."""
        self.vocab_size, self.device = vocab_size, device
        self._params = [SamplingParams()] * max_num_seqs  # the host's copy
        self._numbers = torch.zeros(max_num_seqs, 7, dtype=torch.float32, device=device)
        self._counters = torch.zeros(max_num_seqs, 3, dtype=torch.int64, device=device)
        self._admitted: dict[int, tuple[list[float], list[int]]] = {}  # not on the device yet
        # Allocated when a request is penalised: [lanes, vocab_size].
        self._in_prompt: torch.Tensor | None = None
        self._in_output: torch.Tensor | None = None

    def admit(
        self,
        lane: int,
        params: SamplingParams,
        seed: int,
        sequence: int,
        prompt_token_ids: Sequence[int],
        output_token_ids: Sequence[int],
    ) -> None:
        """A sequence takes a lane, for the first time or again after it lost another.

        Args:
            lane: below `max_num_seqs`.
            params: of its request; `seed` stands for theirs.
            sequence: its index among the request's n.
            prompt_token_ids, output_token_ids: what it has.
        """
        self._params[lane] = params
        top_k = min(params.top_k or self.vocab_size, self.vocab_size)
        numbers = [params.temperature, top_k, params.top_p, params.min_p]
        numbers += [params.repetition_penalty, params.presence_penalty, params.frequency_penalty]
        self._admitted[lane] = numbers, [seed, sequence, len(output_token_ids)]
        if params.penalised:
            self._remember(lane, prompt_token_ids, output_token_ids)

    def _remember(self, lane: int, prompt: Sequence[int], output: Sequence[int]) -> None:
        if self._in_prompt is None or self._in_output is None:
            shape = len(self._params), self.vocab_size
            self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=self.device)
            self._in_output = torch.zeros(shape, dtype=torch.int32, device=self.device)
        self._in_prompt[lane] = False
        self._in_prompt[lane, torch.tensor(prompt, dtype=torch.int64, device=self.device)] = True
        tokens = torch.tensor(output, dtype=torch.int64, device=self.device)
        self._in_output[lane] = torch.bincount(tokens, minlength=self.vocab_size).int()

    def sample(self, logits: torch.Tensor, lanes: torch.Tensor, host_lanes: Sequence[int]) -> Sampled:
        """Choose a token for each row, and count it.

        Args:
            logits: [samples, vocab_size], any float dtype; not changed.
            lanes: [samples] int64, on the device.
            host_lanes: the same on the host.
        """
        self._upload()
        params = [self._params[lane] for lane in host_lanes]
        numbers, counters = self._numbers[lanes], self._counters[lanes]
        raw = logits.float()
        scores = self._penalised(raw, lanes, numbers, params)
        scores = self._without_stops(scores, counters, params)
        likeliest = greedy(scores)
        tokens = likeliest
        if any(one.temperature > 0 for one in params):
            drawn = _drawn(scores, numbers, counters, [row for row, one in enumerate(params) if one.filtered])
            # Where no score is a number there is nothing to draw from, either.
            tokens = torch.where((numbers[:, TEMPERATURE] > 0) & (likeliest >= 0), drawn, likeliest)
        self._count(lanes, tokens, params)
        return Sampled(tokens, *_logprobs(raw, tokens, params))

    def _upload(self) -> None:
        if not self._admitted:
            return
        lanes = torch.tensor(list(self._admitted), device=self.device)
        numbers, counters = zip(*self._admitted.values(), strict=True)
        self._numbers[lanes] = torch.tensor(numbers, dtype=torch.float32, device=self.device)
        self._counters[lanes] = torch.tensor(counters, dtype=torch.int64, device=self.device)
        self._admitted.clear()

    def _penalised(
        self, scores: torch.Tensor, lanes: torch.Tensor, numbers: torch.Tensor, params: list[SamplingParams]
    ) -> torch.Tensor:
        rows = [row for row, one in enumerate(params) if one.penalised]
        if not rows or self._in_prompt is None or self._in_output is None:
            return scores
        chosen = torch.tensor(rows, device=self.device)
        lanes, numbers = lanes[chosen], numbers[chosen, :, None]
        counts, part = self._in_output[lanes], scores[chosen]
        factor = numbers[:, REPETITION]
        repeated = torch.where(part > 0, part / factor, part * factor)
        part = torch.where(self._in_prompt[lanes] | (counts > 0), repeated, part)
        part = part - numbers[:, PRESENCE] * (counts > 0) - numbers[:, FREQUENCY] * counts
        return scores.index_copy(0, chosen, part)

    def _without_stops(
        self, scores: torch.Tensor, counters: torch.Tensor, params: list[SamplingParams]
    ) -> torch.Tensor:
        rows = [row for row, one in enumerate(params) if one.waits_to_stop]
        if not rows:
            return scores
        scores = scores.clone()
        for row in rows:
            known = [token for token in params[row].stop_token_ids if token < self.vocab_size]
            stops = torch.tensor(known, dtype=torch.int64, device=self.device)
            early = counters[row, PLACE] < params[row].min_tokens
            scores[row, stops] = torch.where(early, -torch.inf, scores[row, stops])
        return scores

    def _count(self, lanes: torch.Tensor, tokens: torch.Tensor, params: list[SamplingParams]) -> None:
        self._counters[lanes, PLACE] += 1
        if self._in_output is not None and any(one.penalised for one in params):
            one = torch.ones_like(tokens, dtype=torch.int32)
            self._in_output.index_put_((lanes, tokens.clamp(min=0)), one, accumulate=True)


def _drawn(
    scores: torch.Tensor, numbers: torch.Tensor, counters: torch.Tensor, filtered: list[int]
) -> torch.Tensor:
    """A token of each row at its temperature; of the `filtered` rows only those that their filters leave."""
    number = uniform(*counters.unbind(1))
    temperature = numbers[:, TEMPERATURE, None]
    # The largest is taken off first: divided by a small temperature, it would be infinite.
    below = scores - scores.amax(1, keepdim=True)
    weights = (below / torch.where(temperature > 0, temperature, 1)).exp()
    tokens = _first_beyond(weights, number)
    if filtered:
        rows = torch.tensor(filtered, device=scores.device)
        weights, order = torch.sort(weights[rows], dim=1, descending=True, stable=True)
        kept = _kept(weights, numbers[rows])
        place = _first_beyond(torch.where(kept, weights, 0), number[rows])
        tokens = tokens.index_copy(0, rows, order.gather(1, place[:, None])[:, 0])
    return tokens


def _kept(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Which of the weights, largest first and at most 1, top-k, top-p and min-p leave; always the first."""
    columns = numbers[:, :, None]
    rank = torch.arange(weights.shape[1], device=weights.device)
    kept = rank < columns[:, TOP_K]
    total = torch.where(kept, weights.double(), 0).cumsum(1)
    before = total - torch.where(kept, weights.double(), 0)
    kept &= (before < columns[:, TOP_P].double() * total[:, -1:]) | (columns[:, TOP_P] >= 1)
    kept &= weights >= columns[:, MIN_P]
    return kept | (rank == 0)


def _first_beyond(weights: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """The place in each row where the sum of weights passes `number` (from 0 to 1) times their total."""
    sums = weights.double().cumsum(1)
    place = torch.searchsorted(sums, number[:, None] * sums[:, -1:], right=True)[:, 0]
    # Rounding may leave the target at the total: then the last of the weights that count for something.
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())[:, 0]
    # A row that is no number may find no place.
    return torch.minimum(place, last).clamp(max=weights.shape[1] - 1)


def _logprobs(
    raw: torch.Tensor, tokens: torch.Tensor, params: list[SamplingParams]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | tuple[()]:
    asked = [one.logprobs for one in params if one.logprobs is not None]
    if not asked:
        return ()
    logprobs = raw.log_softmax(1)
    top, ids = logprobs.topk(min(max(asked), raw.shape[1]), dim=1)
    return logprobs.gather(1, tokens.clamp(min=0)[:, None])[:, 0], ids, top
