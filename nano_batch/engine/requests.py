"""The requests that an engine serves, from the host's side: what they asked for and what they have got."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from nano_batch.engine.outputs import RequestMetrics, RequestOutput, SequenceOutput, TokenLogprobs
from nano_batch.engine.sampling_params import SamplingParams
from nano_batch.engine.text import GrowingText, Tokenizer


@dataclass
class ServedSequence:
    """One of a request's n sequences; `name` is what the scheduler calls it once the prompt is computed."""

    name: str
    request: ServedRequest
    output: SequenceOutput
    growing: GrowingText | None
    cut: bool = False  # at a stop string, after which nothing is given out

    def take(self, token: int, logprobs: TokenLogprobs | None) -> bool:
        """Append a token; whether a stop string is now complete."""
        self.output.token_ids.append(token)
        if self.output.logprobs is not None and logprobs is not None:
            self.output.logprobs.append(logprobs)
        if self.growing is not None:
            told = len(self.growing.text)
            self.growing.add(token)
            self._tell(self.growing.text, told)
        return self.cut

    def end(self, reason: str) -> None:
        """It has ended; text that waited for more tokens is given out, unless a stop string came first."""
        if self.output.finish_reason is not None:
            return
        if self.growing is not None and not self.cut:
            told = len(self.growing.text)
            self.growing.end()
            self._tell(self.growing.text, told)
        self.output.finish_reason = "stop" if self.cut else reason

    def _tell(self, text: str, told: int) -> None:
        """Give out text, cut at the first stop string in it, of which at most the end lies after `told`."""
        found = [
            place
            for stop in self.request.params.stop
            if (place := text.find(stop, max(0, told - len(stop) + 1))) >= 0
        ]
        self.cut = bool(found)
        self.output.text = text[: min(found)] if found else text


@dataclass
class ServedRequest:
    """A request that is being served."""

    params: SamplingParams
    output: RequestOutput
    sequences: list[ServedSequence] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        request_id: str,
        prompt: list[int],
        params: SamplingParams,
        tokenizer: Tokenizer | None,
    ) -> ServedRequest:
        """A request that has just arrived."""
        outputs = [
            SequenceOutput(
                index,
                text=None if tokenizer is None else "",
                logprobs=None if params.logprobs is None else [],
            )
            for index in range(params.n)
        ]
        metrics = RequestMetrics(time.perf_counter(), len(prompt))
        request = cls(params, RequestOutput(request_id, prompt, outputs, metrics))
        for output in outputs:
            name = request_id if params.n == 1 else f"{request_id}/{output.index}"
            growing = None if tokenizer is None else GrowingText(tokenizer)
            request.sequences.append(ServedSequence(name, request, output, growing))
        return request

    def names(self) -> list[str]:
        """What the scheduler may call its sequences: before the prompt's end all go by the request's id."""
        names = [sequence.name for sequence in self.sequences]
        return names if len(names) == 1 else [self.output.request_id, *names]
