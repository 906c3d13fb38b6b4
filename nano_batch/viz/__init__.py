"""Views of runs for notebooks: live in the browser, still in a document, as numbers in a table."""

from nano_batch.viz.base import View
from nano_batch.viz.block_table import BlockTableView
from nano_batch.viz.chart import (
    Area,
    Axis,
    Band,
    Bars,
    Cells,
    Chart,
    Line,
    Panel,
    Points,
    Ribbon,
    Rule,
    Shade,
    Text,
)
from nano_batch.viz.chart_view import ChartView
from nano_batch.viz.controls import Control
from nano_batch.viz.figure import figure
from nano_batch.viz.gantt import GanttView
from nano_batch.viz.opening import OpeningView
from nano_batch.viz.run_view import RunView
from nano_batch.viz.selection import Selection
from nano_batch.viz.steer import SteeredView
from nano_batch.viz.table import Table

__all__ = [
    "Area",
    "Axis",
    "Band",
    "Bars",
    "BlockTableView",
    "Cells",
    "Chart",
    "ChartView",
    "Control",
    "GanttView",
    "Line",
    "OpeningView",
    "Panel",
    "Points",
    "Ribbon",
    "Rule",
    "RunView",
    "Selection",
    "Shade",
    "SteeredView",
    "Table",
    "Text",
    "View",
    "figure",
]
