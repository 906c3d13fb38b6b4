"""The compiled core (nano_batch_rs), as `nano_batch.core` uses it."""

from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

__all__ = [
    "SAMPLER_VERSION",
    "BlockCache",
    "CoreEngine",
    "CostModel",
    "StepCounts",
    "StepFeatures",
    "__version__",
    "belady_hits",
    "bursty_arrivals",
    "cards",
    "cpu_available",
    "cpu_linear",
    "cpu_paged_attention",
    "cpu_rms_norm",
    "cpu_silu_mul",
    "cpu_use_threads",
    "cpu_write_kv",
    "family_prompts",
    "length_tables",
    "log_normal_lengths",
    "nearest",
    "poisson_arrivals",
    "quantile_lengths",
    "simulate",
    "uniform_lengths",
]

_Floats: TypeAlias = npt.NDArray[np.float32]

__version__: str
SAMPLER_VERSION: str

def nearest(word: str, choices: list[str]) -> str | None: ...
def poisson_arrivals(count: int, *, rate: float, seed: int) -> npt.NDArray[np.float64]: ...
def bursty_arrivals(count: int, *, rate: float, cv: float, seed: int) -> npt.NDArray[np.float64]: ...
def uniform_lengths(
    count: int, *, low: int, high: int, seed: int, outputs: bool
) -> npt.NDArray[np.int64]: ...
def log_normal_lengths(
    count: int, *, mu: float, sigma: float, low: int, high: int, seed: int, outputs: bool
) -> npt.NDArray[np.int64]: ...
def quantile_lengths(
    count: int, *, probabilities: list[float], tokens: list[float], seed: int, outputs: bool
) -> npt.NDArray[np.int64]: ...
def family_prompts(
    own_tokens: npt.NDArray[np.int64],
    *,
    count: int,
    prefix_blocks: int,
    block_size: int,
    share: float,
    skew: float,
    seed: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
def belady_hits(
    offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.int32], num_blocks: int
) -> npt.NDArray[np.uint32]: ...
def cpu_available() -> bool: ...
def cpu_use_threads(address: int) -> None: ...
def cpu_linear(x: _Floats, weight: _Floats, out: _Floats, threads: int) -> None: ...
def cpu_rms_norm(
    x: _Floats, residual: _Floats | None, weight: _Floats, eps: float, out: _Floats, threads: int
) -> None: ...
def cpu_silu_mul(gate_up: _Floats, out: _Floats, threads: int) -> None: ...
def cpu_write_kv(
    keys: _Floats,
    values: _Floats,
    key_cache: _Floats,
    value_cache: _Floats,
    slots: npt.NDArray[np.int64],
    rope: tuple[npt.NDArray[np.int64], _Floats, _Floats] | None,
    query: _Floats | None,
) -> None: ...
def cpu_paged_attention(
    query: _Floats,
    key_cache: _Floats,
    value_cache: _Floats,
    block_table: npt.NDArray[np.int32],
    context_lens: npt.NDArray[np.int32],
    query_start_loc: npt.NDArray[np.int32],
    scale: float,
    window: int | None,
    out: _Floats,
    threads: int,
) -> None: ...
def cards() -> list[tuple[str, str, str]]: ...
def length_tables() -> list[tuple[str, str]]: ...
def simulate(
    arrival_s: npt.NDArray[np.float64],
    prompt_tokens: npt.NDArray[np.int64],
    output_tokens: npt.NDArray[np.int64],
    content: tuple[Any, Any, Any] | None,
    engine: dict[str, Any],
    cost: CostModel,
    *,
    steps_in_flight: int,
    replicas: int,
    routing: str,
    max_steps: int | None,
    keep_steps: int | None,
    max_tokens: int | None,
    reservation: str | None,
    quantiles: bool,
    keep_requests: bool,
    progress: Any,
    score: Any,
) -> dict[str, Any]: ...

_Grid = tuple[list[float], list[float], list[float]]

@final
class CostModel:
    """Seconds of a step from what it asks of host and device."""

    @staticmethod
    def constant(host_s: float, device_s: float) -> CostModel: ...
    @staticmethod
    def roofline(
        *,
        flops_per_s: float,
        bytes_per_s: float,
        host_bytes_per_s: float,
        overhead_s: float,
        host_s: float,
        host_per_sequence_s: float,
        weight_bytes: float,
        flops_per_token: float,
        flops_per_sample: float,
        flops_per_pair: float,
        kv_bytes_per_token: float,
        block_bytes: float,
    ) -> CostModel: ...
    @staticmethod
    def profile(
        *,
        linear: _Grid,
        decode_attention: _Grid,
        prefill_attention: _Grid,
        sampling: _Grid,
        overhead_s: float,
        host_s: float,
        host_per_sequence_s: float,
        block_copy_s: float,
        block_swap_s: float,
        batch_sizes: list[int],
    ) -> CostModel: ...
    @staticmethod
    def function(function: Any) -> CostModel: ...
    def step_time(self, features: StepFeatures) -> tuple[float, float]: ...

