"""The parts of a decoder's step in torch's own kernels, with random weights: what a profile times.

Linear layers are cuBLAS products with unfused norms, rotary embedding and activation between them; attention
is `scaled_dot_product_attention` over keys and values that lie side by side. A paged engine gathers them
through a block table instead; its kernels are timed by a profile of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from nano_batch.simulator.cards import ModelCard

# Keys and values that are read in turn must outgrow the device's cache, or it would serve them.
_SPREAD_BYTES = 1 << 29


class StepParts:
    """One decoder's parts on a CUDA device, bf16."""

    def __init__(self, card: ModelCard, device: torch.device) -> None:
        self.card, self.device = card, device
        generator = torch.Generator(device).manual_seed(0)

        def weights(rows: int, columns: int) -> Tensor:
            scale = columns**-0.5
            random = torch.randn(rows, columns, device=device, dtype=torch.bfloat16, generator=generator)
            scaled: Tensor = random * scale
            return scaled

        heads = (card.num_heads + 2 * card.num_kv_heads) * card.head_dim
        hidden, inner = card.hidden_size, card.intermediate_size
        self.layers = [
            (
                weights(heads, hidden),
                weights(hidden, card.num_heads * card.head_dim),
                weights(2 * inner, hidden),
                weights(hidden, inner),
            )
            for _ in range(card.num_layers)
        ]
        self.logits = weights(card.vocab_size, hidden)
        self.norm = torch.ones(hidden, device=device, dtype=torch.bfloat16)

    def empty(self, *shape: int) -> Tensor:
        """Random bf16 values."""
        return torch.randn(*shape, device=self.device, dtype=torch.bfloat16)

    def linear(self, x: Tensor, angles: Tensor) -> Tensor:
        """All that is per token: x [T, hidden], angles [T, 1, head_dim]."""
        card = self.card
        split = card.num_heads * card.head_dim
        for qkv_weight, out_weight, up_weight, down_weight in self.layers:
            qkv = linear(rms_norm(x, (card.hidden_size,), self.norm), qkv_weight)
            turned = (card.num_heads + card.num_kv_heads) * card.head_dim
            rotate = qkv[:, :turned].view(len(x), -1, card.head_dim)
            half = torch.roll(rotate, card.head_dim // 2, 2)
            rotated = rotate * angles.cos() + half * angles.sin()
            attended = rotated.flatten(1)[:, :split]
            x = x + linear(attended, out_weight)
            gate, up = linear(rms_norm(x, (card.hidden_size,), self.norm), up_weight).chunk(2, 1)
            x = x + linear(silu(gate) * up, down_weight)
        return x

    def sample(self, x: Tensor) -> Tensor:
        """Logits and the best token of each row: x [S, hidden]."""
        return linear(rms_norm(x, (self.card.hidden_size,), self.norm), self.logits).argmax(1)

    def cache(self, sequences: int, context: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of as many layers as it takes to outgrow the device's cache."""
        card = self.card
        shape = (sequences, card.num_kv_heads, context, card.head_dim)
        layer_bytes = 4 * sequences * card.num_kv_heads * context * card.head_dim
        distinct = min(card.num_layers, -(-_SPREAD_BYTES // layer_bytes))
        return [(self.empty(*shape), self.empty(*shape)) for _ in range(distinct)]

    def decode(self, q: Tensor, cache: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Attention of one token a sequence in all layers: q [B, kv heads, heads a kv head, head_dim]."""
        for layer in range(self.card.num_layers):
            keys, values = cache[layer % len(cache)]
            q = scaled_dot_product_attention(q, keys, values)
        return q

    def prefill(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Causal attention of a whole prompt in all layers: [1, heads (of keys: kv heads), T, head_dim]."""
        for _ in range(self.card.num_layers):
            q = scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)
        return q
