"""Cards of GPUs and models: the numbers that cost models and memory sizes are made from (docs/costs.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

from nano_batch import _core
from nano_batch._choices import check_choice
from nano_batch.display import Shown, html_table, number, readable_bytes
from nano_batch.errors import InvalidArgumentError

HardwareName = Literal["a10", "a100", "h100", "h200", "l4", "l40s", "rtx4090", "t4"]
ModelName = Literal[
    "llama-2-7b",
    "llama-3.1-8b",
    "mistral-7b-v0.1",
    "mistral-7b-v0.3",
    "opt-125m",
    "opt-13b",
    "tinyllama-1.1b",
]


@dataclass(frozen=True, repr=False)
class ModelCard(Shown):
    """The shape of a decoder: what its steps compute and what its tokens store.

    Attributes:
        name: of the card.
        title: for captions.
        parameters: as published.
        num_layers: decoder layers.
        hidden_size: of the residual stream.
        num_heads: query heads.
        num_kv_heads: key and value heads.
        head_dim: of each head.
        intermediate_size: of the MLP.
        vocab_size: rows of the logits.
        gated_mlp: three matrices in the MLP instead of two.
        tied_embeddings: the logits' matrix is the embedding.
        sliding_window: keys that a query sees, or None for all.
        max_model_len: longest sequence that it was made for, in tokens.
        bytes_per_parameter: 2 for bf16 and fp16, also of keys and values.
        source: where the numbers are from.
    """

    name: str
    title: str
    parameters: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    gated_mlp: bool
    tied_embeddings: bool
    sliding_window: int | None
    max_model_len: int
    bytes_per_parameter: int
    source: str

    def __repr__(self) -> str:
        return (
            f"ModelCard({self.name}: {self.parameters / 1e9:.3g} billion parameters, "
            f"{readable_bytes(self.kv_bytes_per_token)} of KV a token)"
        )

    @property
    def linear_parameters(self) -> int:
        """Of the layers' matrices: every token is multiplied with each of them."""
        projections = self.hidden_size * self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        return self.num_layers * (projections + self._parameters_behind_attention)

    @property
    def _parameters_behind_attention(self) -> int:
        """Of a layer: what its attention's output is multiplied with, and the MLP."""
        output = self.hidden_size * self.head_dim * self.num_heads
        return output + (3 if self.gated_mlp else 2) * self.hidden_size * self.intermediate_size

    @property
    def flops_per_token(self) -> float:
        """Of the layers' matrices, two operations a parameter."""
        return 2.0 * self.linear_parameters

    @property
    def flops_behind_attention(self) -> float:
        """Of one layer's matrices behind its attention, for each token."""
        return 2.0 * self._parameters_behind_attention

    @property
    def flops_per_sample(self) -> float:
        """Of the logits, for each row that is sampled from."""
        return 2.0 * self.hidden_size * self.vocab_size

    @property
    def flops_per_pair(self) -> float:
        """Of attention, for each query and key: scores and weighted values, all layers."""
        return 4.0 * self.num_heads * self.head_dim * self.num_layers

    @property
    def step_weight_bytes(self) -> int:
        """Read in every step: the layers and the logits' matrix; of an embedding only rows are read."""
        return self.bytes_per_parameter * (self.linear_parameters + self.hidden_size * self.vocab_size)

    @property
    def weight_bytes(self) -> int:
        """All parameters."""
        return self.bytes_per_parameter * self.parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token, all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.bytes_per_parameter

    @property
    def kernels_per_step(self) -> int:
        """About how many kernels a step launches: ten a layer, and the embedding, logits and sampling."""
        return 10 * self.num_layers + 6


