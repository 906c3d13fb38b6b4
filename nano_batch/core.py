"""The engine's friendly form: one class over the compiled core, and what it returns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from nano_batch import _core
from nano_batch._core import BlockCache, StepCounts
from nano_batch._version import VERSION
from nano_batch.display import html_table
from nano_batch.errors import EventLogOffError, InvalidBufferError, StaleBuildError, UnknownOptionError
from nano_batch.records.events import EventLog, State

if TYPE_CHECKING:
    import torch

__all__ = ["BlockCache", "Engine", "EventLog", "SchedulerOutput", "Snapshot", "StepCounts", "belady_hits"]

if _core.__version__ != VERSION:
    raise StaleBuildError(
        f"the compiled core is version {_core.__version__}, the package {VERSION}: build it again"
    )

Policy = Literal["fcfs", "priority", "sjf", "lpm", "static", "prefill_first"]
Preemption = Literal["recompute", "swap"]
Eviction = Literal["lru", "lfu", "fifo"]
IntArray = npt.NDArray[np.int32]
Pairs = list[tuple[int, int]]

DEFAULT_EVENT_CAPACITY = 4_000_000


@dataclass(frozen=True)
class SchedulerOutput:
    """One step of the schedule. Lists of one entry a request share the order of `scheduled_requests`.

    Before the step's writes the driver executes `swap_out`, `swap_in` and `copies`, in this order.
    """

    step: int
    #: ids, decodes first, then prefill chunks
    scheduled_requests: list[str]
    #: physical blocks of each request; −1 where a sliding window has passed
    block_tables: list[list[int]]
    #: flat [tokens of the step], `block × block_size + offset`, what `KVCache.write_kv` takes
    slot_mappings: list[int]
    num_tokens_per_request: list[int]
    #: the position of each request's first token of this step
    num_computed_tokens: list[int]
    #: flat [tokens of the step], the input tokens (0 where a request is only a length)
    token_ids: list[int]
    #: ids whose step ends with a token: what `Engine.update` awaits
    sampled_requests: list[str]
    #: ids that lost their blocks to others in this step
    preempted: list[str]
    #: (id, reason) of what ended since the step before
    finished: list[tuple[str, str]]
    #: prompt tokens found in the prefix cache by requests admitted in this step, else 0
    num_cached_tokens: list[int]
    #: (device block, host block)
    swap_out: Pairs
    #: (host block, device block)
    swap_in: Pairs
    #: (source block, destination block)
    copies: Pairs
    #: how many of the scheduled requests decode
    num_decodes: int

    def __repr__(self) -> str:
        tokens = sum(self.num_tokens_per_request)
        return (
            f"SchedulerOutput(step={self.step}, requests={len(self.scheduled_requests)}, tokens={tokens},\n"
            f"  decodes={self.num_decodes}, sampled={len(self.sampled_requests)},"
            f" preempted={len(self.preempted)}, finished={len(self.finished)})"
        )

    def _repr_html_(self) -> str:
        rows = zip(
            self.scheduled_requests,
            self.num_computed_tokens,
            self.num_tokens_per_request,
            self.num_cached_tokens,
            (" ".join(map(str, table)) for table in self.block_tables),
            strict=True,
        )
        return html_table(
            f"step {self.step}", ["request", "from token", "tokens", "cached", "block table"], list(rows)
        )


@dataclass(frozen=True, eq=False, repr=False)
class Snapshot(State):
    """The engine's state now, with the names and the queues."""

    #: ids in rank order
    running: list[str]
    #: ids in queue order
    waiting: list[str]
    #: sequence number -> id
    request_ids: dict[int, str]

    def _repr_html_(self) -> str:
        names = ("waiting", "running", "ending")
        rows = [
            (
                self.request_ids.get(int(uid), f"#{uid}"),
                names[state],
                int(stored),
                " ".join(map(str, self.table(row).tolist())),
            )
            for row, (uid, state, stored) in enumerate(
                zip(self.sequence, self.state, self.stored, strict=True)
            )
        ]
        return html_table(repr(self), ["sequence", "state", "stored tokens", "block table"], rows)


def belady_hits(
    offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.int32], num_blocks: int
) -> npt.NDArray[np.uint32]:
    """What the optimal eviction of a prefix cache would hit: a bound for a given order of requests.

    It knows the future: after a request's blocks are all in, the block goes whose next using request is
    farthest, of equals the deepest (Belady, 1966). Running requests that pin their blocks are not in it.

    Args:
        offsets: int64 [requests + 1]; request i asks for the chain `ids[offsets[i]:offsets[i + 1]]`.
        ids: int32; an id stands for a block of content and all content before it.
        num_blocks: blocks of the cache.

    Returns:
        uint32 [requests], blocks of each request's unbroken cached prefix, counted before its own enter.

    Raises:
        InvalidArgumentError: the offsets do not fit the ids, or no blocks.
    """
    return _core.belady_hits(offsets, ids, num_blocks)


