"""What every view is: a live widget with a caption, a poster, a table and a way to write them down."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from nano_batch.errors import UnknownOptionError
from nano_batch.viz.bundle import static_text

if TYPE_CHECKING:
    from nano_batch.viz.table import Table

# What belongs to a widget's place in a notebook, not to its picture.
_WIDGET = {*anywidget.AnyWidget.class_trait_names(), "_esm", "_css", "_anywidget_id"}


class View(anywidget.AnyWidget):
    """A picture of a run with its controls, in four forms.

    Live it is a widget. As `text/plain` it is its caption (3 to 6 lines, the same for the same run), as
    `image/png` its poster, for a place without a kernel. `table()` gives the numbers drawn. A subclass says
    what those are, and names its module in `static/` as `_esm`.
    """

    _css: ClassVar[Any] = static_text("view.css")
    title = traitlets.Unicode("").tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)

    def page_state(self) -> dict[str, Any]:
        """Every synchronised trait that the view's JavaScript may read."""
        return {name: value for name, value in self.get_state().items() if name not in _WIDGET}

    def caption(self) -> str:
        """3 to 6 lines: title, settings, the numbers drawn. No address, no time of day."""
        raise NotImplementedError

    def table(self) -> Table:
        """The numbers drawn, as the page shows them."""
        raise NotImplementedError

    def poster(self) -> bytes:
        """The picture as it stands, as PNG at twice the pixels."""
        raise NotImplementedError

    def svg(self) -> str:
        """The picture as it stands, as SVG with legend and caption."""
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Write the view to `path`, return it: `.png`, `.svg`, `.html` (picture and table) or `.csv` (table).

        Raises:
            UnknownOptionError: for any other ending.
        """
        path = Path(path)
        if path.suffix == ".png":
            path.write_bytes(self.poster())
        elif path.suffix == ".svg":
            path.write_text(self.svg(), encoding="utf-8")
        elif path.suffix == ".csv":
            path.write_text(self.table().to_csv(), encoding="utf-8")
        elif path.suffix == ".html":
            path.write_text(self._page(), encoding="utf-8")
        else:
            raise UnknownOptionError(f"a view is saved as .png, .svg, .html or .csv, not {path.name!r}")
        return path

    def _page(self) -> str:
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(self.title)}</title>'
        return f"{head}<body>{self.svg()}{self.table()._repr_html_()}</body></html>\n"

    def __repr__(self) -> str:
        return self.caption()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        live: Any = super()._repr_mimebundle_(**kwargs)
        data, metadata = live if isinstance(live, tuple) else (live, {})
        still = {"text/plain": self.caption(), "image/png": b64encode(self.poster()).decode()}
        return {**data, **still}, metadata
