// The block table drawn: colour is state. Large cells show token slots, medium ones fill as height, small ones state.
import { FREE, SHARED } from "./replay.js";
import { GUTTER, HEADER, place, slots } from "./layout.js";
import { prepare } from "./theme.js";

const FONT = "10px ui-monospace, Menlo, Consolas, monospace";

export function drawBlocks(canvas, grid, run, picture, replay, colours, ink) {
  const context = prepare(canvas, grid.width, grid.height);
  Object.assign(canvas.dataset, { columns: grid.columns, cell: grid.cell, left: GUTTER, top: HEADER });
  drawIds(context, grid, ink);
  if (grid.cell < 6) return drawSmall(context, grid, picture, colours);
  const draw = grid.cell >= 24 ? drawLarge : drawMedium;
  for (let block = 0; block < run.numBlocks; block++) {
    const [x, y] = place(grid, block);
    const state = picture.state[block];
    context.fillStyle = colours[FREE];
    context.fillRect(x + 1, y + 1, grid.cell - 1, grid.cell - 1);
    if (state === FREE) continue;
    draw(context, x + 1, y + 1, grid.cell - 1, picture.fill[block], run.blockSize, colours[state], colours[FREE]);
    if (state === SHARED || replay.references[block] > 1) corner(context, x + 1, y + 1, grid.cell - 1, ink.paper);
    if (grid.cell >= 40) label(context, x, y, grid.cell, block, replay.references[block], ink);
  }
}

function drawIds(context, grid, ink) {
  context.font = FONT;
  context.fillStyle = ink.quiet;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const every = Math.max(1, 2 ** Math.ceil(Math.log2(14 / grid.cell)));
  for (let row = 0; row < grid.rows; row += every) {
    context.fillText(String(row * grid.columns), GUTTER - 6, HEADER + (row + 0.5) * grid.cell);
  }
  context.textAlign = "left";
  const step = Math.max(1, 2 ** Math.ceil(Math.log2(30 / grid.cell)));
  for (let column = 0; column < grid.columns; column += step) {
    context.fillText(`+${column}`, GUTTER + column * grid.cell + 1, HEADER / 2 + 1);
  }
}

// One image pixel a block, scaled up without smoothing: 65,536 blocks in one call.
function drawSmall(context, grid, picture, colours) {
  const small = new OffscreenCanvas(grid.columns, grid.rows);
  const image = new ImageData(grid.columns, grid.rows);
  const words = new Uint32Array(image.data.buffer);
  const palette = colours.map((hex) => {
    const value = parseInt(hex.slice(1), 16);
    return (0xff000000 | ((value & 0xff) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
  });
  for (let block = 0; block < picture.state.length; block++) words[block] = palette[picture.state[block]];
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, GUTTER, HEADER, grid.columns * grid.cell, grid.rows * grid.cell);
}

function drawMedium(context, x, y, size, fill, blockSize, colour) {
  const height = Math.max(1, Math.round((size * fill) / blockSize));
  context.globalAlpha = 0.28; // allocated and not yet written
  context.fillStyle = colour;
  context.fillRect(x, y, size, size - height);
  context.globalAlpha = 1;
  context.fillRect(x, y + size - height, size, height);
}

function drawLarge(context, x, y, size, fill, blockSize, colour, free) {
  const { columns, rows } = slots(blockSize);
  const across = size / columns, down = size / rows;
  if (Math.min(across, down) < 4) return drawMedium(context, x, y, size, fill, blockSize, colour);
  context.fillStyle = colour;
  context.globalAlpha = 0.28;
  context.fillRect(x, y, size, size);
  context.globalAlpha = 1;
  for (let slot = 0; slot < fill; slot++) {
    const left = Math.round(x + (slot % columns) * across), top = Math.round(y + Math.floor(slot / columns) * down);
    const right = Math.round(x + ((slot % columns) + 1) * across), bottom = Math.round(y + (Math.floor(slot / columns) + 1) * down);
    context.fillRect(left, top, right - left, bottom - top);
  }
  context.fillStyle = free; // hairlines between slots
  context.globalAlpha = 0.3;
  for (let i = 1; i < columns; i++) context.fillRect(Math.round(x + i * across), y, 1, size);
  for (let i = 1; i < rows; i++) context.fillRect(x, Math.round(y + i * down), size, 1);
  context.globalAlpha = 1;
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

function label(context, x, y, cell, block, references, ink) {
  const text = references > 1 ? `${block} ×${references}` : String(block);
  context.font = FONT;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  const width = context.measureText(text).width;
  context.fillStyle = ink.paper;
  context.fillRect(x + 1, y + cell - 13, width + 5, 13);
  context.fillStyle = ink.text;
  context.fillText(text, x + 3, y + cell - 3);
}

export function outline(context, grid, block, ink) {
  const [x, y] = place(grid, block);
  context.strokeStyle = ink.text;
  context.lineWidth = 2;
  context.strokeRect(x, y, grid.cell + 1, grid.cell + 1);
}
