"""Views of runs for notebooks: live in the browser, still in a document, as numbers in a table."""

from nano_batch.viz.base import View
from nano_batch.viz.block_table import BlockTableView
from nano_batch.viz.steer import Control, RunView
from nano_batch.viz.table import Table

__all__ = ["BlockTableView", "Control", "RunView", "Table", "View"]
