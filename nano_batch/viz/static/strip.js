// The strip under the blocks: blocks used and cached over the steps, events in each step. It is the scrubber.
import { CACHED, IN_USE } from "./replay.js";
import { FONT, prepare } from "./theme.js";
import { GUTTER } from "./layout.js";
import { TRACES } from "./traces.js";

export const STRIP_HEIGHT = 92;
const TOP = 14, BOTTOM = 20, ROW = 13;

export function stripScale(run, width) {
  const left = GUTTER, right = width - 8;
  const span = Math.max(1, run.lastStep - run.firstStep);
  return {
    left, right,
    x: (step) => left + ((step - run.firstStep) / span) * (right - left),
    step: (x) => Math.round(run.firstStep + ((x - left) / (right - left)) * span),
  };
}

// The curves are drawn once for a run, a width and a theme; a frame only moves the cursor.
export class Strip {
  constructor(canvas, events) {
    this.canvas = canvas;
    this.events = events;
    this.still = document.createElement("canvas");
  }

  draw(width, run, line, before, player, colours, ink) {
    const { step } = player;
    const rows = TRACES.map((_, rank) => rank).filter((rank) => line.events[rank].some((count) => count > 0));
    const key = [width, devicePixelRatio, ink.text, ink.paper, ...colours].join();
    if (key !== this.key || line !== this.line || before !== this.before) {
      const context = prepare(this.still, width, STRIP_HEIGHT + rows.length * ROW);
      still(context, width, run, line, before, colours, ink);
      rows.forEach((rank, row) => bars(context, stripScale(run, width), run, line.events[rank], rank, STRIP_HEIGHT + row * ROW, ink));
      Object.assign(this, { key, line, before });
    }
    const context = prepare(this.canvas, width, STRIP_HEIGHT), events = prepare(this.events, width, rows.length * ROW);
    const high = STRIP_HEIGHT * devicePixelRatio, down = rows.length * ROW * devicePixelRatio;
    context.drawImage(this.still, 0, 0, this.still.width, high, 0, 0, width, STRIP_HEIGHT);
    if (down) events.drawImage(this.still, 0, high, this.still.width, down, 0, 0, width, rows.length * ROW);
    const scale = stripScale(run, width);
    cursor(context, scale, step, STRIP_HEIGHT - BOTTOM, ink);
    if (!player.moving) stepLabel(context, scale, step, STRIP_HEIGHT - BOTTOM, ink); // it would flicker
    events.fillStyle = ink.text;
    events.fillRect(Math.round(scale.x(step)), 0, 1, rows.length * ROW);
  }
}

function still(context, width, run, line, before, colours, ink) {
  const scale = stripScale(run, width), base = STRIP_HEIGHT - BOTTOM, height = base - TOP;
  const y = (blocks) => base - (height * blocks) / run.numBlocks;
  const upper = line.used.map((used, i) => used + line.cached[i]);
  area(context, scale, run, upper, y, base, colours[CACHED]);
  area(context, scale, run, line.used, y, base, colours[IN_USE]);
  if (before) ghost(context, scale, before, (share) => base - height * share, ink);
  axes(context, scale, run, y, base, ink);
  ticks(context, scale, run, line.evictions, base + 1, 3, ink.quiet);
  ticks(context, scale, run, line.preemptions, TOP - 8, 7, ink.text);
}

// The run before, or the pinned one, as a thin grey line: the share of the memory held in each step.
function ghost(context, scale, { run, line }, y, ink) {
  context.strokeStyle = ink.quiet;
  context.lineWidth = 1;
  context.beginPath();
  for (let i = 0; i < line.used.length && scale.x(run.firstStep + i) <= scale.right; i++) {
    context.lineTo(scale.x(run.firstStep + i), y(line.used[i] / run.numBlocks));
  }
  context.stroke();
}

// Events of one kind in each step, as bars up to the most of any step.
function bars(context, scale, run, counts, rank, top, ink) {
  const most = counts.reduce((a, b) => Math.max(a, b), 1), highest = new Map();
  for (let i = 0; i < counts.length; i++) {
    const x = Math.round(scale.x(run.firstStep + i));
    if (counts[i] > (highest.get(x) ?? 0)) highest.set(x, counts[i]);
  }
  const wide = Math.max(1, Math.floor((scale.right - scale.left) / counts.length) - 1);
  context.fillStyle = ink.quiet;
  for (const [x, count] of highest) {
    const height = Math.max(2, Math.round(((ROW - 3) * count) / most));
    context.fillRect(x, top + ROW - height, wide, height);
  }
  context.textAlign = "right";
  context.font = FONT;
  context.fillText(TRACES[rank].short ?? TRACES[rank].label, scale.left - 2, top + ROW - 2);
}

function area(context, scale, run, values, y, base, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.moveTo(scale.left, base);
  const perPixel = Math.max(1, Math.floor(values.length / (2 * (scale.right - scale.left))));
  for (let i = 0; i < values.length; i += perPixel) {
    let peak = 0;
    for (let j = i; j < Math.min(values.length, i + perPixel); j++) peak = Math.max(peak, values[j]);
    context.lineTo(scale.x(run.firstStep + i), y(peak));
  }
  context.lineTo(scale.right, y(values[values.length - 1]));
  context.lineTo(scale.right, base);
  context.fill();
}

function axes(context, scale, run, y, base, ink) {
  context.font = FONT;
  context.fillStyle = ink.quiet;
  context.strokeStyle = ink.quiet;
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [text, blocks] of [["100 %", run.numBlocks], ["50 %", run.numBlocks / 2], ["0 %", 0]]) {
    context.fillText(text, scale.left - 5, y(blocks));
    context.globalAlpha = 0.5;
    context.beginPath();
    context.moveTo(scale.left, Math.round(y(blocks)) + 0.5);
    context.lineTo(scale.right, Math.round(y(blocks)) + 0.5);
    context.stroke();
    context.globalAlpha = 1;
  }
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.fillText(`step ${run.firstStep}`, scale.left, base + 16);
  context.textAlign = "right";
  context.fillText(`step ${run.lastStep}`, scale.right, base + 16);
}

function ticks(context, scale, run, values, top, height, colour) {
  context.fillStyle = colour;
  let last = -1;
  for (let i = 0; i < values.length; i++) {
    if (!values[i]) continue;
    const x = Math.round(scale.x(run.firstStep + i));
    if (x !== last) context.fillRect(x, top, 1, height);
    last = x;
  }
}

function stepLabel(context, scale, step, base, ink) {
  const text = `step ${step}`, half = context.measureText(text).width / 2 + 6;
  const middle = Math.min(scale.right - half, Math.max(scale.left + half, scale.x(step)));
  context.fillStyle = ink.paper;
  context.fillRect(middle - half, base + 6, 2 * half, 13);
  context.fillStyle = ink.text;
  context.textAlign = "center";
  context.fillText(text, middle, base + 16);
}

function cursor(context, scale, step, base, ink) {
  const x = Math.round(scale.x(step));
  context.fillStyle = ink.paper;
  context.fillRect(x - 2, 4, 5, base - 3);
  context.fillStyle = ink.text;
  context.fillRect(x - 1, 4, 3, base - 3);
  context.beginPath();
  context.arc(x + 0.5, 6, 5, 0, 7);
  context.fill();
}
