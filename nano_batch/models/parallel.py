"""A model's part on one of several devices (Shoeybi et al., "Megatron-LM", 2019).

Query, key, value, gate and up matrices are split by rows, that is by heads and by columns of the MLP; the
output and down matrices, which multiply what these give, by columns. Each rank then has a summand of the
result, and one all-reduce after each of these two adds them. Norms, embedding and head are whole on every
rank: in the 7B shapes the head is 2 % of the weights, and half of it would cost a gather of all logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import AllreduceOptions, BroadcastOptions, ReduceOp

from nano_batch.errors import InvalidArgumentError

if TYPE_CHECKING:
    from nano_batch.models.mistral import MistralConfig

SPLIT_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
SPLIT_COLUMNS = ("o_proj", "down_proj")
_SPLIT = ("num_heads", "num_kv_heads", "intermediate_size")


@dataclass(frozen=True)
class Shard:
    """Which part of a model a process holds, and how it adds its results to those of the others.

    Args:
        rank: 0 to size - 1.
        size: how many parts there are.
        group: a backend of `torch.distributed` (`ProcessGroupNCCL`, `ProcessGroupGloo`) of all ranks; None
            where there is one part, or where none is computed.

    Raises:
        InvalidArgumentError: there is no such rank.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def __post_init__(self) -> None:
        """Check the rank."""
        if not 0 <= self.rank < self.size:
            raise InvalidArgumentError(f"rank {self.rank} is not from 0 to {self.size - 1}")

    def config(self, whole: MistralConfig) -> MistralConfig:
        """The shapes of a part. Raises `InvalidArgumentError` where heads or columns do not divide."""
        for name in _SPLIT:
            if getattr(whole, name) % self.size:
                raise InvalidArgumentError(
                    f"{name}={getattr(whole, name)} cannot be split among {self.size} devices"
                )
        return replace(whole, **{name: getattr(whole, name) // self.size for name in _SPLIT})

    def alone(self) -> Shard:
        """The same part without the others: it can be looked at, and computes no more."""
        return replace(self, group=None)

    def place(self, name: str, part: torch.Size) -> tuple[list[int], tuple[slice, ...]]:
        """The whole shape of a weight, by its name in a checkpoint, and where this part lies in it."""
        matrix = name.removesuffix(".weight").rpartition(".")[2]
        whole, where = list(part), [slice(0, length) for length in part]
        if matrix in SPLIT_ROWS + SPLIT_COLUMNS:
            dim = 0 if matrix in SPLIT_ROWS else 1
            whole[dim] *= self.size
            where[dim] = slice(self.rank * part[dim], (self.rank + 1) * part[dim])
        return whole, tuple(where)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' tensors, in place; the host does not wait for a CUDA device."""
        if self.size > 1 and tensor.numel():
            _done(self.group.allreduce([tensor], _in_this_stream(AllreduceOptions())))
        return tensor

    def of_first(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor of rank 0, in place; the host does not wait for a CUDA device."""
        if self.size > 1 and tensor.numel():
            options = _in_this_stream(BroadcastOptions())
            options.rootRank = 0
            _done(self.group.broadcast([tensor], options))
        return tensor

    def least(self, number: int, device: torch.device) -> int:
        """The least of all ranks' numbers; `device` is where the group computes."""
        if self.size == 1:
            return number
        options = _in_this_stream(AllreduceOptions())
        options.reduceOp = ReduceOp.MIN
        there = torch.tensor([number], dtype=torch.int64, device=device)
        _done(self.group.allreduce([there], options))
        return int(there)


def _in_this_stream(options: Any) -> Any:
    """Another stream would have to wait for this one, and this one for it, twice a layer."""
    if hasattr(options, "asyncOp"):  # not in all versions of PyTorch from 2.6 on
        options.asyncOp = False
    return options


def _done(work: Any) -> None:
    """Wait, where there is anything to wait for: on CUDA the stream does, on a CPU the host."""
    if work is not None:
        work.wait()


WHOLE = Shard()
