"""The engine for coroutines: many of them wait for their requests, which share its batch.

One task drives the engine: a step runs in a thread, so that the event loop stays free, and between two steps
requests are added and aborted, and what has grown is handed to whoever waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from copy import deepcopy

from nano_batch.engine.inference_engine import InferenceEngine, Prompt
from nano_batch.engine.outputs import RequestOutput
from nano_batch.engine.sampling_params import SamplingParams
from nano_batch.errors import EngineClosedError


class _Waiting:
    """A request that a coroutine waits for: its newest copy, or what ended it."""

    def __init__(self, output: RequestOutput) -> None:
        self.output = output  # the engine's own: steps go on filling it
        self.copy: RequestOutput | None = None
        self.error: BaseException | None = None
        self.news = asyncio.Event()

    def tell(self, error: BaseException | None = None) -> None:
        self.copy, self.error = deepcopy(self.output), error
        self.news.set()

    async def next(self) -> RequestOutput:
        await self.news.wait()
        self.news.clear()
        if self.error is not None:
            raise self.error
        assert self.copy is not None
        return self.copy


class AsyncInferenceEngine:
    """Serves coroutines of one event loop; the engine is not to be driven by anybody else meanwhile.

    Args:
        engine: what serves. It stays usable after `aclose`.
    """

    def __init__(self, engine: InferenceEngine) -> None:
        """Take an engine; nothing runs before the first request."""
        self.engine = engine
        self._waiting: dict[str, _Waiting] = {}
        self._between_steps: list[Callable[[], object]] = []
        self._driver: asyncio.Task[None] | None = None
        self._closed = False
        self._numbered = 0

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Serve a prompt, and give a copy of its output when it has grown; the last one has finished.

        Whoever is slow misses copies, no tokens: each holds all that came before it. Leaving the iterator
        early, or being cancelled in it, aborts the request.

        Args:
            prompt, params, priority, cache_salt: as for `InferenceEngine.add_request`.

        Raises:
            EngineClosedError: after `aclose`.
            Those of `InferenceEngine.add_request`, and what a step raises that ends this request.
        """
        self._numbered += 1
        name = f"coroutine-{self._numbered}"
        added: asyncio.Future[_Waiting] = asyncio.get_running_loop().create_future()

        def add() -> None:
            if added.cancelled():
                return
            try:
                output = self.engine.add_request(
                    name, prompt, params, priority=priority, cache_salt=cache_salt
                )
            except Exception as error:
                added.set_exception(error)
            else:
                self._waiting[name] = _Waiting(output)
                added.set_result(self._waiting[name])

        self._do_between_steps(add)
        try:
            waiting, finished = await added, False
            while not finished:
                output = await waiting.next()
                finished = output.finished
                yield output
        finally:
            if name in self._waiting and not self._closed:
                self._do_between_steps(lambda: self._abort(name))

    def _do_between_steps(self, act: Callable[[], object]) -> None:
        if self._closed:
            raise EngineClosedError("this AsyncInferenceEngine is closed")
        self._between_steps.append(act)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())

    def _abort(self, name: str) -> None:
        if name in self._waiting:
            waiting = self._waiting.pop(name)
            self.engine.abort(name)
            waiting.tell()

    def _abort_all(self) -> list[_Waiting]:
        waiting = list(self._waiting.values())
        for name in list(self._waiting):
            self._abort(name)
        return waiting

    async def _drive(self) -> None:
        """Run steps for as long as there is something to do."""
        try:
            while self._between_steps or self.engine.has_unfinished:
                acts, self._between_steps = self._between_steps, []
                for act in acts:
                    act()
                if self.engine.has_unfinished:
                    await self._step()
        except asyncio.CancelledError:  # the event loop ends, and nobody is left to wait
            self._abort_all()
            raise

    async def _step(self) -> None:
        step = asyncio.ensure_future(asyncio.to_thread(self.engine.step))
        try:
            moved = await asyncio.shield(step)
        except asyncio.CancelledError:
            await asyncio.wait([step])  # a thread cannot be left in the middle of a step
            raise
        except Exception as error:
            self._fail(error)
        else:
            self._hand_out(moved)

    def _hand_out(self, moved: list[RequestOutput]) -> None:
        for output in moved:
            waiting = self._waiting.get(output.request_id)
            if waiting is not None:
                waiting.tell()
                if output.finished:
                    del self._waiting[output.request_id]

    def _fail(self, error: Exception) -> None:
        """Whose requests a failed step ended gets its error; where it ended none, it cannot go on for any."""
        reason, failed = type(error).__name__, False
        for name, waiting in list(self._waiting.items()):
            if waiting.output.finished:
                mine = any(one.finish_reason == reason for one in waiting.output.sequences)
                failed |= mine
                del self._waiting[name]
                waiting.tell(error if mine else None)
        if not failed:
            for waiting in self._abort_all():
                waiting.tell(error)

    async def aclose(self) -> None:
        """Abort all requests, whose coroutines get what there is, and wait for the step that is running."""
        self._closed = True
        if self._driver is not None and not self._driver.done():
            self._between_steps.append(self._abort_all)
            await self._driver

    async def __aenter__(self) -> AsyncInferenceEngine:
        """Nothing is to be done: `aclose` follows at the end."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._waiting)} requests are waited for"
        return f"AsyncInferenceEngine({state}) over {self.engine!r}"

    def _repr_html_(self) -> str:
        return self.engine._repr_html_()
