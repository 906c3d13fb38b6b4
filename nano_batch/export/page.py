"""One executed notebook as one HTML file: no address in it is asked for, and it opens from a disk."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight  # type: ignore[import-untyped]
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

from nano_batch.export import figures
from nano_batch.jupyter.stable import WIDGET_VIEW
from nano_batch.viz.bundle import static_text

HEADING = re.compile(r"^# (.+)$", re.MULTILINE)


def title(notebook: Any) -> str:
    """The first heading of a notebook."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = next((match for match in map(HEADING.search, texts) if match), None)
    return found.group(1) if found else "notebook"


def page(notebook: Any, views: dict[str, Any], source: str) -> str:
    """The HTML of `notebook` with its `views` (as captured) and `source`, the line that says where from."""
    body = "\n".join(_cell(cell, views) for cell in notebook.cells)
    scripts = f"{figures.script(notebook)}\n{_data(views, source)}"
    return document(title(notebook), f"{body}\n{scripts}", source)


def document(heading: str, body: str, source: str) -> str:
    """A whole HTML document in the pages' style."""
    style = static_text("view.css") + _own("page.css")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n"
        f"</main>\n<footer>{escape(source)}</footer>\n</body>\n</html>\n"
    )


class _Renderer(IPythonRenderer):
    """Mathematics as it was written: what sets it in a notebook would have to be asked of the network."""

    def inline_math(self, body: str) -> str:
        return f'<code class="math">{escape(body)}</code>'

    def block_math(self, body: str) -> str:
        return f'<pre class="math">{escape(body.strip())}</pre>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def markdown(text: str) -> str:
    """Markdown as HTML; a link to another notebook leads to its page, mathematics stands as its source."""
    renderer = _Renderer(escape=False, exclude_anchor_links=True)
    html = str(MarkdownWithMath(renderer=renderer).render(text))
    return re.sub(r'href="([\w.-]+)\.ipynb', r'href="\1.html', html)


def _data(views: dict[str, Any], source: str) -> str:
    """What the page's script reads, and the script: each module of a view once, as the widget runs it."""
    modules = {_name(view["module"]): view["module"] for view in views.values()}
    entries = {number: {**view, "module": _name(view["module"])} for number, view in views.items()}
    data = {"model": _own("model.js"), "modules": modules, "views": entries, "source": source}
    text = json.dumps(data).replace("<", "\\u003c")
    script = f'<script type="application/json" id="nb-data">{text}</script>'
    return f"{script}\n<script>\n{_own('page.js')}</script>"


def _name(module: str) -> str:
    return sha256(module.encode()).hexdigest()[:16]


def _own(name: str) -> str:
    text = files("nano_batch.export").joinpath("static").joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _cell(cell: Any, views: dict[str, Any]) -> str:
    if cell.cell_type == "markdown":
        return f'<section class="text">\n{markdown(cell.source)}</section>'
    if cell.cell_type != "code":
        return f"<pre>{escape(cell.source)}</pre>"
    formatter = HtmlFormatter(nowrap=True)
    code = f'<pre class="code">{highlight(cell.source, PythonLexer(), formatter)}</pre>'
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        code = f"<details><summary>code</summary>{code}</details>"
    outputs = "\n".join(_output(output, views) for output in cell.outputs)
    return f'<section class="cell">\n{code}\n{outputs}</section>'


def _output(output: Any, views: dict[str, Any]) -> str:
    if output.output_type == "stream":
        return _text(output.text)
    if output.output_type == "error":
        return _text("\n".join(output.traceback))
    data = output.data
    number = data.get(WIDGET_VIEW, {}).get("model_id")
    if number in views:
        return f'<figure data-view="{number}">{_still(data)}</figure>'
    if figures.MIME in data:
        return figures.figure(data[figures.MIME])
    for form, as_html in (("text/html", str), ("text/markdown", markdown)):
        if form in data:
            return f'<div class="output">{as_html(data[form])}</div>'
    return (
        f'<figure class="output">{_still(data)}</figure>'
        if "image/png" in data
        else _text(data["text/plain"])
    )


def _still(data: Any) -> str:
    """A picture without script: poster and caption."""
    caption = escape(data.get("text/plain", ""))
    picture = f"data:image/png;base64,{''.join(data['image/png'].split())}"
    return f'<img alt="{caption}" src="{picture}"><figcaption><pre>{caption}</pre></figcaption>'


def _text(text: str) -> str:
    plain: str = strip_ansi(text)  # type: ignore[no-untyped-call]
    return f'<pre class="output">{escape(plain)}</pre>'
