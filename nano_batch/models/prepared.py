"""What steps read in place of weights: copies and products of these, made once."""

from __future__ import annotations

import torch


class Prepared:
    """A tensor made of weights, for as long as they are what they were.

    Args:
        tensor: what is made of them; a graph that was captured reads on there.
        weights: of which it is made.
    """

    def __init__(self, tensor: torch.Tensor, *weights: torch.Tensor) -> None:
        """Note how often the weights have been written to."""
        self.tensor = tensor
        self._weights, self._versions = weights, [_version(weight) for weight in weights]

    @property
    def unchanged(self) -> torch.Tensor | None:
        """The tensor; None where a weight has been written to since."""
        return self.tensor if self._versions == [_version(weight) for weight in self._weights] else None


def _version(weight: torch.Tensor) -> int:
    """How often it has been written to; of a tensor of inference mode PyTorch does not count."""
    return 0 if weight.is_inference() else weight._version
