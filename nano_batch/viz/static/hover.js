// What stands at the pointer: a block in words; where cells are small, its neighbourhood enlarged.
import { element } from "./dom.js";
import { fillHeight } from "./cell.js";
import { FREE } from "./replay.js";
import { MARKED, firstEventOf } from "./run.js";
import { prepare } from "./theme.js";

const ACROSS = 16, CELL = 11;

export class Hover {
  constructor() {
    this.words = element("div");
    this.lens = element("canvas", { class: "nb-lens" });
    this.node = element("div", { class: "nb-tip", hidden: "" }, [this.words, this.lens]);
  }

  show(block, x, y, width, what) {
    this.node.hidden = block < 0;
    if (block < 0) return;
    this.words.textContent = describe(block, what);
    this.lens.hidden = what.grid.cell >= 6 || what.grid.per > 1;
    if (!this.lens.hidden) enlarge(this.lens, block, what);
    this.node.style.left = `${Math.min(x + 14, Math.max(0, width - this.node.offsetWidth))}px`;
    this.node.style.top = `${y + 16}px`;
  }
}

function describe(block, { run, replay, picture, states, touches, lastUse, selection, owners, grid }) {
  const held = replay.owners(block).map(([id, index]) => {
    const place = selection.requests.indexOf(id);
    return `${place >= 0 ? `${owners[place].letter} ` : ""}${id} (its block ${index})`;
  });
  const shown = held.length > 4 ? [...held.slice(0, 4), `and ${held.length - 4} more`] : held;
  const lines = [`block ${block}: ${states.labels[picture.state[block]]}`, `${picture.fill[block]} of ${run.blockSize} token slots written`];
  lines.push(held.length ? `held by ${shown.join(", ")}` : "held by nobody", `reference count ${replay.references[block]}`);
  if (replay.marked[block]) {
    const event = touches.lastOf(MARKED, block, firstEventOf(run, replay.step + 1));
    if (event >= 0) lines.push(`prefix hash ${run.hash(event).toString(16).padStart(16, "0").slice(0, 8)}…`);
  }
  const last = lastUse[block];
  lines.push(last < 0 ? "not used yet" : `last used in step ${last}${last === replay.step ? " (this one)" : ""}`);
  if (grid.per > 1) lines.push(`the first of ${grid.per} blocks under this mark`);
  return lines.join("\n");
}

function enlarge(canvas, block, { grid, run, picture, paint, ink, free }) {
  const context = prepare(canvas, ACROSS * CELL + 1, ACROSS * CELL + 1);
  const column = Math.min(Math.max(0, (block % grid.columns) - ACROSS / 2), Math.max(0, grid.columns - ACROSS));
  const row = Math.min(Math.max(0, Math.floor(block / grid.columns) - ACROSS / 2), Math.max(0, grid.rows - ACROSS));
  for (let i = 0; i < ACROSS * ACROSS; i++) {
    const across = column + (i % ACROSS), b = (row + Math.floor(i / ACROSS)) * grid.columns + across;
    if (across >= grid.columns || b >= run.numBlocks) continue;
    const x = (i % ACROSS) * CELL + 1, y = Math.floor(i / ACROSS) * CELL + 1;
    context.fillStyle = free;
    context.fillRect(x, y, CELL - 1, CELL - 1);
    if (picture.state[b] !== FREE) fillHeight(context, x, y, CELL - 1, picture.fill[b], run.blockSize, paint.colours[paint.index[b]]);
    context.globalAlpha = 1;
    if (b !== block) continue;
    context.strokeStyle = ink.text;
    context.lineWidth = 2;
    context.strokeRect(x, y, CELL - 1, CELL - 1);
  }
}