@final
class StepFeatures:
    """What a step asks of the device (docs/costs.md)."""

    def __new__(
        cls,
        *,
        prefill_tokens: int = 0,
        prefill_sequences: int = 0,
        decode_sequences: int = 0,
        decode_context: int = 0,
        decode_context_max: int = 0,
        prefill_context: int = 0,
        prefill_pairs: int = 0,
        sampled: int = 0,
        blocks_copied: int = 0,
        blocks_swapped_out: int = 0,
        blocks_swapped_in: int = 0,
    ) -> StepFeatures: ...
    @property
    def prefill_tokens(self) -> int: ...
    @property
    def prefill_sequences(self) -> int: ...
    @property
    def decode_sequences(self) -> int: ...
    @property
    def decode_context(self) -> int: ...
    @property
    def decode_context_max(self) -> int: ...
    @property
    def prefill_context(self) -> int: ...
    @property
    def prefill_pairs(self) -> int: ...
    @property
    def sampled(self) -> int: ...
    @property
    def blocks_copied(self) -> int: ...
    @property
    def blocks_swapped_out(self) -> int: ...
    @property
    def blocks_swapped_in(self) -> int: ...

@final
class BlockCache:
    """The prefix cache alone, without requests: what a trace would hit at a given size."""

    def __new__(cls, num_blocks: int, eviction: str = "lru") -> BlockCache: ...
    def access(self, ids: npt.NDArray[np.int32]) -> int: ...
    def access_all(
        self, offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint32]: ...
    def _repr_html_(self) -> str: ...
    @property
    def num_cached(self) -> int: ...

@final
class StepCounts:
    """What one step put into the bound arrays."""

    @property
    def step(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def decodes(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def padded_rows(self) -> int: ...
    @property
    def padded_tokens(self) -> int: ...
    @property
    def swap_out(self) -> int: ...
    @property
    def swap_in(self) -> int: ...
    @property
    def copies(self) -> int: ...
    @property
    def admitted(self) -> int: ...
    @property
    def preempted(self) -> int: ...

@disjoint_base
class CoreEngine:
    """Scheduler and block allocator behind request ids; `nano_batch.Engine` is its friendly form."""

    def __new__(cls, **options: Any) -> CoreEngine: ...
    def _add_request(
        self,
        request_id: str,
        *,
        prompt_token_ids: Any,
        num_prompt_tokens: int | None,
        prompt_block_ids: Any,
        prompt_block_size: int | None,
        max_tokens: int,
        min_tokens: int,
        priority: int,
        arrival_time: float,
        n: int,
        stop_token_ids: Any,
        ignore_eos: bool,
        cache_salt: str,
    ) -> None: ...
    def _step(self) -> tuple[Any, ...]: ...
    def _update(self, given: dict[str, Any]) -> list[tuple[str, str]]: ...
    def _finish(self, request_id: str, reason: str, keep: int | None) -> list[tuple[str, str]]: ...
    def _fork(self, sequence_id: str, new_id: str) -> int | None: ...
    def _bind(self, first: dict[str, Any], second: dict[str, Any]) -> None: ...
    def _snapshot(self) -> dict[str, Any]: ...
    def _events(self) -> dict[str, Any] | None: ...
    @property
    def has_unfinished(self) -> bool: ...
    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def num_free_blocks(self) -> int: ...
    @property
    def num_cached_blocks(self) -> int: ...
    @property
    def slot_counts(self) -> tuple[int, int, int]: ...
    @property
    def num_free_swap_blocks(self) -> int: ...
    @property
    def max_blocks_per_sequence(self) -> int | None: ...
    def step_arrays(self, pad_to: int | None = None) -> StepCounts:
        """Plan a step into the next set of bound arrays, padded to `pad_to` rows."""

    def update_arrays(self, step: int, tokens: npt.NDArray[np.int32]) -> list[tuple[str, str]]:
        """Retire outstanding step `step` with one int32 for each sample; return what ended."""

    def movement(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """The newest step's swap_out, swap_in and copies, int32 [k, 2] each."""

    def lane_changes(self) -> tuple[list[tuple[str, int, int]], list[tuple[str, int]]]:
        """(id, lane, cached tokens) of who took and (id, lane) of who left a lane in the newest step."""
