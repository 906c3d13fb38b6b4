"""What a reader waits for, measured inside the page: keys to redraws, frames in play, the first picture.

Times are the page's own (`performance.now`, `event.timeStamp`). A redraw ends after the frame that shows it
was handed on: the canvas's label changes at the end of the drawing, which is ahead of that frame, and a
message posted in the frame is delivered after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

REDRAW = """view => {
  const picture = view.querySelector(".nb-picture"), line = view.querySelector(".nb-settings");
  const before = line.textContent;
  let pressed = null;
  const press = (event) => (pressed = event.timeStamp);
  view.addEventListener("keydown", press, { capture: true, once: true });
  window.nbRedraw = new Promise((done) => {
    const seen = new MutationObserver(() => {
      if (line.textContent === before) return;
      seen.disconnect();
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => done(performance.now() - pressed);
      requestAnimationFrame(() => port2.postMessage(0));
    });
    seen.observe(picture, { attributes: true, attributeFilter: ["aria-label"] });
  });
}"""
DRAWS = """async (view, milliseconds) => {
  const times = [];
  const seen = new MutationObserver(() => times.push(performance.now()));
  seen.observe(view.querySelector(".nb-blocks"), { attributes: true, attributeFilter: ["aria-label"] });
  await new Promise((done) => setTimeout(done, milliseconds));
  seen.disconnect();
  return times;
}"""
FIRST = """window.nbFirst = new Promise((done) => {
  const look = () => {
    const node = document.querySelector(SELECTOR);
    if (node && (node.tagName !== "IMG" || node.complete)) {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => done(performance.now());
      port2.postMessage(0);
    } else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""

LIVE = """() => {
  for (const view of document.querySelectorAll(".nb-view")) view.dataset.earlier = "";
  let pressed = null;
  const press = (event) => event.key === "Enter" && (pressed ??= event.timeStamp);
  document.addEventListener("keydown", press, { capture: true });
  window.nbLive = new Promise((done) => {
    const look = () => {
      const drawn = document.querySelector(".nb-view:not([data-earlier]) .nb-picture[aria-label]");
      if (!drawn) return requestAnimationFrame(look);
      document.removeEventListener("keydown", press, { capture: true });
      done(performance.now() - pressed);
    };
    requestAnimationFrame(look);
  });
}"""


def key_to_redraw(page: Page, view: Locator, keys: Iterable[tuple[str, str]]) -> list[float]:
    """Milliseconds from each key on a control's slider to the redrawn picture, rerun included.

    The view's line of settings names what the control stands at.
    """
    times = []
    for control, key in keys:
        view.locator(f"[data-control={control}] input[type=range]").focus()
        view.evaluate(REDRAW)
        page.keyboard.press(key)
        times.append(float(page.evaluate("window.nbRedraw")))
        page.wait_for_timeout(60)  # as far apart as a reader's presses; the step's own message is out
    return times


def there_and_back(control: str, presses: int) -> list[tuple[str, str]]:
    """Keys that move a slider two up and two down, again and again."""
    return [(control, "ArrowRight" if i % 4 < 2 else "ArrowLeft") for i in range(presses)]


def row_by_row(along: str, before: int, places: int, up: str, rows: int) -> list[tuple[str, str]]:
    """Keys that meet no setting twice: down one slider from `before` places above its least, then another
    one up, along all `places` of the first, up again, and back.
    """
    keys = [(along, "ArrowLeft")] * before
    for row in range(rows):
        keys += [(up, "ArrowRight"), *[(along, "ArrowLeft" if row % 2 else "ArrowRight")] * (places - 1)]
    return keys


def frames_per_second(page: Page, view: Locator, seconds: float) -> tuple[float, float]:
    """Pictures drawn a second in play at the highest speed, and the 95th percentile of the gaps in ms.

    At that speed every frame of the screen has a step of its own, so that every frame is drawn.
    """
    view.scroll_into_view_if_needed()
    view.get_by_label("Speed").select_option(index=3)
    view.focus()
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    times = view.evaluate(DRAWS, seconds * 1000)
    page.keyboard.press(" ")
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return 1000 * len(gaps) / (times[-1] - times[0]), percentile(gaps, 95)


def first_picture(browser: Browser, address: str, selector: str) -> float:
    """Seconds from the start of the navigation to `address` until `selector` is in the page and drawn."""
    page = browser.new_page(viewport={"width": 1330, "height": 1200})
    page.add_init_script(FIRST.replace("SELECTOR", repr(selector)))
    page.goto(address)
    milliseconds = float(page.evaluate("window.nbFirst"))
    page.close()
    return milliseconds / 1000


def live_picture(page: Page, cell: int) -> float:
    """Seconds from the key that runs the code cell number `cell` (from 0) until its new view is drawn."""
    page.locator(".jp-Cell.jp-CodeCell").nth(cell).locator(".cm-content").click()
    page.evaluate(LIVE)
    page.keyboard.press("Control+Enter")
    return float(page.evaluate("window.nbLive")) / 1000


def screenshot(page: Page, view: Locator, path: Path) -> Path:
    """A PNG of `view` as it stands."""
    view.scroll_into_view_if_needed()
    page.mouse.move(0, 0)
    view.screenshot(path=path)
    return path


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that `percent` of `values` do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * int(percent) // 100) - 1)]
