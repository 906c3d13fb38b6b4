// One block as a cell of 6 px or more: token slots or fill, sharing, owner, id and what happened to it lately.
import { FREE } from "./replay.js";
import { slots } from "./layout.js";
import { FONT, SMALL } from "./theme.js";
import { drawTrace } from "./traces.js";

const LETTERED = 12; // px: from here on a cell has room for a letter or a trace

export function drawCell(context, x, y, block, what) {
  const { grid, picture, replay, paint, lit, traces, ink, owners } = what;
  const size = grid.cell - 1, references = replay.references[block];
  const shape = {
    state: picture.state[block], fill: picture.fill[block], index: paint.index[block],
    shared: references > 1, pale: Boolean(lit && !lit[block]),
  };
  if (Number.isInteger(devicePixelRatio)) context.drawImage(what.stamps.of(shape, what), x, y, grid.cell, grid.cell);
  else drawShape(context, x, y, shape, what);
  const owned = lit?.[block] > 0 && lit[block] < 255;
  if (owned) ownerMark(context, x, y, grid.cell, owners[lit[block] - 1], ink);
  if (grid.cell >= 24) label(context, x, y, grid.cell, block, references, ink);
  if (paint.lines?.[block]) rule(context, x, y, grid.cell, ink.text);
  const room = grid.cell >= (owned ? 24 : LETTERED); // a letter goes before a trace
  if (traces?.[block] && room) drawTrace(context, x + size - 7, y + size - 7, traces[block], ink, what.plain);
  if (block === what.hovered || block === what.block) frame(context, x, y, size, ink.text, block === what.block ? 3 : 2);
}

// Most cells of a picture look alike: each look is drawn once and then copied, which is several times faster.
// Copies are exact where a CSS pixel is a whole number of device pixels.
export class Stamps {
  constructor() {
    this.made = new Map();
  }

  of(shape, what) {
    const look = ((shape.index * 8 + shape.state) * 2 + shape.shared) * 2 + shape.pale, key = look * 2 ** 20 + shape.fill;
    let stamp = this.made.get(key);
    if (!stamp) {
      const canvas = new OffscreenCanvas(what.grid.cell * devicePixelRatio, what.grid.cell * devicePixelRatio);
      const context = canvas.getContext("2d");
      context.scale(devicePixelRatio, devicePixelRatio);
      drawShape(context, 0, 0, shape, what);
      this.made.set(key, (stamp = canvas.transferToImageBitmap()));
    }
    return stamp;
  }
}

function drawShape(context, x, y, { state, fill, index, shared, pale }, { grid, run, paint, ink, free }) {
  const size = grid.cell - 1, alpha = pale ? 0.25 : 1;
  context.fillStyle = ink.paper;
  context.fillRect(x, y, grid.cell, grid.cell);
  context.globalAlpha = alpha;
  context.fillStyle = free;
  context.fillRect(x + 1, y + 1, size, size);
  if (state !== FREE) {
    const draw = grid.cell >= 24 ? fillSlots : fillHeight;
    draw(context, x + 1, y + 1, size, fill, run.blockSize, paint.colours[index], free, alpha);
    if (shared) corner(context, x + 1, y + 1, size, ink.paper);
  }
  context.globalAlpha = 1;
}

export function fillHeight(context, x, y, size, fill, blockSize, colour, free, alpha = 1) {
  const height = Math.max(1, Math.round((size * fill) / blockSize));
  context.globalAlpha = 0.28 * alpha; // allocated and not yet written
  context.fillStyle = colour;
  context.fillRect(x, y, size, size - height);
  context.globalAlpha = alpha;
  context.fillRect(x, y + size - height, size, height);
}

