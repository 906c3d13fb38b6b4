"""Functions of tensors that are operators of PyTorch where that matters."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
Form = Callable[Concatenate[torch.Tensor, P], R]


def operator(fake: Callable[..., R], *mutated: str) -> Callable[[Form[P, R]], Form[P, R]]:
    """Make a function an operator, `torch.ops.nano_batch.<its name>`, which says what it changes.

    As such it is called on CUDA tensors and in a trace of `torch.compile`; elsewhere the function itself is,
    for the detour would cost more than a few rows do.

    Args:
        fake: an output as the operator's, without values.
        mutated: the arguments that it changes.
    """

    def decorate(function: Form[P, R]) -> Form[P, R]:
        known = torch.library.custom_op(f"nano_batch::{function.__name__}", function, mutates_args=mutated)
        known.register_fake(fake)

        @wraps(function)
        def call(first: torch.Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
            if first.is_cuda or torch.compiler.is_compiling():
                chosen: Form[P, R] = known
                return chosen(first, *args, **kwargs)
            return function(first, *args, **kwargs)

        return call

    return decorate