@dataclass(frozen=True, repr=False)
class HardwareCard:
    """One GPU in numbers; each says in `sources` where it is from: a datasheet, measured, or assumed.

    Attributes:
        name: of the card.
        title: for captions.
        flops_per_s: of bf16 matrix products, dense.
        bytes_per_s: of its memory.
        memory_bytes: its size.
        host_bytes_per_s: between host and device, one way.
        launch_s: a kernel's launch, as a gap on the device.
        sources: number's name to (kind, words).
    """

    name: str
    title: str
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    host_bytes_per_s: float
    launch_s: float
    sources: Mapping[str, tuple[str, str]]

    def __repr__(self) -> str:
        return (
            f"HardwareCard({self.name}: {self.flops_per_s / 1e12:.4g} TFLOP/s, "
            f"{self.bytes_per_s / 1e12:.3g} TB/s, {readable_bytes(int(self.memory_bytes))})"
        )

    def _repr_html_(self) -> str:
        rows = [
            (name, number(value) if value >= 1 else f"{value:.2g}", *self.sources[name])
            for name, value in ((name, getattr(self, name)) for name in self.sources)
        ]
        return html_table(self.title, ["", "value", "kind", "source"], rows)


@cache
def card_text(kind: str, name: str) -> dict[str, Any]:
    """A compiled-in card's JSON."""
    texts = {(kind, name): text for kind, name, text in _core.cards()}
    content: dict[str, Any] = json.loads(texts[kind, name])
    return content


def model_card(name: ModelName) -> ModelCard:
    """The card of a model. Raises `UnknownOptionError` with the nearest name for one that is misspelt."""
    check_choice("model", name, ModelName)
    known = {field.name for field in fields(ModelCard)}
    return ModelCard(**{key: value for key, value in card_text("model", name).items() if key in known})


def hardware_card(name: HardwareName) -> HardwareCard:
    """The card of a GPU. Raises `UnknownOptionError` with the nearest name for one that is misspelt."""
    check_choice("hardware", name, HardwareName)
    content = card_text("hardware", name)
    numbers = {key: entry for key, entry in content.items() if isinstance(entry, dict)}
    return HardwareCard(
        name=content["name"],
        title=content["title"],
        sources={key: (entry["kind"], entry["source"]) for key, entry in numbers.items()},
        **{key: float(entry["value"]) for key, entry in numbers.items()},
    )


def memory_tokens(
    hardware: HardwareName | HardwareCard, model: ModelName | ModelCard, *, fraction: float = 0.9
) -> int:
    """Tokens whose keys and values fit beside the weights into a fraction of a GPU's memory.

    Activations are not counted; leave room for them in `fraction`.

    Raises:
        InvalidArgumentError: the fraction is not above 0 and at most 1, or the weights alone do not fit.
    """
    if not 0 < fraction <= 1:
        raise InvalidArgumentError(f"fraction is {fraction}; it must be above 0 and at most 1")
    gpu, shape = _hardware(hardware), _model(model)
    room = gpu.memory_bytes * fraction - shape.weight_bytes
    tokens = int(room // shape.kv_bytes_per_token)
    if tokens < 1:
        raise InvalidArgumentError(
            f"{shape.title} has {readable_bytes(shape.weight_bytes)} of weights; {fraction:.0%} of "
            f"{gpu.title} is {readable_bytes(int(gpu.memory_bytes * fraction))}"
        )
    return tokens


def _hardware(card: HardwareName | HardwareCard) -> HardwareCard:
    return card if isinstance(card, HardwareCard) else hardware_card(card)


def _model(card: ModelName | ModelCard) -> ModelCard:
    return card if isinstance(card, ModelCard) else model_card(card)


def roofline_numbers(
    hardware: HardwareName | HardwareCard, model: ModelName | ModelCard, block_size: int
) -> dict[str, float]:
    """The arguments of `Roofline` for a model on a GPU."""
    gpu, shape = _hardware(hardware), _model(model)
    return {
        "flops_per_s": gpu.flops_per_s,
        "bytes_per_s": gpu.bytes_per_s,
        "host_bytes_per_s": gpu.host_bytes_per_s,
        "overhead_s": gpu.launch_s * shape.kernels_per_step,
        "weight_bytes": float(shape.step_weight_bytes),
        "flops_per_token": shape.flops_per_token,
        "flops_per_sample": shape.flops_per_sample,
        "flops_per_pair": shape.flops_per_pair,
        "kv_bytes_per_token": float(shape.kv_bytes_per_token),
        "block_bytes": float(shape.kv_bytes_per_token * block_size),
    }