function fillSlots(context, x, y, size, fill, blockSize, colour, free, alpha) {
  const { columns, rows } = slots(blockSize);
  const across = size / columns, down = size / rows;
  if (Math.min(across, down) < 4) return fillHeight(context, x, y, size, fill, blockSize, colour, free, alpha);
  context.fillStyle = colour;
  context.globalAlpha = 0.28 * alpha;
  context.fillRect(x, y, size, size);
  context.globalAlpha = alpha;
  // Whole rows of written slots at once, then the row that is begun.
  const edge = (row) => Math.round(y + row * down), whole = Math.floor(fill / columns);
  context.fillRect(x, y, size, edge(whole) - y);
  context.fillRect(x, edge(whole), Math.round((fill % columns) * across), edge(whole + 1) - edge(whole));
  context.fillStyle = free; // hairlines between slots
  context.globalAlpha = 0.3 * alpha;
  for (let i = 1; i < columns; i++) context.fillRect(Math.round(x + i * across), y, 1, size);
  for (let i = 1; i < rows; i++) context.fillRect(x, Math.round(y + i * down), size, 1);
  context.globalAlpha = alpha;
}

// More than one sequence holds the block, whatever its colour says about this step.
function corner(context, x, y, size, paper) {
  const edge = Math.max(3, Math.round(size / 3));
  context.fillStyle = paper;
  context.beginPath();
  context.moveTo(x + size - edge, y);
  context.lineTo(x + size, y);
  context.lineTo(x + size, y + edge);
  context.fill();
}

// Its id and how many hold it, on a plate; in a smaller cell both are small, in opposite corners, with an
// edge alone: the slots below are seen.
function label(context, x, y, cell, block, references, ink) {
  const count = references > 1 ? `×${references}` : "";
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.font = cell >= 40 ? FONT : SMALL;
  if (cell >= 40) return plate(context, x + 1, y + cell - 11, count ? `${block} ${count}` : String(block), ink);
  edged(context, x + 2, y + cell - 2, String(block), ink);
  if (count) edged(context, x + cell - 2 - widthOf(context, count), y + 8, count, ink);
}

function edged(context, x, y, text, ink) {
  context.strokeStyle = ink.paper;
  context.lineJoin = "round";
  context.lineWidth = 2;
  context.strokeText(text, x, y);
  context.fillStyle = ink.text;
  context.fillText(text, x, y);
}

// Measuring costs more than drawing, and the digits of the font are all as wide.
const widths = new Map();

function widthOf(context, text) {
  const like = context.font + text.replace(/\d/g, "0");
  if (!widths.has(like)) widths.set(like, context.measureText(text).width);
  return widths.get(like);
}

function plate(context, x, y, text, ink) {
  context.fillStyle = ink.paper;
  context.fillRect(x, y, widthOf(context, text) + 2, 11);
  context.fillStyle = ink.text;
  context.fillText(text, x + 1, y + 9);
}

// A selected request's frame in its hue, with its letter where there is room.
function ownerMark(context, x, y, cell, owner, ink) {
  const width = cell >= 24 ? 3 : 2, middle = x + cell / 2;
  frame(context, x + width, y + width, cell - 1 - 2 * width, ink.paper, 1); // apart from the colour inside
  frame(context, x, y, cell - 1, owner.colour, width);
  if (cell < LETTERED) return;
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  if (cell < 40) {
    context.font = `bold ${cell < 24 ? SMALL : FONT}`;
    edged(context, middle, y + cell / 2 + (cell < 24 ? 3 : 1), owner.letter, ink);
  } else {
    context.fillStyle = ink.paper;
    context.fillRect(middle - 6, y + cell / 2 - 9, 12, 12);
    context.fillStyle = ink.text;
    context.font = `bold ${FONT}`;
    context.fillText(owner.letter, middle, y + cell / 2 + 1);
  }
  context.textAlign = "left";
}

function frame(context, x, y, size, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.strokeRect(x + 1 + width / 2, y + 1 + width / 2, size - width, size - width);
}

function rule(context, x, y, cell, colour) {
  context.fillStyle = colour;
  context.fillRect(x, y + 1, 1, cell - 1);
}
