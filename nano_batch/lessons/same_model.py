"""Whether the paged model is Transformers' own: the same weights and tokens in, logits and tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nano_batch.display import html_table

if TYPE_CHECKING:
    import torch

    from nano_batch.engine import InferenceEngine
    from nano_batch.models import PagedMistral

NOT_INSTALLED = "Transformers is not installed: pip install transformers. Nothing was compared."
MOST_DIFFERENCE = 1e-4
"""Of logits in float32: both add up the same products, in another order."""


@dataclass(frozen=True, repr=False)
class SameModel:
    """What a comparison found; a cell that ends with it shows it.

    Attributes:
        compared: tokens whose logits were compared; 0 where Transformers is not installed.
        largest_difference: of all these logits.
        tokens, their_tokens: what this engine and Transformers' `generate()` wrote.
    """

    compared: int
    largest_difference: float
    tokens: tuple[int, ...]
    their_tokens: tuple[int, ...]

    @property
    def holds(self) -> bool | None:
        """Whether logits and tokens agree; None where nothing was compared."""
        if not self.compared:
            return None
        return self.tokens == self.their_tokens and self.largest_difference < MOST_DIFFERENCE

    def __repr__(self) -> str:
        if not self.compared:
            return NOT_INSTALLED
        equal = sum(one == other for one, other in zip(self.tokens, self.their_tokens, strict=True))
        below = "below" if self.largest_difference < MOST_DIFFERENCE else "NOT below"
        return (
            f"{equal} of {len(self.tokens)} greedy tokens are equal.\n"
            f"The largest difference of the logits of {self.compared} tokens is {below} {MOST_DIFFERENCE}."
        )

    def _repr_html_(self) -> str:
        if not self.compared:
            return f"<p>{NOT_INSTALLED}</p>"
        rows = zip(range(len(self.tokens)), self.tokens, self.their_tokens, strict=True)
        return html_table(repr(self), ["output", "this engine", "Transformers"], list(rows))


def same_as_transformers(
    engine: InferenceEngine, prompt: Sequence[int], *, max_tokens: int = 24
) -> SameModel:
    """Let this engine and Transformers continue a prompt greedily, and compare tokens and logits.

    Transformers' model has views of the same weights, and computes without blocks. The logits are those of
    the prompt with its continuation, which the paged model computes through a block table in random order.

    Raises:
        Those of `InferenceEngine.generate`.
    """
    from nano_batch.engine import SamplingParams

    asked = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    (output,) = engine.generate(list(prompt), asked, progress=False)
    if find_spec("transformers") is None:
        return SameModel(0, float("nan"), tuple(output.token_ids), ())
    import torch

    from nano_batch.benchmarks.engines.transformers_model import greedy_config, transformers_model

    theirs: Any = transformers_model(engine.model)
    ids = torch.tensor([list(prompt)], device=engine.model.device)
    with torch.no_grad():
        written = theirs.generate(
            ids, attention_mask=torch.ones_like(ids),
            generation_config=greedy_config(max_new_tokens=max_tokens),
        )[0, len(prompt) :].tolist()  # fmt: skip
        whole = [*prompt, *output.token_ids]
        logits = theirs(torch.tensor([whole], device=engine.model.device)).logits[0]
        off = (paged_logits(engine.model, whole) - logits).abs().max()
    return SameModel(len(whole), float(off), tuple(output.token_ids), tuple(written))


def paged_logits(model: PagedMistral, tokens: Sequence[int], block_size: int = 16) -> torch.Tensor:
    """Logits [tokens, vocab_size] of one sequence, its keys and values written to blocks in random order."""
    import torch

    from nano_batch.models import PagedInputs

    count, blocks = len(tokens), -(-len(tokens) // block_size)
    table = torch.randperm(blocks, generator=torch.Generator().manual_seed(1))
    place = torch.arange(count)
    slots = table[place // block_size] * block_size + place % block_size
    here = model.device
    inputs = PagedInputs(
        torch.tensor(tokens, device=here), place.to(here), slots.to(here), table[None].int().to(here),
        torch.tensor([count], dtype=torch.int32, device=here),
        torch.tensor([0, count], dtype=torch.int32, device=here),
    )  # fmt: skip
    return model.paged(inputs, model.new_cache(blocks, block_size))
