// The block table drawn: large cells show token slots, medium ones fill as height, small ones colour only.
// Only cells that changed since the last frame are drawn again; small cells are one image.
import { FREE } from "./replay.js";
import { GUTTER, HEADER, place } from "./layout.js";
import { FONT, prepare } from "./theme.js";
import { Stamps, drawCell } from "./cell.js";

export const PALE = 0.25; // how much of its colour a block keeps that is not selected

export class Heatmap {
  constructor(canvas) {
    this.canvas = canvas;
    this.drawn = new Float64Array(0);
  }

  // `what`: grid, run, picture, replay, paint, lit, traces, hovered, block, ink, owners, plain, calm.
  draw(what) {
    const { grid, ink, paint } = what, { canvas } = this;
    const key = [grid.width, grid.height, grid.cell, grid.per, what.run.blockSize, devicePixelRatio, ink.paper, ink.text, ...paint.colours].join();
    if (key !== this.key) {
      this.context = prepare(canvas, grid.width, grid.height);
      Object.assign(canvas.dataset, { columns: grid.columns, cell: grid.cell, per: grid.per, left: GUTTER, top: HEADER });
      drawIds(this.context, grid, ink);
      this.drawn = new Float64Array(what.run.numBlocks).fill(-1);
      this.image = null;
      this.stamps = new Stamps();
      this.key = key;
    }
    if (grid.cell < 6) this.small(what);
    else this.cells(what);
  }

  cells(what) {
    what.stamps = this.stamps;
    const { grid, run, picture, replay, paint, lit, traces, hovered, block: chosen, calm } = what, { drawn, context } = this;
    for (let block = 0; block < run.numBlocks; block++) {
      const references = replay.references[block];
      const light = lit ? (lit[block] ? Math.min(9, lit[block]) : 10) : 0;
      const marks = (block === hovered ? 1 : 0) + (block === chosen ? 2 : 0) + (paint.lines?.[block] ? 4 : 0);
      const small = (paint.index[block] * 16 + light) * 512 + (traces ? traces[block] : 0) * 8 + marks;
      const signature = small + 2 ** 18 * (picture.fill[block] + 2 ** 17 * Math.min(references, 4095));
      if (drawn[block] === signature) continue;
      // Where the reader points and clicks is shown at once.
      if (drawn[block] >= 0 && drawn[block] % 4 === signature % 4 && !calm.may(block)) continue;
      drawn[block] = signature;
      const [x, y] = place(grid, block);
      drawCell(context, x, y, block, what);
    }
  }

  // One image pixel a mark, scaled up without smoothing: 65,536 blocks in one call.
  small({ grid, picture, paint, lit, hovered, block: chosen, ink, calm }) {
    const fresh = !this.image;
    if (fresh) {
      this.buffer = new OffscreenCanvas(grid.columns, grid.rows);
      this.image = new ImageData(grid.columns, grid.rows);
    }
    const words = new Uint32Array(this.image.data.buffer), { index } = paint;
    const full = paint.colours.map((hex) => word(hex)), pale = paint.colours.map((hex) => word(mix(hex, ink.paper)));
    const set = (mark, colour) => {
      if (words[mark] !== colour && (fresh || calm.may(mark))) words[mark] = colour;
    };
    if (grid.per === 1) for (let b = 0; b < index.length; b++) set(b, (lit && !lit[b] ? pale : full)[index[b]]);
    else groups(grid.per, index, lit, (mark, colour, dim) => set(mark, (dim ? pale : full)[colour]));
    this.buffer.getContext("2d").putImageData(this.image, 0, 0);
    const { context } = this;
    context.imageSmoothingEnabled = false;
    context.fillStyle = ink.paper;
    context.fillRect(GUTTER - 2, HEADER - 2, grid.width, grid.height);
    context.drawImage(this.buffer, GUTTER, HEADER, grid.columns * grid.cell, grid.rows * grid.cell);
    for (const block of [chosen, hovered]) if (block >= 0 && block < picture.state.length) outline(context, grid, block, ink);
  }
}

// One mark for `per` blocks: the colour of most of them.
function groups(per, index, lit, each) {
  const counts = new Uint16Array(32);
  for (let first = 0; first < index.length; first += per) {
    counts.fill(0);
    let dim = lit !== null, most = index[first];
    for (let b = first; b < Math.min(index.length, first + per); b++) {
      if (++counts[index[b]] > counts[most]) most = index[b];
      if (lit?.[b]) dim = false;
    }
    each(first / per, most, dim);
  }
}

function channels(colour) {
  if (colour.startsWith("#")) {
    const long = colour.length < 7 ? colour.replace(/[0-9a-f]/gi, "$&$&") : colour;
    return [1, 3, 5].map((i) => parseInt(long.slice(i, i + 2), 16));
  }
  return colour.match(/[\d.]+/g).slice(0, 3).map(Number);
}

function mix(colour, paper) {
  const [to, from] = [channels(colour), channels(paper)];
  return `rgb(${to.map((value, i) => Math.round(PALE * value + (1 - PALE) * from[i])).join()})`;
}

function word(colour) {
  const [red, green, blue] = channels(colour);
  return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
}

function drawIds(context, grid, ink) {
  context.font = FONT;
  context.fillStyle = ink.quiet;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const every = Math.max(1, 2 ** Math.ceil(Math.log2(14 / grid.cell)));
  for (let row = 0; row < grid.rows; row += every) {
    context.fillText(String(row * grid.columns * grid.per), GUTTER - 6, HEADER + (row + 0.5) * grid.cell);
  }
  context.textAlign = "left";
  const step = Math.max(1, 2 ** Math.ceil(Math.log2(30 / grid.cell)));
  for (let column = 0; column < grid.columns; column += step) {
    context.fillText(`+${column * grid.per}`, GUTTER + column * grid.cell + 1, HEADER / 2 + 1);
  }
}

export function outline(context, grid, block, ink) {
  const [x, y] = place(grid, block);
  context.strokeStyle = ink.text;
  context.lineWidth = 2;
  context.strokeRect(x, y, grid.cell + 1, grid.cell + 1);
}
