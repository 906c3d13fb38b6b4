// The logical tables of the selected requests: index from left to right, the physical block in each entry.
// Who shares a prefix branches off the row it shares: one trunk with branches.
import { element, grouped } from "./dom.js";
import { fillHeight } from "./cell.js";
import { FREE } from "./replay.js";
import { FONT, prepare } from "./theme.js";

const LEFT = 128, TALL = 26, GAP = 8, BRANCH = 18, WIDEST = 34, BRANCHES = 4;

// How many entries from the start two tables have in common, and whether any of them is held.
export function common(one, other) {
  let index = 0, held = false;
  for (; index < one.length && index < other.length && one[index] === other[index]; index++) held ||= one[index] >= 0;
  return held ? index : 0;
}

export function sharers(replay, number, sequence, present) {
  const shown = new Set(present.map(([, other]) => other)), found = [];
  for (const [other, { table }] of replay.sequences) {
    const from = other === number || shown.has(other) ? 0 : common(sequence.table, table);
    if (from > 0) found.push({ name: replay.name(other), table, from });
  }
  return found;
}

export class Logical {
  constructor() {
    this.canvas = element("canvas", { class: "nb-logical-picture", role: "img" });
    this.hint = element("div", { class: "nb-note", text: "Logical tables: click a block, a request in a queue, or press j to see which physical blocks a request's tokens are in." });
    this.rows = element("div", { class: "nb-logical", role: "list", "aria-label": "Logical tables of the selected requests" });
    this.node = element("div", { class: "nb-tables" }, [this.hint, this.canvas]);
  }

  draw(width, { run, replay, paint, picture, owners, ink, free }, selection) {
    const present = selection.present(replay), gone = selection.requests.filter((name) => !present.some(([, number]) => replay.name(number) === name));
    this.hint.hidden = selection.requests.length > 0;
    const lines = present.map(([place, number, sequence]) => ({ place, number, sequence, branches: sharers(replay, number, sequence, present) }));
    const heights = lines.map(({ branches }) => TALL + GAP + BRANCH * Math.min(branches.length, BRANCHES + 1));
    const height = heights.reduce((a, b) => a + b, 0) + (gone.length ? 16 : 0);
    const context = prepare(this.canvas, width, height);
    this.canvas.hidden = height === 0;
    const longest = Math.max(1, ...lines.map(({ sequence, branches }) => Math.max(sequence.table.length, ...branches.map(({ table }) => table.length))));
    const cell = Math.min(WIDEST, (width - LEFT - 8) / longest);
    const draw = { context, cell, run, replay, paint, picture, ink, free };
    let y = 0;
    lines.forEach((line, i) => {
      trunk(draw, line, owners[line.place], y);
      y += heights[i];
    });
    context.font = FONT;
    context.fillStyle = ink.quiet;
    if (gone.length) context.fillText(`not there at this step: ${gone.join(", ")}`, 0, y + 11);
    this.say(lines, run, replay, owners);
  }

  // The same tables as text, entry by entry: `index→block:tokens×references`.
  say(lines, run, replay, owners) {
    const rows = lines.map(({ place, number, sequence: { table, stored }, branches }) => {
      const entries = table.map((block, index) => {
        const tokens = block < 0 ? 0 : Math.max(0, Math.min(run.blockSize, stored - index * run.blockSize));
        return `${index}→${block}:${tokens}×${block < 0 ? 0 : replay.references[block]}`;
      });
      const marks = { role: "listitem", "data-branches": branches.map(({ name, from }) => `${name}:${from}`).join(" ") };
      return element("div", { ...marks, text: `${owners[place].letter} ${replay.name(number)}: ${entries.join(" ")}` });
    });
    this.rows.replaceChildren(...rows);
    this.canvas.setAttribute("aria-label", rows.map((row) => row.textContent).join("; ") || "no request selected");
  }
}

function trunk(draw, { number, sequence, branches }, owner, y) {
  const { context, cell, ink, replay, run } = draw;
  context.fillStyle = owner.colour;
  context.fillRect(0, y + 4, 12, 16);
  context.strokeStyle = ink.text;
  context.lineWidth = 1;
  context.strokeRect(0.5, y + 4.5, 12, 16);
  context.fillStyle = ink.text;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.font = `bold ${FONT}`;
  context.fillText(`${owner.letter} ${replay.name(number)}`.slice(0, 16), 18, y + 11);
  context.font = FONT;
  context.fillStyle = ink.quiet;
  context.fillText(`${grouped(sequence.stored)} tokens`, 18, y + 22);
  sequence.table.forEach((block, index) => {
    const tokens = Math.max(0, Math.min(run.blockSize, sequence.stored - index * run.blockSize));
    entry(draw, LEFT + index * cell, y, block, tokens, TALL);
  });
  branches.slice(0, BRANCHES).forEach((branch, i) => {
    const top = y + TALL + 3 + i * BRANCH, left = LEFT + branch.from * cell;
    context.strokeStyle = ink.quiet;
    context.beginPath();
    context.moveTo(left - 3, y + TALL);
    context.lineTo(left - 3, top + 7);
    context.lineTo(left, top + 7);
    context.stroke();
    branch.table.slice(branch.from).forEach((block, at) => entry(draw, left + at * cell, top, block, run.blockSize, BRANCH - 3));
    context.fillStyle = ink.quiet;
    context.fillText(`└ ${branch.name} shares ${branch.from}`.slice(0, 21), 0, top + 11);
  });
  if (branches.length > BRANCHES) {
    context.fillStyle = ink.quiet;
    context.fillText(`and ${branches.length - BRANCHES} more share it`, 0, y + TALL + 14 + BRANCHES * BRANCH);
  }
}

function entry({ context, cell, replay, paint, picture, ink, free }, x, y, block, tokens, tall) {
  const wide = Math.max(1, cell - (cell >= 4 ? 1 : 0));
  if (block < 0) {
    context.strokeStyle = ink.quiet;
    context.lineWidth = 1;
    context.strokeRect(x + 0.5, y + 0.5, wide - 1, tall - 1);
    context.fillStyle = ink.quiet;
    if (cell >= 16) context.fillText("−1", x + 2, y + tall - 4);
    return;
  }
  const colour = paint.colours[paint.index[block]];
  context.fillStyle = free;
  context.fillRect(x, y, wide, tall);
  context.save();
  context.beginPath();
  context.rect(x, y, wide, tall);
  context.clip();
  context.translate(x, y);
  context.scale(wide / tall, 1);
  if (picture.state[block] !== FREE) fillHeight(context, 0, 0, tall, tokens, replay.run.blockSize, colour);
  context.restore();
  context.globalAlpha = 1;
  if (replay.references[block] > 1 && cell >= 6) {
    context.fillStyle = ink.paper;
    context.beginPath();
    context.moveTo(x + wide - 6, y);
    context.lineTo(x + wide, y);
    context.lineTo(x + wide, y + 6);
    context.fill();
  }
  if (cell < 18) return;
  const text = String(block);
  context.fillStyle = ink.paper;
  context.fillRect(x + 1, y + tall - 12, context.measureText(text).width + 3, 11);
  context.fillStyle = ink.text;
  context.fillText(text, x + 2, y + tall - 3);
}
