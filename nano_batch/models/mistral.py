"""The Mistral architecture over a paged KV cache.

Jiang et al., "Mistral 7B" (2023): RMSNorm, rotary positions, grouped-query attention, perhaps in a sliding
window, SwiGLU. The weights of query, key and value are one matrix, and so are those of gate and up: one large
product each where there would be three and two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F

from nano_batch._choices import check_choice
from nano_batch.attention import dense_attention, paged_attention_writing
from nano_batch.attention.checks import FLOATS, usable_device
from nano_batch.attention.rope import Rope, rotated, turns
from nano_batch.cuda.tensor_map import panels_of
from nano_batch.display import Shown, html_table, readable_bytes
from nano_batch.errors import CacheAllocationError, ContextLengthError, InvalidArgumentError
from nano_batch.kv_cache import KVCache, Layout
from nano_batch.models.base import Attend, PagedInputs, attend_paged, check_fits
from nano_batch.models.ops import (
    PARTS,
    add_linear,
    add_parts_rms_norm,
    add_rms_norm,
    embed_rms_norm,
    few_rows_of,
    gated_linear,
    linear_few_rows,
    linear_parts,
    rms_norm,
    silu_mul,
    take_rows,
)
from nano_batch.models.parallel import WHOLE, Shard
from nano_batch.models.prepared import Prepared
from nano_batch.models.rope_scaling import RopeScaling

WORDS_AT_ONCE = 1024
"""Of which `prepare` computes what the first layer makes, so that this takes little memory besides."""
MistralName = Literal["mistral-7b-v0.1", "mistral-7b-v0.3", "small", "tiny"]


@dataclass(frozen=True, repr=False)
class MistralConfig(Shown):
    """The shapes of a `PagedMistral`; the defaults are those of Mistral 7B v0.3.

    `sliding_window` w: the query at i sees keys j with i - w < j <= i. `dtype` is that of the checkpoint.
    `max_position_embeddings` bounds the positions that the rotary tables hold.

    Raises:
        InvalidArgumentError: sizes that make no model, with the value and the limit.
    """

    vocab_size: int = 32_768
    hidden_size: int = 4096
    intermediate_size: int = 14_336
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    rope_theta: float = 1_000_000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 32_768
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        """Check the sizes."""
        sizes = ["vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"]
        sizes += ["max_position_embeddings"] + ["sliding_window"] * (self.sliding_window is not None)
        for name in sizes:
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name}={getattr(self, name)} is less than 1")
        if self.num_heads % self.num_kv_heads:
            raise InvalidArgumentError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise InvalidArgumentError(f"head_dim={self.head_dim} is not even: rotary positions turn pairs")
        if not 1 < self.rope_theta < math.inf:
            raise InvalidArgumentError(f"rope_theta={self.rope_theta} is not above 1")
        if not 0 <= self.rms_norm_eps < 1:
            raise InvalidArgumentError(f"rms_norm_eps={self.rms_norm_eps} is not from 0 to below 1")

    def __repr__(self) -> str:
        heads = f"{self.num_heads} / {self.num_kv_heads} heads of {self.head_dim}"
        return f"MistralConfig({self.num_layers} layers, {heads}, {self.vocab_size:,} words, {self.dtype})"

    @staticmethod
    def named(name: MistralName) -> MistralConfig:
        """Return a shape of `SHAPES`. Raises `UnknownOptionError` with the nearest for another name."""
        check_choice("name", name, MistralName)
        return SHAPES[name]


SHAPES: dict[MistralName, MistralConfig] = {
    "mistral-7b-v0.1": MistralConfig(vocab_size=32_000, rope_theta=10_000.0, sliding_window=4096),
    "mistral-7b-v0.3": MistralConfig(),
    # Two that any processor runs: the first in a notebook, the second in a benchmark.
    "tiny": MistralConfig(4096, 256, 896, 4, 8, 2, 32, 10_000.0, dtype=torch.float32),
    "small": MistralConfig(32_000, 768, 2048, 12, 12, 4, 64, 10_000.0, dtype=torch.float32),
}


@dataclass(frozen=True)
class MistralLayer:
    """The weights of one decoder layer."""

    attention_norm: torch.Tensor  # [hidden]
    qkv: torch.Tensor  # [(num_heads + 2 * num_kv_heads) * head_dim, hidden]
    output: torch.Tensor  # [hidden, num_heads * head_dim]
    mlp_norm: torch.Tensor  # [hidden]
    gate_up: torch.Tensor  # [2 * intermediate, hidden]
    down: torch.Tensor  # [hidden, intermediate]


@dataclass(frozen=True)
class Normed:
    """Rows behind an RMSNorm; with squares, the product after it is still to divide (`ops.add_linear`)."""

    rows: torch.Tensor  # [tokens, hidden]
    squares: torch.Tensor | None = None


class PagedMistral:
    """A Mistral decoder; `load_mistral` fills its weights, which are uninitialised memory before.

    Args:
        config: its shapes, as a whole.
        dtype: of weights, keys, values and logits: float16, bfloat16, float32 or float64; None, the config's.
        device: where it computes.
        shard: which part of it this is, where others compute the rest; `config` then has the part's shapes.

    Raises:
        DtypeError, DeviceError: the dtype is none of these, or the device cannot hold it.
        InvalidArgumentError: its heads cannot be split so.
    """

    def __init__(
        self,
        config: MistralConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        shard: Shard = WHOLE,
    ) -> None:
        """Allocate the weights, each once."""
        self.config = c = shard.config(config)
        self.shard = shard
        self.dtype = dtype or config.dtype
        self.device = usable_device(self.dtype, device, FLOATS)
        qkv_rows = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
        self.embedding = self._empty(c.vocab_size, c.hidden_size)
        self.layers = [
            MistralLayer(
                self._empty(c.hidden_size), self._empty(qkv_rows, c.hidden_size),
                self._empty(c.hidden_size, c.num_heads * c.head_dim),
                self._empty(c.hidden_size), self._empty(2 * c.intermediate_size, c.hidden_size),
                self._empty(c.hidden_size, c.intermediate_size),
            )
            for _ in range(c.num_layers)
        ]  # fmt: skip
        self.final_norm = self._empty(c.hidden_size)
        self.head = self.embedding if c.tie_word_embeddings else self._empty(c.vocab_size, c.hidden_size)
        narrow = [matrix for layer in self.layers for matrix in (layer.output, layer.down)]
        others = [self.head, *(matrix for layer in self.layers for matrix in (layer.qkv, layer.gate_up))]
        self._few_rows = few_rows_of(self.final_norm, narrow, others)
        self._prepared: list[Prepared] = []  # of the first layer's products, and of each layer's panels
        frequencies = c.rope_scaling.frequencies(c.head_dim, c.rope_theta)
        longest, magnitude = c.max_position_embeddings, c.rope_scaling.magnitude()
        self.cosines, self.sines = turns(longest, frequencies, magnitude, self.device)

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def __repr__(self) -> str:
        part = f"part {self.shard.rank + 1} of {self.shard.size}: " if self.shard.size > 1 else ""
        return f"PagedMistral({part}{self.config}, in {self.dtype} on {self.device})"

    def _repr_html_(self) -> str:
        rows = [("weights", readable_bytes(self.weight_bytes)), *vars(self.config).items()]
        if self.is_prepared:
            kept = sum(each.tensor.nbytes for each in self._prepared)
            rows.insert(1, ("prepared", readable_bytes(kept)))
        return html_table(repr(self), ["", ""], rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        views = self.state_dict().values()
        return sum(view.numel() for view in views) * self.dtype.itemsize

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare` has been called."""
        return bool(self._prepared)

    @property
    def preparing_bytes(self) -> int:
        """Bytes that `prepare` would take; 0 where it has."""
        shapes = [] if self.is_prepared else self._prepared_shapes()
        return sum(math.prod(shape) for shape in shapes) * self.dtype.itemsize

    def _prepared_shapes(self) -> list[tuple[int, ...]]:
        """Of what the first layer makes of the words, and of all layers' panels where kernels read these."""
        shapes: list[tuple[int, ...]] = [(self.config.vocab_size, len(self.layers[0].qkv))]
        if self._few_rows.panels:
            shapes += [tuple(panels_of(layer.gate_up).shape) for layer in self.layers]
        return shapes

    def prepare(self) -> None:
        """Keep in memory what a step reads faster than it computes it, or than it reads the weights.

        That is what the first layer's query, key and value are for each word, which no other word changes
        before they are turned (Graef, "Transformer tricks: Precomputing the first layer", 2024); and, on
        Hopper, gate and up a second time, in panels (`panels_of`). It stays as long as the model. Steps read
        it until these weights change, as far as PyTorch counts that (`Prepared`), graphs that hold it for
        ever: call this again then, also after a change by `state_dict`'s views.

        Raises:
            CacheAllocationError: there is no room for it; nothing has changed.
            torch.OutOfMemoryError: there is none to compute it in; steps then read the weights.
        """
        # Tensors of inference mode could not be written to again outside of it.
        with torch.inference_mode(False), torch.no_grad():
            # Always the same place: a graph that was captured reads there.
            prepared = self._prepared or self._room_to_prepare()
            for each in prepared:
                each.is_of()
            projected, *panels = prepared
            words = torch.arange(len(projected.tensor), device=self.device)
            for some in torch.split(words, WORDS_AT_ONCE):
                projected.tensor[some] = self._started(some, prepared=False)[1]
            projected.is_of(*self._first_weights)
            for each, layer in zip(panels, self.layers, strict=False):
                each.tensor.copy_(panels_of(layer.gate_up))
                each.is_of(layer.gate_up)
        self._prepared = prepared

    def _room_to_prepare(self) -> list[Prepared]:
        try:
            return [Prepared(self._empty(*shape)) for shape in self._prepared_shapes()]
        except RuntimeError as error:  # what PyTorch raises on a CPU; on CUDA it has a name
            asked = readable_bytes(self.preparing_bytes)
            raise CacheAllocationError(f"{asked} of prepared weights do not fit on {self.device}") from error

    @property
    def _first_weights(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of which the first layer's query, key and value of a word are made."""
        return self.embedding, self.layers[0].attention_norm, self.layers[0].qkv

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return every weight under its name in a Hugging Face checkpoint: views, nothing is copied.

        A tied head is the embedding and has no name of its own.
        """
        c = self.config
        query, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        named = {"model.embed_tokens.weight": self.embedding}
        for index, layer in enumerate(self.layers):
            q, k, v = torch.split(layer.qkv, [query, kv, kv])
            gate, up = layer.gate_up.chunk(2)
            parts = {
                "input_layernorm": layer.attention_norm,
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.o_proj": layer.output,
                "post_attention_layernorm": layer.mlp_norm,
                "mlp.gate_proj": gate,
                "mlp.up_proj": up,
                "mlp.down_proj": layer.down,
            }
            named.update({f"model.layers.{index}.{part}.weight": view for part, view in parts.items()})
        named["model.norm.weight"] = self.final_norm
        if not c.tie_word_embeddings:
            named["lm_head.weight"] = self.head
        return named

    def dense(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Compute one whole sequence without a cache: logits [tokens, vocab_size]. The reference."""
        tokens = torch.tensor(token_ids, dtype=torch.int64, device=self.device)
        positions = torch.arange(len(tokens), device=self.device)
        self._check_positions(len(tokens))

        def attend(_: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            query, keys = (
                rotated(heads, positions, self.cosines, self.sines).to(self.dtype) for heads in (query, keys)
            )
            window = self.config.sliding_window
            return dense_attention(query, keys, values, sliding_window=window).to(self.dtype)

        return self._forward(tokens, attend, None, prepared=False)

    def paged(self, inputs: PagedInputs, cache: KVCache) -> torch.Tensor:
        """Compute one step over the paged cache, writing its keys and values.

        Returns:
            Logits [tokens, vocab_size] of all tokens, or [samples, vocab_size] of `inputs.logit_tokens`.

        Raises:
            ShapeError: the cache does not fit the model.
            ContextLengthError: a context is longer than `max_position_embeddings`.
            Those of `KVCache.write_kv` and of attention.
        """
        check_fits(self.config, cache)
        if not inputs.trusted:
            self._check_positions(int(inputs.context_lens.max()) if len(inputs.context_lens) else 0)
        decodes = inputs.decodes()
        plan = inputs.writing_plan(decodes)
        rope = Rope(inputs.positions.long(), self.cosines, self.sines)

        def attend(layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            window = self.config.sliding_window
            if plan is not None:
                return paged_attention_writing(
                    query, keys, values, rope, *cache.layer(layer), inputs.block_tables, inputs.context_lens,
                    plan, sliding_window=window,
                )  # fmt: skip
            turns = inputs.attention_turns(query, cache, layer)
            cache.write_kv(
                keys, values, inputs.slot_mapping, layer, rope=rope,
                query=query[:decodes] if turns else query, validate=not inputs.trusted,
            )  # fmt: skip
            return attend_paged(
                query, cache, layer, inputs, decodes, sliding_window=window, rope=rope if turns else None
            )

        return self._forward(inputs.token_ids.long(), attend, inputs.logit_tokens)

    def _check_positions(self, length: int) -> None:
        # The kernels read the tables where they are told to, without looking.
        if length > self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise ContextLengthError(f"a context has {length} tokens; max_position_embeddings is {limit}")

    def _started(self, tokens: torch.Tensor, *, prepared: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens' rows of the embedding, and the first layer's query, key and value of them."""
        embedding, norm, qkv = self._first_weights
        ready = self._prepared[0].of(embedding, norm, qkv) if prepared and self._prepared else None
        if ready is not None:
            return take_rows(tokens, embedding, ready)
        residual, rows = embed_rms_norm(tokens, embedding, norm, self.config.rms_norm_eps)
        return residual, self._product(Normed(rows), qkv)

    def _forward(
        self, tokens: torch.Tensor, attend: Attend, wanted: torch.Tensor | None, *, prepared: bool = True
    ) -> torch.Tensor:
        c = self.config
        count, heads = len(tokens), [c.num_heads, c.num_kv_heads, c.num_kv_heads]
        # Every second matrix is followed by the norm before the next, and what adds may normalise, too.
        later = [
            *((layer.attention_norm, layer.qkv) for layer in self.layers[1:]),
            (self.final_norm, self.head),
        ]
        residual, projected = self._started(tokens, prepared=prepared)
        for index, (layer, (next_norm, next_weight)) in enumerate(zip(self.layers, later, strict=True)):
            query, keys, values = torch.split(projected.view(count, -1, c.head_dim), heads, dim=1)
            attended = attend(index, query, keys, values).flatten(1)
            if wanted is not None and index == c.num_layers - 1:
                # Nothing after the last layer's attention reads other tokens.
                attended, residual = attended[wanted], residual[wanted]
            normed = self._added(attended, layer.output, residual, layer.mlp_norm)
            normed = self._added(self._gated(normed, index), layer.down, residual, next_norm)
            projected = self._product(normed, next_weight)
        return projected

    def _product(self, x: Normed, weight: torch.Tensor) -> torch.Tensor:
        """x weightᵀ, divided where the norm left that to it."""
        if x.squares is not None or x.rows.shape[0] <= self._few_rows.linear:
            return linear_few_rows(x.rows, weight, x.squares, self.config.rms_norm_eps)
        return F.linear(x.rows, weight)

    def _gated(self, x: Normed, layer: int) -> torch.Tensor:
        gate_up = self.layers[layer].gate_up
        if not self._few_rows.gated:
            return silu_mul(self._product(x, gate_up))
        panels = self._prepared[layer + 1].of(gate_up) if layer + 1 < len(self._prepared) else None
        return gated_linear(x.rows, gate_up, x.squares, self.config.rms_norm_eps, panels)

    def _added(
        self, x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, norm: torch.Tensor
    ) -> Normed:
        """Add x weightᵀ to the residual, where a model is split the sum of all ranks; return its norm.

        Of few rows that is not divided yet. The weight is one of the two that have few rows of their own.
        """
        few, rows, eps = self._few_rows, x.shape[0], self.config.rms_norm_eps
        if self.shard.size == 1:
            if 0 < rows <= few.undivided:
                return Normed(*add_linear(x, weight, residual, norm))
            if 0 < rows <= few.parted:
                return Normed(add_parts_rms_norm(linear_parts(x, weight, PARTS), residual, norm, eps))
            if rows > few.narrow and x.is_cuda:
                # The library adds where it stores, and the norm has half to read and write.
                return Normed(rms_norm(residual.addmm_(x, weight.T), norm, eps))
        product = linear_few_rows(x, weight) if rows <= few.narrow else F.linear(x, weight)
        return Normed(add_rms_norm(self.shard.sum(product), residual, norm, eps))

    def new_cache(
        self,
        num_blocks: int,
        block_size: int,
        *,
        num_swap_blocks: int = 0,
        layout: Layout = "NHD",
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """Return a KV cache with this model's layers and heads, on its device; dtype None: the model's."""
        c = self.config
        return KVCache(
            num_blocks, block_size, c.num_kv_heads, c.head_dim, dtype or self.dtype, self.device,
            num_layers=c.num_layers, layout=layout, num_swap_blocks=num_swap_blocks,
        )  # fmt: skip
