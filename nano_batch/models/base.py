"""What a model over a paged KV cache takes and gives, and how its layers attend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from nano_batch.attention import (
    DecodePlan,
    PrefillPlan,
    paged_attention_fwd,
    paged_attention_planned,
    paged_attention_prefill,
)
from nano_batch.attention.cuda.prefill import is_by_kernel
from nano_batch.attention.rope import Rope
from nano_batch.display import Shown
from nano_batch.errors import InvalidArgumentError, ShapeError
from nano_batch.kv_cache import KVCache

WRITTEN_BEFORE = range(13, 65)
"""Decodes of which a step is faster if a kernel of its own writes keys and values: without one attention's
first tiles are asked for while the product before it still waits for its last chunks."""
TURNED_BEFORE = 2048
"""Most tokens of a step with prompts of which queries are turned before attention, which then begins sooner:
of more it pays to spare their way through memory."""
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, query [tokens, num_heads, head_dim], keys and values [tokens, num_kv_heads, head_dim]) -> like
query."""


class PagedConfig(Protocol):
    """The sizes that a cache and a runner ask for."""

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads of a layer."""

    @property
    def head_dim(self) -> int:
        """Elements of a head."""


@dataclass(frozen=True, repr=False)
class PagedInputs(Shown):
    """One step's tokens and where their keys and values lie: all rows' tokens one after another.

    Rows with one token first take the decode form of attention; the rest, the prefill form.
    """

    token_ids: torch.Tensor  # [tokens] int32 or int64
    positions: torch.Tensor  # [tokens] int32 or int64
    slot_mapping: torch.Tensor | Sequence[int]  # [tokens] int64, -1 writes nothing
    block_tables: torch.Tensor  # [rows, max_blocks] int32, -1 where there is none
    context_lens: torch.Tensor  # [rows] int32, this step's tokens included
    query_start_loc: torch.Tensor  # [rows + 1] int32
    logit_tokens: torch.Tensor | None = None  # [samples] int32 or int64, tokens that need logits; None: all
    num_decodes: int | None = None  # rows at the start with one token; None: counted, waiting for the device
    # A scheduler wrote it: no value is checked, so that nothing waits for the device. Position and slot of a
    # decode are then those of context_lens - 1; of padding context_lens is 0.
    trusted: bool = False
    decode_plan: DecodePlan | None = (
        None  # of the CUDA kernels for the decodes, updated; None: each layer's own
    )
    # Where the other rows, which begin behind the decodes, find their keys; None: each layer's own. Beside it
    # the decodes have a plan, too; a row of length -1 among them is none, as where arrays have a fixed size.
    prefill_plan: PrefillPlan | None = None

    def __repr__(self) -> str:
        return f"PagedInputs: {len(self.token_ids):,} tokens of {len(self.context_lens):,} rows"

    def decodes(self) -> int:
        """Return how many rows at the start have one token. Waits for the device unless it was told."""
        if self.num_decodes is not None:
            return self.num_decodes
        longer = torch.nonzero(self.query_start_loc.diff() != 1)
        return int(longer[0]) if len(longer) else len(self.context_lens)

    def writing_plan(self, decodes: int) -> DecodePlan | None:
        """The plan for `paged_attention_writing`, if that may take all of the step's tokens and is faster."""
        plan, tokens = self.decode_plan, len(self.token_ids)
        if plan is None or not plan.writes or tokens in WRITTEN_BEFORE or not self.trusted:
            return None
        return plan if tokens == decodes and self.prefill_plan is None else None

    def attention_turns(self, query: torch.Tensor, cache: KVCache, layer: int) -> bool:
        """Whether attention can turn the queries of all tokens but the first `decodes()`, and is faster."""
        plan = self.prefill_plan
        if plan is None or len(query) <= TURNED_BEFORE:
            return False
        return is_by_kernel(query, *cache.layer(layer), plan)


class PagedModel(Protocol):
    """A decoder that `PagedRunner` can drive."""

    @property
    def config(self) -> PagedConfig:
        """Its sizes."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, keys, values and logits."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def paged(self, inputs: PagedInputs, cache: KVCache) -> torch.Tensor:
        """Compute a step: logits [tokens, vocab_size], or [samples, vocab_size] of `logit_tokens`."""


def check_fits(config: PagedConfig, cache: KVCache) -> None:
    """Raise `ShapeError` unless the cache has the layers and heads of a model."""
    given = cache.num_layers, cache.num_kv_heads, cache.head_dim
    needed = config.num_layers, config.num_kv_heads, config.head_dim
    if given != needed:
        raise ShapeError(
            f"the cache has {given[0]} layers of {given[1]} heads of {given[2]}; "
            f"the model has {needed[0]} of {needed[1]} of {needed[2]}"
        )


def attend_paged(
    query: torch.Tensor,
    cache: KVCache,
    layer: int,
    inputs: PagedInputs,
    decodes: int,
    *,
    sliding_window: int | None,
    rope: Rope | None = None,
) -> torch.Tensor:
    """Attend from a step's queries to the cached keys of a layer, the step's own among them.

    Args:
        query: [tokens, num_heads, head_dim].
        decodes: what `inputs.decodes()` said: these rows take the decode form.
        rope: turns on their way the queries of all tokens but the first `decodes`, which in arrays of a fixed
            size may be prompts', too; only where `inputs.attention_turns`. None: all are turned already.

    Returns:
        [tokens, num_heads, head_dim]. Raises what attention raises.
    """
    caches, starts = cache.layer(layer), inputs.query_start_loc
    key_scale, value_scale = cache.scales(layer)
    options: dict[str, Any] = {
        "sliding_window": sliding_window, "key_scale": key_scale, "value_scale": value_scale,
        # Tables and lengths are the same in every layer: they are checked once a step.
        "validate": layer == 0 and not inputs.trusted,
    }  # fmt: skip

    def decode(out: torch.Tensor | None) -> torch.Tensor:
        return paged_attention_fwd(
            query[:decodes].unsqueeze(2), *caches, inputs.block_tables[:decodes],
            inputs.context_lens[:decodes], cache.block_size, plan=inputs.decode_plan, out=out, **options,
        ).squeeze(2)  # fmt: skip

    if inputs.prefill_plan is not None:
        attended = paged_attention_planned(
            query, *caches, inputs.prefill_plan, key_scale=key_scale, value_scale=value_scale, rope=rope,
            turned=decodes,
        )  # fmt: skip
        if decodes:
            decode(attended[:decodes].unsqueeze(2))  # which the other left
        return attended
    if rope is not None:
        raise InvalidArgumentError("rope is given without a prefill plan, whose kernel alone turns queries")
    parts = []
    if decodes or len(query) == 0:
        parts.append(decode(None))
    if decodes < len(query):
        parts.append(paged_attention_prefill(
            query[decodes:], *caches, inputs.block_tables[decodes:], inputs.context_lens[decodes:],
            starts[decodes:] - decodes, cache.block_size, **options,
        ))  # fmt: skip
    return torch.cat(parts) if len(parts) != 1 else parts[0]
