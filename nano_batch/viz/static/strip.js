// The strip under the blocks: blocks used and cached over the steps. It is the scrubber.
import { CACHED, IN_USE } from "./replay.js";
import { prepare } from "./theme.js";
import { GUTTER } from "./layout.js";

export const STRIP_HEIGHT = 92;
const TOP = 14, BOTTOM = 20;

export function stripScale(run, width) {
  const left = GUTTER, right = width - 8;
  const span = Math.max(1, run.lastStep - run.firstStep);
  return {
    left, right,
    x: (step) => left + ((step - run.firstStep) / span) * (right - left),
    step: (x) => Math.round(run.firstStep + ((x - left) / (right - left)) * span),
  };
}

export function drawStrip(canvas, width, run, line, step, colours, ink) {
  const context = prepare(canvas, width, STRIP_HEIGHT);
  const scale = stripScale(run, width), base = STRIP_HEIGHT - BOTTOM, height = base - TOP;
  const y = (blocks) => base - (height * blocks) / run.numBlocks;
  const upper = line.used.map((used, i) => used + line.cached[i]);
  area(context, scale, run, upper, y, base, colours[CACHED]);
  area(context, scale, run, line.used, y, base, colours[IN_USE]);
  axes(context, scale, run, y, base, ink);
  ticks(context, scale, run, line.evictions, base + 1, 3, ink.quiet);
  ticks(context, scale, run, line.preemptions, TOP - 8, 7, ink.text);
  cursor(context, scale, step, base, ink);
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
  context.font = "10px ui-monospace, Menlo, Consolas, monospace";
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

function cursor(context, scale, step, base, ink) {
  const x = scale.x(step), text = `step ${step}`, half = context.measureText(text).width / 2 + 6;
  const middle = Math.min(scale.right - half, Math.max(scale.left + half, x));
  context.fillStyle = ink.paper;
  context.fillRect(middle - half, base + 6, 2 * half, 13);
  context.fillStyle = ink.text;
  context.textAlign = "center";
  context.fillText(text, middle, base + 16);
  context.fillStyle = ink.paper;
  context.fillRect(Math.round(x) - 2, 4, 5, base - 3);
  context.fillStyle = ink.text;
  context.fillRect(Math.round(x) - 1, 4, 3, base - 3);
  context.beginPath();
  context.arc(Math.round(x) + 0.5, 6, 5, 0, 7);
  context.fill();
}
