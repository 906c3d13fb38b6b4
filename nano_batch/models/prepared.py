"""What steps read in place of weights: copies and products of these, made once."""

from __future__ import annotations

import torch


class Prepared:
    """A tensor that is made of weights, for as long as they are what they were.

    That they are is told by PyTorch's count of what is written to a tensor. It does not count what is written
    through `.data` or NumPy, nor to tensors of inference mode.

    Args:
        tensor: where it is to be made; a graph that was captured reads on there.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        """It is made of nothing yet."""
        self.tensor = tensor
        self.is_of()

    def is_of(self, *weights: torch.Tensor) -> None:
        """From now on it is made of these; of none while it is written."""
        self._weights = weights
        self._versions = [None if weight.is_inference() else weight._version for weight in weights]

    def of(self, *weights: torch.Tensor) -> torch.Tensor | None:
        """The tensor if it is made of these, as they are now; else None, as in a trace, which cannot look."""
        if len(weights) != len(self._weights) or torch.compiler.is_compiling():
            return None
        for weight, known, version in zip(weights, self._weights, self._versions, strict=True):
            if weight is not known or (version is not None and weight._version != version):
                return None
        return self.tensor
