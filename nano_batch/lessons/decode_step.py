"""The small decode step in a reader's hands: caches that note which blocks are read, and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nano_batch.display import html_table
from nano_batch.errors import InvalidArgumentError, MissingExtraError
from nano_batch.lessons import small_step as small

if TYPE_CHECKING:
    import torch

MOST_ERROR = 1e-12
"""Of float64 against float64: norm of the difference over norm."""
INSTALL = "attention in PyTorch needs torch: uv sync, or pip install 'nano-batch[engine]'"


@dataclass(frozen=True)
class BlockRead:
    """A block of keys or values that was read: where, by which worker (None: nobody named one)."""

    where: str
    block: int
    worker: int | None


class WatchedCache:
    """[num_blocks, block_size, num_kv_heads, head_dim] whose blocks are had by their ids: cache[ids]."""

    def __init__(self, blocks: torch.Tensor, step: DecodeStep) -> None:
        self._blocks, self._step = blocks, step

    def __getitem__(self, ids: Any) -> torch.Tensor:
        """Those blocks, noted as read; a number or a vector of them.

        Raises:
            InvalidArgumentError: there is no such block.
        """
        import torch

        asked = torch.as_tensor(ids)
        for block in asked.flatten().tolist():
            if not 0 <= block < len(self._blocks):
                raise InvalidArgumentError(f"block {block} of a cache that has 0 to {len(self._blocks) - 1}")
            self._step.note("blocks", block)
        return self._blocks[asked]

    @property
    def shape(self) -> torch.Size:
        """[num_blocks, block_size, num_kv_heads, head_dim]."""
        return self._blocks.shape


class DecodeStep:
    """One query for each of a few uneven contexts, the last token of each; all in float64.

    Attributes:
        query: [rows, heads, head_dim]; heads 4 h to 4 h + 3 read key/value head h.
        contexts: tokens of each row.
        keys, values: `WatchedCache`, blocks of `block_size` tokens in random order.
        table: [rows, most blocks] int64; -1 where a row has no block.
        reads: what was read since the last picture.
    """

    def __init__(self) -> None:
        """Draw the tensors.

        Raises:
            MissingExtraError: PyTorch is not installed.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError(INSTALL) from error
        draw = torch.Generator().manual_seed(small.SEED)
        shape = (small.NUM_BLOCKS, small.BLOCK_SIZE, small.KV_HEADS, small.HEAD_DIM)
        heads = small.KV_HEADS * small.GROUP
        self.contexts, self.block_size = small.CONTEXTS, small.BLOCK_SIZE
        self.query = torch.randn(
            len(small.CONTEXTS), heads, small.HEAD_DIM, dtype=torch.float64, generator=draw
        )
        self._caches = [torch.randn(shape, dtype=torch.float64, generator=draw) for _ in range(2)]
        self.keys, self.values = (WatchedCache(cache, self) for cache in self._caches)
        self.table = torch.from_numpy(small.block_table()).long()
        self.reads: list[BlockRead] = []
        self._worker: int | None = None

    def __repr__(self) -> str:
        rows = ", ".join(str(context) for context in self.contexts)
        return f"DecodeStep: contexts of {rows} tokens, blocks of {self.block_size}"

    def _repr_html_(self) -> str:
        rows = [
            (row, context, " ".join(str(block) for block in table if block >= 0))
            for row, (context, table) in enumerate(zip(self.contexts, self.table.tolist(), strict=True))
        ]
        return html_table(repr(self), ["row", "tokens", "blocks"], rows)

    def contiguous(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [context, num_kv_heads, head_dim] of a row, as if they lay side by side."""
        for place in range(-(-self.contexts[row] // self.block_size)):
            self.note("regions", row * self.table.shape[1] + place)
        keys, values = self._rows(row)
        return keys, values

    @contextmanager
    def worker(self, number: int) -> Iterator[None]:
        """What is read within is read by this worker."""
        self._worker = number
        try:
            yield
        finally:
            self._worker = None

    def note(self, where: str, block: int) -> None:
        """Note a block as read."""
        self.reads.append(BlockRead(where, block, self._worker))

    def errors(self, output: torch.Tensor) -> list[float]:
        """Of each row: norm of the difference from float64 dense attention over its norm.

        Raises:
            InvalidArgumentError: the output has another shape than the query.
        """
        from nano_batch.attention.dense import dense_attention

        if output.shape != self.query.shape:
            raise InvalidArgumentError(
                f"the output has shape {list(output.shape)}; the query's is {list(self.query.shape)}"
            )
        expected = [
            dense_attention(self.query[row : row + 1], *self._rows(row))[0] for row in range(len(output))
        ]
        return [float((a - b).norm() / b.norm()) for a, b in zip(output, expected, strict=True)]

    def _rows(self, row: int) -> list[torch.Tensor]:
        length = self.contexts[row]
        blocks = self.table[row, : -(-length // self.block_size)]
        return [cache[blocks].flatten(0, 1)[:length] for cache in self._caches]
