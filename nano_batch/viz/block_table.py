"""The block table: the physical KV blocks of a run, step by step, as a heatmap whose colour is the state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, ClassVar

import traitlets

from nano_batch.errors import ViewError
from nano_batch.viz import poster
from nano_batch.viz.bundle import bundle
from nano_batch.viz.frame import Frame, frame_at
from nano_batch.viz.palette import STATES
from nano_batch.viz.steer import Control, RunView, event_log
from nano_batch.viz.table import Table, percent

MOST_BLOCKS = 1 << 18
# What a token's keys and values take in the model named beside the memory: 32 layers of 8 heads of 128, bf16.
MODEL, KV_BYTES_PER_TOKEN = "Mistral 7B", 2 * 32 * 8 * 128 * 2


class BlockTableView(RunView):
    """A live heatmap of the physical blocks of `run` (a run, an engine with its event log on, or a log).

    Args:
        run: what is shown; a view never computes a schedule of its own.
        rerun: called as `rerun(block_size=...)` when the block size is changed, it serves the same requests
            with the same KV memory (in tokens) and returns the run. Without it there is no such control.
        block_sizes: the values of the control, tokens; by default the powers of two from 1 to 256 that divide
            the memory.
        about: one line that names the workload, its seed and the policy.
        source: where the numbers come from.

    Raises:
        ViewError: if the run has no events, or more than 262,144 blocks.
    """

    _esm: ClassVar[Any] = bundle("block_table.js")
    _states = traitlets.List([asdict(state) for state in STATES]).tag(sync=True)
    block_size = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        run: Any,
        *,
        rerun: Callable[..., Any] | None = None,
        block_sizes: Iterable[int] | None = None,
        about: str = "",
        source: str = "live, this machine",
    ) -> None:
        log = event_log(run)
        memory = log.num_blocks * log.block_size
        sizes = [1 << i for i in range(9) if memory % (1 << i) == 0 and memory >> i <= MOST_BLOCKS]
        control = Control(
            name="block_size",
            label="Block size",
            unit="tokens",
            values=tuple(sorted({log.block_size, *(sizes if block_sizes is None else block_sizes)})),
            default=log.block_size,
            note="larger: shorter tables, more slots left empty",
        )
        super().__init__(
            log,
            rerun=rerun,
            controls=(control,),
            about=about,
            source=source,
            title="Physical KV blocks",
            block_size=log.block_size,
        )

    def _describe(self) -> str:
        log = self._log
        if log.num_blocks > MOST_BLOCKS:
            raise ViewError(f"{log.num_blocks:,} blocks: this view draws at most {MOST_BLOCKS:,}")
        tokens = log.num_blocks * log.block_size
        memory = f"{tokens:,} tokens of KV memory ({tokens * KV_BYTES_PER_TOKEN / 2**30:.3g} GiB for {MODEL})"
        return f"{memory} = {log.num_blocks:,} blocks of {log.block_size} tokens"

    def frame(self) -> Frame:
        """State and fill of every block at `step`."""
        return frame_at(self._log, self.step)

    def table(self) -> Table:
        """Blocks and stored tokens by state at `step`: the numbers that the legend and the page show."""
        return self.frame().table()

    def caption(self) -> str:
        """Settings, the step shown by state, the whole run, and the change since the setting before."""
        use = self._usage
        states = ", ".join(f"{row[0]} {row[1]}" for row in self.table().rows[:-1])
        lines = [
            f"{self.title}, {self._source}: {self._settings_line}",
            *([self._about] if self._about else []),
            f"step {self.step} of {use.steps}: {states}",
            f"whole run: at most {percent(use.peak, use.num_blocks)} % of the blocks held, "
            f"{use.preemptions:,} preemptions, {use.evictions:,} evictions",
        ]
        if self._before is not None:
            old = self._before
            lines.append(
                f"against the setting before: {use.steps - old.steps:+,} steps, "
                f"{use.preemptions - old.preemptions:+,} preemptions, "
                f"{use.evictions - old.evictions:+,} evictions"
            )
        return "\n".join(lines)

    def poster(self) -> bytes:
        """The cells at `step` as PNG."""
        return poster.png(self.frame(), self._log.block_size)

    def svg(self) -> str:
        """The cells at `step` with legend and caption as SVG."""
        return poster.svg(self.frame(), self._log.block_size, self.caption())
