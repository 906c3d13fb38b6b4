"""A notebook in headless Chromium: opened, run, looked at. Used by the browser tests and the refresh tool."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nano_batch.errors import LabError, MissingExtraError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 60_000


def find_chromium() -> str | None:
    """The path of a Chromium: the environment variable CHROMIUM, else the first known name on the PATH."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    return next((path for path in map(shutil.which, NAMES) if path), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium that asks nothing of the network by itself.

    Raises:
        MissingExtraError: if Playwright for Python is not installed.
        LabError: if no Chromium is found.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingExtraError("the browser needs Playwright: uv sync --group dev") from error
    path = find_chromium()
    if path is None:
        raise LabError("no Chromium on the PATH; install one or name it in the environment variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class NotebookPage:
    """One notebook in a tab of JupyterLab, and what went wrong in that tab.

    Attributes:
        address: where the notebook is.
        page: Playwright's page.
        errors: messages of uncaught errors and of `console.error`.
        outside: addresses asked for that are not this machine's.
    """

    def __init__(
        self, browser: Browser, address: str, *, width: int, height: int = 1200, scale: float = 1
    ) -> None:
        self.address = address
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": height}, device_scale_factor=scale
        )
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self._note(request.url))
        self.page.goto(address)
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=PATIENCE_MS)
        self.idle()

    def _note(self, address: str) -> None:
        if address.startswith(("http", "ws")) and "//127.0.0.1:" not in address:
            self.outside.append(address)

    def idle(self) -> None:
        """Wait until the status bar says that the kernel is idle (a cell says so without a kernel too)."""
        self.page.wait_for_function(
            "document.querySelector('#jp-main-statusbar')?.innerText.includes('| Idle')", timeout=PATIENCE_MS
        )

    def menu(self, *labels: str) -> None:
        """Click through the menu bar, submenus by hovering."""
        self.page.click(f'.lm-MenuBar-itemLabel:text-is("{labels[0]}")')
        for label in labels[1:-1]:
            self.page.hover(f'.lm-Menu-itemLabel:text-is("{label}")')
        self.page.click(f'.lm-Menu-itemLabel:text-is("{labels[-1]}")')

    def theme(self, name: str) -> None:
        """Switch JupyterLab to the theme `name` (Light or Dark) and wait until every view has followed."""
        self.menu("Settings", "Theme", f"JupyterLab {name}")
        themes = "[...document.querySelectorAll('.nb-view')].map(node => node.dataset.theme)"
        self.page.wait_for_function(f"{themes}.every(theme => theme === '{name.lower()}')")

    def save(self) -> None:
        """Save the notebook and wait until the page says that it is saved."""
        self.menu("File", "Save Notebook")
        self.page.wait_for_selector(".jp-mod-current .jp-DirtyIndicator", state="detached")
        self.page.wait_for_function("!document.querySelector('.lm-TabBar-tab.jp-mod-current.jp-mod-dirty')")

    def run_all(self, code_cells: int) -> None:
        """Run every cell and wait for the last prompt and an idle kernel.

        Raises:
            LabError: if the kernel takes no notice of three attempts.
        """
        started = ".jp-InputPrompt:text-matches('^\\\\[(1|\\\\*)\\\\]:')"
        for _ in range(3):
            self.menu("Run", "Run All Cells")
            try:
                self.page.wait_for_selector(started, timeout=4000, state="attached")
                break
            except Exception as error:  # Playwright's TimeoutError, which is imported with Playwright only
                if type(error).__name__ != "TimeoutError":
                    raise
        else:
            raise LabError("JupyterLab did not start to run the cells")
        last = f".jp-InputPrompt:text-is('[{code_cells}]:')"
        self.page.wait_for_selector(last, timeout=PATIENCE_MS, state="attached")
        self.idle()

    def views(self) -> list[Locator]:
        """The views in the page, in the order of their cells, each drawn at least once."""
        found = self.page.locator(".jp-OutputArea-output .nb-view")
        found.first.wait_for(timeout=PATIENCE_MS)
        views = [found.nth(i) for i in range(found.count())]
        for view in views:
            view.locator(".nb-picture[aria-label]").wait_for(timeout=PATIENCE_MS)
        return views

    def settle(self, view: Locator) -> None:
        """Wait until a rerun that was asked for is drawn."""
        self.page.wait_for_function("!document.querySelector('.nb-view[data-asking]')", timeout=PATIENCE_MS)
        view.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def poster(self, view: Locator) -> bytes:
        """A PNG of a view as a document shows it: its default state, without controls, marked as recorded."""
        view.get_by_role("button", name="Reset").click()
        self.settle(view)
        view.evaluate("node => node.setAttribute('data-poster', '')")
        view.scroll_into_view_if_needed()
        self.settle(view)
        return view.screenshot()


def code_cells(path: Path) -> int:
    """The number in the last prompt that a page shows after Run All: a folded cell shows none."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    run = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    shown = [i for i, cell in enumerate(run, 1) if not cell.metadata.get("jupyter", {}).get("source_hidden")]
    return shown[-1]