class Engine(_core.CoreEngine):
    """Continuous batching over a paged KV cache: who runs next, and on which blocks.

    The loop of a driver is ``output = engine.step()``, run the model over `output`, then
    ``engine.update({request_id: token})`` for each of ``output.sampled_requests``. The array form
    (`bind`, `step_arrays`, `update_arrays`) does the same without an object per request and allows
    one step to be planned while another runs.

    Parameters: `num_blocks` of `block_size` tokens make up the KV cache. `max_num_seqs` sequences
    run at once, `max_num_batched_tokens` is the token budget of a step. `policy` orders admission
    and, reversed, preemption: "fcfs", "priority" (smallest number first), "sjf" (fewest remaining
    tokens; a second of waiting counts as `sjf_ageing` tokens fewer), "lpm" (longest cached prefix
    among the first 128 in arrival order), or a baseline: "static" (a batch runs until its longest
    member ends), "prefill_first" (whole prompts before any decode). `preemption` is "recompute" or
    "swap" (to `num_swap_blocks` host blocks). `eviction` orders cached blocks: "lru", "lfu",
    "fifo". Admission leaves the share `watermark` of the blocks free while anything runs.
    `sliding_window` w: the query at i sees keys j with i − w < j ≤ i. `max_model_len` limits the
    tokens a sequence stores. `event_log`: True, or the most events to keep. `eos_token_id` ends
    every request that does not ignore it. `hash_bits` below 128 provokes hash collisions, for tests.

    Raises `InvalidArgumentError` and `UnknownOptionError` with the value and the limit.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Engine:
        """Check the options' names and build the core; see the class for what they mean."""
        return cast(Engine, super().__new__(cls, **check_options(*args, **kwargs)))

    def __init__(
        self,
        num_blocks: int = 100,
        block_size: int = 16,
        *,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        policy: Policy = "fcfs",
        preemption: Preemption = "recompute",
        num_swap_blocks: int = 0,
        enable_prefix_caching: bool = True,
        enable_chunked_prefill: bool = True,
        sliding_window: int | None = None,
        eviction: Eviction = "lru",
        watermark: float = 0.01,
        max_model_len: int | None = None,
        event_log: bool | int = False,
        eos_token_id: int | None = None,
        sjf_ageing: float = 10.0,
        hash_bits: int = 128,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.policy = policy

    def add_request(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        max_tokens: int = 16,
        *,
        num_prompt_tokens: int | None = None,
        prompt_block_ids: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        prompt_block_size: int | None = None,
        min_tokens: int = 0,
        priority: int = 0,
        arrival_time: float = 0.0,
        n: int = 1,
        stop_token_ids: Iterable[int] = (),
        ignore_eos: bool = False,
        cache_salt: str | None = None,
        **unknown: object,
    ) -> None:
        """Queue a request.

        The prompt is one of: `prompt_token_ids`; `num_prompt_tokens` alone (a length: nothing is
        stored per token, nothing cached); a trace's `prompt_block_ids` of `prompt_block_size`
        tokens each with `num_prompt_tokens` in all (token t stands for
        `ids[t // size] * size + t % size`). `arrival_time` in seconds orders the queue. `n`
        sequences are sampled from the prompt; once it is computed they are called `id/0`, `id/1`, ….
        Requests with different `cache_salt` share no cached blocks.

        Raises named errors (`DuplicateRequestError`, `EmptyPromptError`, `RequestTooLargeError`,
        `InvalidTokenError`, `InvalidArgumentError`, …); the engine is then unchanged.
        """
        _refuse_unknown("add_request", unknown, _REQUEST_OPTIONS)
        self._add_request(
            request_id,
            prompt_token_ids=prompt_token_ids,
            num_prompt_tokens=num_prompt_tokens,
            prompt_block_ids=prompt_block_ids,
            prompt_block_size=prompt_block_size,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            priority=priority,
            arrival_time=arrival_time,
            n=n,
            stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
            cache_salt=cache_salt or "",
        )

    def step(self) -> SchedulerOutput:
        """Plan the next step; an empty output where there is nothing to do.

        Raises `StepPendingError` while tokens of the step before are awaited.
        """
        return SchedulerOutput(*self._step())

    def update(self, tokens: Mapping[str, int | Sequence[int]]) -> list[tuple[str, str]]:
        """Give each of the step's `sampled_requests` its token; return (id, reason) of what ended.

        A request with n > 1 whose prompt ends takes a list of n. Tokens for requests that ended in
        between are ignored. Raises `NotSampledError`, `MissingTokensError`, `InvalidTokenError`,
        `WrongTokenCountError`; the engine is then unchanged.
        """
        return self._update({id_: _plain(value) for id_, value in tokens.items()})

    def finish(self, request_id: str, reason: str, keep: int | None = None) -> list[tuple[str, str]]:
        """End a request (all its sequences) or one sequence for a reason of the driver's.

        `keep`: how many output tokens count, as when a stop string began earlier; cached blocks
        past them are freed at once. Returns (id, reason) of what ended.
        """
        return self._finish(request_id, reason, keep)

    def abort(self, request_id: str) -> list[tuple[str, str]]:
        """End a request at once; a token still coming for it will be ignored."""
        return self._finish(request_id, "abort", None)

    def fork(self, sequence_id: str, new_id: str) -> int | None:
        """Copy a sequence under a new id; both share their blocks until one writes.

        Between `step` and `update` the copy awaits a token of its own from the same step (in the
        array form after the step's own samples, in the order of forks). Returns the copy's lane, or
        None where none was free: then it waits, to be computed again.
        """
        return self._fork(sequence_id, new_id)

    def bind(self, buffers: Sequence[Mapping[str, IntArray | torch.Tensor]]) -> None:
        """Take two sets of caller-owned contiguous arrays, filled in turn by `step_arrays`.

        Each set maps names to NumPy arrays or CPU tensors (pinned ones too), with T =
        `max_num_batched_tokens + max_num_seqs`, R = `max_num_seqs`, W = `max_blocks_per_sequence`:
        `token_ids`, `positions` int32 [T]; `slot_mapping` int64 [T]; `lanes`, `context_lens`,
        `sample_rows`, `sample_lanes` int32 [R]; `query_start_loc` int32 [R + 1]; `block_table`
        int32 [R, W]. Larger ones are fine. `array_buffers` makes such a set. The engine keeps what
        it wrote to `block_table` in mind and writes changes only: do not write to it.

        Raises `InvalidBufferError`.
        """
        if len(buffers) != 2:
            raise InvalidBufferError(f"bind takes 2 sets of buffers; it got {len(buffers)}")
        first, second = ({name: _as_numpy(array) for name, array in one.items()} for one in buffers)
        self._bind(first, second)

    def array_buffers(self) -> dict[str, npt.NDArray[Any]]:
        """A new set of arrays for `bind`, as small as it may be."""
        rows, tokens = self.max_num_seqs, self.max_num_batched_tokens + self.max_num_seqs
        width = self.max_blocks_per_sequence or 0
        shapes: dict[str, int | tuple[int, int]] = {
            "token_ids": tokens,
            "positions": tokens,
            "slot_mapping": tokens,
            "lanes": rows,
            "query_start_loc": rows + 1,
            "context_lens": rows,
            "block_table": (rows, width),
            "sample_rows": rows,
            "sample_lanes": rows,
        }
        return {
            name: np.zeros(shape, np.int64 if name == "slot_mapping" else np.int32)
            for name, shape in shapes.items()
        }

    def snapshot(self) -> Snapshot:
        """The state of all blocks and sequences now."""
        return Snapshot(**self._snapshot())

    def events(self) -> EventLog:
        """The event log so far. Raises `EventLogOffError` unless the engine was made with one."""
        columns = self._events()
        if columns is None:
            raise EventLogOffError("no event log is kept; make the engine with event_log=True")
        return EventLog.of_core(columns, self.num_blocks, self.block_size)

    def __repr__(self) -> str:
        used = self.num_blocks - self.num_free_blocks - self.num_cached_blocks
        return (
            f"Engine({self.num_blocks} blocks of {self.block_size}, policy={self.policy!r}:"
            f" {self.num_running} running, {self.num_waiting} waiting,\n"
            f"  blocks {used} in use, {self.num_cached_blocks} cached, {self.num_free_blocks} free)"
        )

    def _repr_html_(self) -> str:
        used = self.num_blocks - self.num_free_blocks - self.num_cached_blocks
        rows = [
            ("blocks in use", used),
            ("blocks cached", self.num_cached_blocks),
            ("blocks free", self.num_free_blocks),
            ("sequences running", self.num_running),
            ("sequences waiting", self.num_waiting),
        ]
        return html_table(
            f"Engine: {self.num_blocks} blocks of {self.block_size} tokens", ["what", "how many"], rows
        )


_DEFAULTS: dict[str, Any] = {
    "num_blocks": 100,
    "block_size": 16,
    **(Engine.__init__.__kwdefaults__ or {}),
}


_REQUEST_OPTIONS = [
    "request_id",
    "prompt_token_ids",
    "max_tokens",
    *(Engine.add_request.__kwdefaults__ or {}),
]


def _refuse_unknown(where: str, given: Iterable[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            nearest = _core.nearest(name, list(known))
            raise UnknownOptionError(f"{where} has no option {name!r}; did you mean {nearest!r}?")


def check_options(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """The core's options from those of `Engine`, with defaults; a misspelt name is refused.

    Raises:
        UnknownOptionError: there is no such option; the nearest is named.
    """
    _refuse_unknown("Engine", kwargs, _DEFAULTS)
    options = {**_DEFAULTS, **dict(zip(("num_blocks", "block_size"), args, strict=False)), **kwargs}
    log = options["event_log"]
    options["event_log"] = DEFAULT_EVENT_CAPACITY if log is True else None if log is False else log
    return options


def _plain(value: int | Sequence[int]) -> Any:
    """A token, or a list of tokens, as the core takes them."""
    return value if isinstance(value, int) or np.ndim(value) == 0 else list(value)


def _as_numpy(array: Any) -> Any:
    """The memory of a CPU tensor as a NumPy array; other things as they are."""
    return array if isinstance(array, np.ndarray) or not hasattr(array, "numpy") else array.numpy()
