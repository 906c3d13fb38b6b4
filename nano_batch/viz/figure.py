"""The block table as a plotly figure: a pure function of records, for a reader's own script or `interact`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch.viz.frame import frame_at
from nano_batch.viz.palette import STATES
from nano_batch.viz.poster import grid
from nano_batch.viz.run_view import event_log
from nano_batch.viz.usage import blocks_held
from nano_batch.viz.wire import step_range

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figure(run: Any, step: int) -> go.Figure:
    """Every block's state at `step` as a heatmap, over the blocks held in each step of `run`.

    Args:
        run: a run, an engine with its event log on, or a log.
        step: a step of it.

    Raises:
        ReplayError: the log holds no such step.
    """
    from plotly.graph_objects import Figure, Heatmap, Scatter
    from plotly.subplots import make_subplots

    log = event_log(run)
    frame = frame_at(log, step)
    columns, rows, _ = grid(log.num_blocks)
    state = np.full(columns * rows, np.nan)
    state[: log.num_blocks] = frame.state
    fill = np.zeros(columns * rows, np.int64)
    fill[: log.num_blocks] = frame.fill
    colours = [each.light for each in sorted(STATES, key=lambda each: each.number)]
    scale = [[(i + end) / len(colours), colour] for i, colour in enumerate(colours) for end in (0, 1)]
    labels = np.array([each.label for each in sorted(STATES, key=lambda each: each.number)])
    cells = Heatmap(
        z=state.reshape(rows, columns),
        zmin=-0.5,
        zmax=len(colours) - 0.5,
        colorscale=scale,
        colorbar={"tickvals": list(range(len(colours))), "ticktext": labels.tolist(), "y": 0.65, "len": 0.7},
        customdata=fill.reshape(rows, columns),
        xgap=1,
        ygap=1,
        hovertemplate="row from %{y}, +%{x}: %{customdata} token slots written<extra></extra>",
        y=[row * columns for row in range(rows)],
    )
    first, last = step_range(log)
    held = Scatter(
        x=list(range(first, last + 1)), y=blocks_held(log).tolist(), name="blocks held", line_shape="hv"
    )
    drawn: Figure = make_subplots(rows=2, cols=1, row_heights=[0.7, 0.3])
    drawn.add_trace(cells, row=1, col=1)
    drawn.add_trace(held, row=2, col=1)
    drawn.add_vline(x=step, row=2, col=1)
    drawn.update_yaxes(autorange="reversed", title_text="block", row=1, col=1)
    drawn.update_yaxes(range=[0, log.num_blocks], title_text="blocks held", row=2, col=1)
    drawn.update_xaxes(title_text="step", row=2, col=1)
    drawn.update_layout(title=f"Physical KV blocks, step {step}", showlegend=False)
    return drawn
