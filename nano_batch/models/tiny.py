"""A tiny llama-style decoder, seeded, to see and to check paged decoding with.

Its weights are random: it has nothing to say, but what it says depends on every token before, so that one
wrong slot, block or position changes its words. The architecture is that of Touvron et al., "LLaMA" (2023)
and Jiang et al., "Mistral 7B" (2023): RMSNorm, rotary positions, grouped-query attention, SwiGLU, and a
head tied to the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from nano_batch.attention import dense_attention
from nano_batch.display import Shown, html_table
from nano_batch.errors import InvalidArgumentError
from nano_batch.kv_cache import KVCache, Layout
from nano_batch.models.base import Attend, PagedInputs, attend_paged, check_fits


@dataclass(frozen=True)
class TinyConfig(Shown):
    """The shapes of a `TinyTransformer`. `sliding_window` w: the query at i sees keys j with i - w < j <=
    i."""

    vocab_size: int = 64
    hidden_size: int = 32
    intermediate_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 8
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidArgumentError` for sizes that make no model."""
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
        ):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name}={getattr(self, name)} is less than 1")
        if self.num_heads % self.num_kv_heads:
            raise InvalidArgumentError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}"
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise InvalidArgumentError(f"sliding_window={self.sliding_window} is less than 1")
        if self.head_dim < 2 or self.head_dim % 2:
            raise InvalidArgumentError(f"head_dim={self.head_dim} is not even: rotary positions turn pairs")


@dataclass(frozen=True)
class _Layer:
    attention_norm: torch.Tensor  # [hidden]
    query: torch.Tensor  # [num_heads * head_dim, hidden]
    key: torch.Tensor  # [num_kv_heads * head_dim, hidden]
    value: torch.Tensor  # the same
    output: torch.Tensor  # [hidden, num_heads * head_dim]
    mlp_norm: torch.Tensor  # [hidden]
    gate: torch.Tensor  # [intermediate, hidden]
    up: torch.Tensor  # the same
    down: torch.Tensor  # [hidden, intermediate]


class TinyTransformer:
    """Random weights from a seed, in float64 unless asked otherwise, so that greedy tokens have no near
    ties."""

    def __init__(
        self,
        config: TinyConfig | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        """Draw the weights on the host: the same seed gives the same model on every device."""
        self.config = config or TinyConfig()
        self.dtype, self.device = dtype, torch.device(device)
        generator = torch.Generator().manual_seed(seed)

        def draw(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
            weights = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            return (weights * (gain / math.sqrt(columns))).to(self.device, dtype)

        c = self.config
        query_dim, kv_dim = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        ones = torch.ones(c.hidden_size, dtype=dtype, device=self.device)
        # A small embedding beside strong layers: else the tied head repeats the last token for ever.
        self.embedding = draw(c.vocab_size, c.hidden_size)
        self.layers = [
            _Layer(
                ones, draw(query_dim, c.hidden_size, 2), draw(kv_dim, c.hidden_size, 2),
                draw(kv_dim, c.hidden_size), draw(c.hidden_size, query_dim, 4),
                ones, draw(c.intermediate_size, c.hidden_size), draw(c.intermediate_size, c.hidden_size),
                draw(c.hidden_size, c.intermediate_size, 2),
            )
            for _ in range(c.num_layers)
        ]  # fmt: skip
        self.final_norm = ones

    def __repr__(self) -> str:
        c = self.config
        heads = f"{c.num_heads} heads of {c.head_dim}"
        return f"TinyTransformer({c.num_layers} layers, {heads}, {self.dtype}, {self.device})"

    def _repr_html_(self) -> str:
        return html_table(repr(self), ["", ""], [(name, value) for name, value in vars(self.config).items()])

    def dense(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Compute one whole sequence without a cache: logits [tokens, vocab_size]. The reference."""

        def attend(_: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            window = self.config.sliding_window
            return dense_attention(query, keys, values, sliding_window=window).to(query.dtype)

        tokens = torch.tensor(token_ids, dtype=torch.int64, device=self.device)
        return self._forward(tokens, torch.arange(len(tokens), device=self.device), attend)

    def paged(self, inputs: PagedInputs, cache: KVCache) -> torch.Tensor:
        """Compute one step over the paged cache, writing its keys and values: logits [tokens,
        vocab_size] of all tokens, or of `inputs.logit_tokens`.

        Raises `ShapeError` when the cache does not fit the model; errors of `KVCache.write_kv` and of
        attention.
        """
        check_fits(self.config, cache)
        decodes = inputs.decodes()

        def attend(layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            cache.write_kv(keys, values, inputs.slot_mapping, layer)
            window = self.config.sliding_window
            return attend_paged(query, cache, layer, inputs, decodes, sliding_window=window)

        return self._forward(inputs.token_ids.long(), inputs.positions.long(), attend, inputs.logit_tokens)

    def _forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        c, tokens = self.config, len(token_ids)
        rotation = rotary(positions, c.head_dim, c.rope_theta).to(self.dtype)
        hidden = self.embedding[token_ids]
        for index, layer in enumerate(self.layers):
            normed = rms_norm(hidden, layer.attention_norm, c.rms_norm_eps)
            query = rotate((normed @ layer.query.T).view(tokens, c.num_heads, c.head_dim), rotation)
            keys = rotate((normed @ layer.key.T).view(tokens, c.num_kv_heads, c.head_dim), rotation)
            values = (normed @ layer.value.T).view(tokens, c.num_kv_heads, c.head_dim)
            hidden = hidden + attend(index, query, keys, values).flatten(1) @ layer.output.T
            normed = rms_norm(hidden, layer.mlp_norm, c.rms_norm_eps)
            hidden = hidden + (F.silu(normed @ layer.gate.T) * (normed @ layer.up.T)) @ layer.down.T
        if wanted is not None:
            hidden = hidden[wanted]
        return rms_norm(hidden, self.final_norm, c.rms_norm_eps) @ self.embedding.T

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """Continue a prompt densely by `count` tokens, each the likeliest: what paged decoding must give."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.dense(tokens)[-1].argmax()))
        return tokens[len(prompt) :]

    def new_cache(
        self, num_blocks: int, block_size: int, *, num_swap_blocks: int = 0, layout: Layout = "NHD"
    ) -> KVCache:
        """Return a KV cache with this model's layers, heads, dtype and device."""
        c = self.config
        return KVCache(
            num_blocks, block_size, c.num_kv_heads, c.head_dim, self.dtype, self.device,
            num_layers=c.num_layers, layout=layout, num_swap_blocks=num_swap_blocks,
        )  # fmt: skip


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Scale each row to unit root mean square (Zhang and Sennrich, 2019): [tokens, hidden] -> the same."""
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotary(positions: torch.Tensor, head_dim: int, theta: float) -> torch.Tensor:
    """Return cosines and sines [2, tokens, 1, head_dim / 2] of the rotary angles (Su et al., 2021)."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device)
    angles = positions[:, None].double() * theta ** (-pairs / head_dim)
    return torch.stack([angles.cos(), angles.sin()])[:, :, None]


def rotate(heads: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Turn element i and element i + head_dim / 2 of each head together: [tokens, heads, head_dim]."""
    cos, sin = rotation
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
