"""The block table: the physical KV blocks of a run, step by step, as a heatmap whose colour is the state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import traitlets

from nano_batch._choices import check_choice
from nano_batch.errors import ViewError
from nano_batch.records import EventLog
from nano_batch.viz import poster
from nano_batch.viz.bundle import bundle
from nano_batch.viz.controls import KNOWN, Control, control
from nano_batch.viz.frame import Frame, frame_at
from nano_batch.viz.palette import OTHERS, OWNERS, RAMPS, STATES
from nano_batch.viz.run_view import RunView, event_log
from nano_batch.viz.sequences import describe_request, logical_tables, queues
from nano_batch.viz.table import Table, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_BLOCKS = 1 << 18
# What a token's keys and values take in the model named beside the memory: 32 layers of 8 heads of 128, bf16.
MODEL, KV_BYTES_PER_TOKEN = "Mistral 7B", 2 * 32 * 8 * 128 * 2
Colour = Literal["state", "owner", "age", "references"]


class BlockTableView(RunView):
    """A live heatmap of the physical blocks of `run` (a run, an engine with its event log on, or a log).

    Beside the blocks stand the logical tables of the selected requests (`view.selected.requests`), the
    running and waiting queues, and the memory held over the run, which is the scrubber.

    Args:
        run: what is shown; a view never computes a schedule of its own.
        rerun: called with the controls' settings by name (`rerun(block_size=...)`) when one is changed, it
            serves the same requests with the same KV memory (in tokens) and returns the run. Without it there
            are no controls.
        block_sizes: the values of that control, tokens; by default the powers of two from 1 to 256 that
            divide the memory.
        settings: further controls, by the engine's name of each, with the value that `run` was made with.
        options: what any view of a run takes: `about`, `source`, `recreate`, `made_with`, `selection`.

    Raises:
        ViewError: if the run has no events, or more than 262,144 blocks.
    """

    _esm: ClassVar[Any] = bundle("block_table.js")
    _states = traitlets.List([asdict(state) for state in STATES]).tag(sync=True)
    _palette = traitlets.Dict({"owners": OWNERS, "others": OTHERS, "ramps": RAMPS}).tag(sync=True)
    colour = traitlets.Unicode("state").tag(sync=True)
    block_size = traitlets.Int().tag(sync=True)
    max_num_seqs = traitlets.Int(0).tag(sync=True)
    max_num_batched_tokens = traitlets.Int(0).tag(sync=True)
    policy = traitlets.Unicode("").tag(sync=True)
    preemption = traitlets.Unicode("").tag(sync=True)
    eviction = traitlets.Unicode("").tag(sync=True)
    watermark = traitlets.Float(0.0).tag(sync=True)
    enable_prefix_caching = traitlets.Bool(True).tag(sync=True)

    def __init__(
        self,
        run: Any,
        *,
        rerun: Callable[..., Any] | None = None,
        block_sizes: Iterable[int] | None = None,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        log = event_log(run)
        own = {"block_size": log.block_size, **(settings or {})}
        sizes = whole_blocks(log) if block_sizes is None else tuple(block_sizes)
        super().__init__(
            run,
            rerun=rerun,
            controls=controls(own, sizes),
            title="Physical KV blocks",
            **own,
            **options,
        )

    @traitlets.validate("colour")
    def _check_colour(self, proposal: Any) -> str:
        check_choice("colour", proposal["value"], Colour)
        return str(proposal["value"])

    def _describe(self, log: EventLog) -> str:
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

    def logical_tables(self) -> Table:
        """The selected requests' tables at `step`: index to physical block, tokens, references."""
        return logical_tables(self._log, self.step, self._requests)

    def queues(self) -> Table:
        """Who runs (by lane) and who waits (by arrival) at `step`, with tokens stored and blocks held."""
        return queues(self._log, self.step)

    def _engine_line(self) -> str:
        """The engine's settings as they are shown; those without a control are not known here."""
        texts = {
            "policy": f"policy {self.policy}",
            "max_num_seqs": f"{self.max_num_seqs} sequences at once",
            "max_num_batched_tokens": f"{self.max_num_batched_tokens:,} tokens a step",
        }
        moved = [
            f"{name} {value}" for name, value in self._moved().items() if name not in {"block_size", *texts}
        ]
        return ", ".join([text for name, text in texts.items() if name in self._homes] + moved)

    def _selected_texts(self) -> list[str]:
        return [describe_request(self._log, self.step, self._requests, i) for i in range(len(self._requests))]

    def caption(self) -> str:
        """Settings, the step shown by state, the whole run, and the change since the setting before."""
        use = self._usage
        states = ", ".join(f"{row[0]} {row[1]}" for row in self.table().rows[:-1])
        lines = [
            f"{self.title}, {self._source}: {self._settings_line}",
            *(line for line in ["; ".join(filter(None, (self._about, self._engine_line())))] if line),
            f"step {self.step} of {use.steps}: {states}",
            f"whole run: at most {percent(use.peak, use.num_blocks)} % of the blocks held, "
            f"{use.preemptions:,} preemptions, {use.evictions:,} evictions",
        ]
        if self._difference:
            lines.append(self._difference)
        if self._requests:
            lines.append("selected: " + "; ".join(self._selected_texts()))
        return "\n".join(lines)

    def poster(self) -> bytes:
        """The cells at `step` as PNG."""
        return poster.png(self.frame(), self._log.block_size)

    def svg(self) -> str:
        """The cells at `step` with legend and caption as SVG."""
        return poster.svg(self.frame(), self._log.block_size, self.caption())

    def figure(self) -> go.Figure:
        """The blocks at `step` and the memory held over the run, as a plotly figure."""
        from nano_batch.viz.figure import figure

        return figure(self._log, self.step)

    def _file_name(self) -> str:
        return f"blocks_step_{self.step}"


def whole_blocks(log: EventLog) -> tuple[int, ...]:
    """The powers of two from 1 to 256 that divide the memory of `log` into blocks that can be drawn."""
    memory = log.num_blocks * log.block_size
    return tuple(1 << i for i in range(9) if memory % (1 << i) == 0 and memory >> i <= MOST_BLOCKS)


def controls(settings: Mapping[str, Any], block_sizes: tuple[int, ...]) -> tuple[Control, ...]:
    """A control for each of `settings`, whose values are the defaults, in the page's order."""
    return tuple(
        control(name, settings[name], block_sizes if name == "block_size" else None)
        for name in KNOWN
        if name in settings
    )
