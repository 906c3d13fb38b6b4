// The pointer on the blocks and on the scrubbers: point, pick, drag.
import { blockAt } from "./layout.js";
import { firstEventOf } from "./run.js";
import { stripScale } from "./strip.js";

export class Pointer {
  constructor(view) {
    this.view = view;
    this.hovered = -1;
    const { root, heatmap, strip, events, player } = view, { canvas } = heatmap;
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("pointerdown", (event) => this.pick(event));
    for (const scrubber of [strip.canvas, events]) {
      scrubber.addEventListener("pointerdown", (event) => {
        scrubber.setPointerCapture(event.pointerId);
        root.focus({ preventScroll: true });
        this.scrub(event);
      });
      scrubber.addEventListener("pointermove", (event) => event.buttons && this.scrub(event, true));
      scrubber.addEventListener("lostpointercapture", () => player.rest());
    }
  }

  scrub(event, dragging = false) {
    const { run, strip, player } = this.view, { canvas } = strip;
    player.held = dragging;
    player.seek(stripScale(run, canvas.clientWidth).step(event.clientX - canvas.getBoundingClientRect().left));
  }

  at(event) {
    const { heatmap, grid, run } = this.view, box = heatmap.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    return [grid ? blockAt(grid, run.numBlocks, x, y) : -1, x, y, box.width];
  }

  // A click on a block selects it and whoever holds it.
  pick(event) {
    const { root, replay, selection } = this.view;
    root.focus({ preventScroll: true });
    const [block] = this.at(event);
    if (block < 0) return;
    const owners = replay.owners(block).map(([name]) => name);
    selection.set(event.shiftKey ? [...selection.requests, ...owners] : owners, block);
  }

  point(event) {
    const { view } = this, { what } = view;
    const [block, x, y, width] = event ? this.at(event) : [-1, 0, 0, 0];
    if (block >= 0 && what) what.lastUse ??= view.touches.lastUse(view.replay, firstEventOf(view.run, view.player.step + 1));
    if (what) view.hover.show(block, x, y, width, what);
    if (block !== this.hovered) view.redraw();
    this.hovered = block;
  }
}
