"""What the engine says of a request: tokens, text, why it ended, and when what happened."""

from __future__ import annotations

from dataclasses import dataclass, field

from nano_batch.display import Shown, html_table, number


@dataclass(repr=False)
class RequestMetrics(Shown):
    """A request's times, in seconds on the clock of `time.perf_counter`; NaN for what has not happened.

    A token's time is when the host has it. With n > 1, tokens of all sequences are counted together.
    """

    arrival_s: float
    prompt_tokens: int
    first_scheduled_s: float = float("nan")
    first_token_s: float = float("nan")
    finish_s: float = float("nan")
    cached_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0

    @property
    def ttft_s(self) -> float:
        """Time to first token: from arrival."""
        return self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first; NaN for a single token."""
        later = self.output_tokens - 1
        return (self.finish_s - self.first_token_s) / later if later > 0 else float("nan")

    @property
    def e2e_s(self) -> float:
        """From arrival to the end."""
        return self.finish_s - self.arrival_s

    def __repr__(self) -> str:
        return (
            f"RequestMetrics(TTFT {number(1e3 * self.ttft_s)} ms, TPOT {number(1e3 * self.tpot_s)} ms, "
            f"{self.output_tokens} tokens)"
        )


@dataclass(frozen=True, repr=False)
class TokenLogprobs(Shown):
    """Natural logarithms of probabilities at one place of an output, of the model's own distribution."""

    logprob: float  # of the token that was taken
    top_ids: list[int]  # the likeliest tokens, likeliest first, as many as were asked for
    top_logprobs: list[float]

    def __repr__(self) -> str:
        return f"TokenLogprobs({number(self.logprob)}, {len(self.top_ids)} likeliest)"


@dataclass(repr=False)
class SequenceOutput(Shown):
    """One of a request's n sequences so far."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    text: str | None = None  # None without a tokenizer
    finish_reason: str | None = None  # "stop", "length", "abort", or what went wrong; None: it goes on
    logprobs: list[TokenLogprobs] | None = None  # an entry a token, where they were asked for

    def __repr__(self) -> str:
        return (
            f"SequenceOutput({self.index}: {len(self.token_ids)} tokens, {self.finish_reason or 'going on'})"
        )


@dataclass(repr=False)
class RequestOutput:
    """A request and all that came of it so far: the engine goes on filling it until it has finished."""

    request_id: str
    prompt_token_ids: list[int]
    sequences: list[SequenceOutput]  # n of them
    metrics: RequestMetrics

    @property
    def token_ids(self) -> list[int]:
        """Output tokens of the first sequence."""
        return self.sequences[0].token_ids

    @property
    def text(self) -> str | None:
        """Text of the first sequence; None without a tokenizer."""
        return self.sequences[0].text

    @property
    def finish_reason(self) -> str | None:
        """Why the first sequence ended."""
        return self.sequences[0].finish_reason

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        """Those of the first sequence."""
        return self.sequences[0].logprobs

    @property
    def finished(self) -> bool:
        """Whether all sequences have ended."""
        return all(sequence.finish_reason is not None for sequence in self.sequences)

    def __repr__(self) -> str:
        many = f" x {len(self.sequences)} sequences" if len(self.sequences) > 1 else ""
        return (
            f"RequestOutput({self.request_id!r}: {len(self.prompt_token_ids)} prompt tokens, "
            f"{len(self.token_ids)} output tokens{many}, {self.finish_reason or 'going on'})"
        )

    def _repr_html_(self) -> str:
        rows = [
            (one.index, len(one.token_ids), one.finish_reason or "going on",
             one.text if one.text is not None else " ".join(map(str, one.token_ids)))
            for one in self.sequences
        ]  # fmt: skip
        return html_table(repr(self), ["sequence", "tokens", "ended", "output"], rows)
