"""The engine in a reader's hands: a small Mistral with random weights, recorded as it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nano_batch.errors import MissingExtraError

if TYPE_CHECKING:
    from nano_batch.engine import RecordedEngine

INSTALL = "the inference engine needs torch: uv sync, or pip install 'nano-batch[engine]'"
SIZES: dict[str, Any] = {
    "num_blocks": 24, "block_size": 16, "max_num_seqs": 8, "max_num_batched_tokens": 512,
    "steps_in_flight": 0, "device": "cpu", "seed": 0,
}  # fmt: skip
"""A memory small enough to be drawn, and steps that end before the next is planned: each picture is whole."""


def paged_mistral(**options: Any) -> RecordedEngine:
    """A real engine over the shape "tiny" of four layers: random weights, token ids in and out.

    Args:
        options: of `InferenceEngine.from_pretrained`, where they are not `SIZES`.

    Raises:
        MissingExtraError: PyTorch is not installed.
        Those of the engine.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(INSTALL) from error
    from nano_batch.engine import RecordedEngine

    engine = RecordedEngine.from_pretrained("tiny", load_format="dummy", **{**SIZES, **options})
    assert isinstance(engine, RecordedEngine)
    _warm(engine)
    return engine


def _warm(engine: RecordedEngine) -> None:
    """Serve a token elsewhere, over the same weights: the first call of PyTorch's own loads much."""
    from nano_batch.engine import InferenceEngine, SamplingParams

    other = InferenceEngine(engine.model, num_blocks=2, max_num_seqs=1, max_model_len=16)
    other.generate([1, 2, 3], SamplingParams(temperature=0.0, max_tokens=2), progress=False)
