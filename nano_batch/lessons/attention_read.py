"""The attention weights of a request's newest token, read from the cache through its block table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nano_batch.errors import InvalidArgumentError

if TYPE_CHECKING:
    import torch

    from nano_batch.kv_cache import KVCache
    from nano_batch.models import PagedMistral


def attention_weights(
    model: PagedMistral, cache: KVCache, table: Sequence[int], token: int, context: int
) -> torch.Tensor:
    """Compute the last of `context` tokens anew, every layer looking at the cache, and keep what it looks at.

    The keys and values of all `context` tokens are in the cache; nothing is written.

    Args:
        model, cache: whose layers and heads fit.
        table: the request's blocks, by logical index.
        token: the id of the last token, at position `context` - 1.
        context: tokens that are stored.

    Returns:
        [layers, heads, context], each row adding up to 1; in the model's dtype.

    Raises:
        InvalidArgumentError: the table is too short for the context, or that is not at least 1.
    """
    import torch

    from nano_batch.attention.rope import rotated

    if not 1 <= context <= len(table) * cache.block_size:
        most = len(table) * cache.block_size
        raise InvalidArgumentError(f"context={context} is not from 1 to the table's {most} slots")
    blocks = torch.as_tensor(table[: -(-context // cache.block_size)], device=model.device)
    position = torch.tensor([context - 1], device=model.device)
    kept: list[torch.Tensor] = []

    def attend(layer: int, query: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        keys, values = (part[blocks].flatten(0, 1)[:context] for part in cache.layer(layer))
        group = query.shape[1] // keys.shape[1]
        keys, values = (part.repeat_interleave(group, dim=1) for part in (keys, values))
        turned = rotated(query, position, model.cosines, model.sines).to(query.dtype)
        scores = torch.einsum("hd,thd->ht", turned[0], keys) / query.shape[2] ** 0.5
        kept.append(scores.softmax(dim=1))
        return torch.einsum("ht,thd->hd", kept[-1], values)[None]

    model._forward(torch.tensor([token], device=model.device), attend, None)
    return torch.stack(kept)
