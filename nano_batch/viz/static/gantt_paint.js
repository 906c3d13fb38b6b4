// The bars themselves. Rows of 3 px and more are drawn shape by shape, thinner ones pixel by pixel.
import { IDLE, LOST, WAITING } from "./gantt_data.js";
import { FONT, prepare } from "./theme.js";
import { LETTER, QUEUE, TITLE, placeLetters, rowOfSpan } from "./gantt_layout.js";

// `look`: colours by phase, ink, owners, selected (request rows), delays per panel, ghosts, lead.
export function paintGantt(canvas, layout, look) {
  const context = prepare(canvas, layout.width, layout.height);
  const most = Math.max(1, ...layout.panels.map(({ scheme }) => scheme.steps.waiting.reduce((a, b) => Math.max(a, b), 0)));
  layout.panels.forEach((panel, place) => {
    const pale = look.selected.length > 0 ? lit(panel, look, place) : null;
    context.save();
    context.beginPath();
    context.rect(layout.left - 1, panel.top - 1, layout.right - layout.left + 2, panel.height + 2);
    context.clip();
    if (layout.mode === "slots") outlines(context, layout, panel, look);
    if (panel.edge >= 3) shapes(context, layout, panel, look, pale);
    context.restore();
    if (panel.edge < 3) pixels(context, layout, panel, look, pale);
    if (pale) marks(context, layout, panel, look, place);
    if (layout.mode === "slots") queue(context, layout, panel, most, look);
    title(context, layout, panel, look, place);
  });
  axis(context, layout, look.ink);
}

// Which requests stand out: the selected ones and the neighbours that their prefill delayed.
function lit(panel, { selected, delays }, place) {
  const found = new Set(selected);
  for (const each of delays[place].times) for (const row of each.found) found.add(row);
  return found;
}

function outlines(context, layout, panel, { colours, ink }) {
  const x = layout.x(0), right = layout.x(panel.scheme.end);
  context.fillStyle = colours[IDLE];
  context.fillRect(x, panel.top, right - x, panel.height);
  context.strokeStyle = ink.line;
  context.lineWidth = 1;
  if (panel.edge < 4) return context.strokeRect(x + 0.5, panel.top + 0.5, right - x - 1, panel.height - 1);
  for (let row = 0; row < panel.rows; row++) {
    context.strokeRect(x + 0.5, panel.top + row * panel.edge + 0.5, right - x - 1, panel.edge - 2);
  }
}

function shapes(context, layout, panel, look, pale) {
  const { spans } = panel.scheme, tall = panel.edge >= 4 ? panel.edge - 1 : panel.edge, covered = new Float64Array(panel.rows).fill(-1);
  for (let i = 0; i < spans.row.length; i++) {
    const row = rowOfSpan(panel, i);
    if (row < 0 || spans.end[i] < layout.shown[0] || spans.start[i] > layout.shown[1]) continue;
    const x = layout.x(spans.start[i]), right = layout.x(spans.end[i]);
    // Of many bars within one pixel the first is drawn: at 19,366 requests most are.
    if (right - x < 1 && right <= covered[row]) continue;
    covered[row] = Math.ceil(right);
    context.globalAlpha = pale && !pale.has(spans.row[i]) ? 0.3 : 1;
    bar(context, spans.phase[i], x, panel.top + row * panel.edge, Math.max(0.75, right - x), tall, look);
  }
  context.globalAlpha = 1;
  ticks(context, layout, panel, look, tall);
}

function bar(context, phase, x, y, width, tall, { colours }) {
  context.fillStyle = colours[phase];
  if (phase === WAITING) return context.fillRect(x, y + Math.floor(tall / 2) - (tall > 6 ? 1 : 0), width, tall > 6 ? 2 : 1);
  if (phase !== LOST) return context.fillRect(x, y, width, tall);
  context.save();
  context.beginPath();
  context.rect(x, y, width, tall);
  context.clip();
  context.strokeStyle = colours[phase];
  context.lineWidth = 1.5;
  context.strokeRect(x, y, width, tall);
  context.beginPath();
  for (let at = Math.floor(x / 5) * 5 - tall; at < x + width; at += 5) {
    context.moveTo(at, y + tall);
    context.lineTo(at + tall, y);
  }
  context.stroke();
  context.restore();
}

// The first token as a full tick, the end as a half one, where a row has room for them.
function ticks(context, layout, panel, { ink }, tall) {
  if (panel.edge < 6) return;
  const { spans, requests } = panel.scheme;
  context.fillStyle = ink.text;
  for (let i = 0; i < spans.row.length; i++) {
    const row = rowOfSpan(panel, i), request = spans.row[i], y = panel.top + row * panel.edge;
    if (row < 0 || spans.lane[i] < 0) continue;
    const first = requests.first[request], finish = requests.finish[request];
    if (first > spans.start[i] && first <= spans.end[i]) context.fillRect(Math.round(layout.x(first)) - 1, y, 2, tall);
    if (finish > spans.start[i] && finish <= spans.end[i]) context.fillRect(Math.round(layout.x(finish)) - 1, y + Math.ceil(tall / 2), 1, Math.floor(tall / 2));
  }
}

// Rows thinner than 3 px: each span fills the device pixels that it touches.
function pixels(context, layout, panel, look, pale) {
  const ratio = window.devicePixelRatio || 1, { spans } = panel.scheme;
  const across = Math.round((layout.right - layout.left) * ratio), down = Math.round(panel.height * ratio);
  if (across < 1 || down < 1) return;
  const image = context.getImageData(Math.round(layout.left * ratio), Math.round(panel.top * ratio), across, down);
  const words = new Uint32Array(image.data.buffer), inks = look.colours.map((colour) => [word(colour, 255), word(colour, 90)]);
  for (let i = 0; i < spans.row.length; i++) {
    const row = rowOfSpan(panel, i);
    if (row < 0 || spans.end[i] < layout.shown[0] || spans.start[i] > layout.shown[1]) continue;
    const x = Math.max(0, Math.floor((layout.x(spans.start[i]) - layout.left) * ratio));
    const right = Math.min(across, Math.max(x + 1, Math.round((layout.x(spans.end[i]) - layout.left) * ratio)));
    const y = Math.floor((row * down) / panel.rows), bottom = Math.max(y + 1, Math.floor(((row + 1) * down) / panel.rows));
    const colour = inks[spans.phase[i]][pale && !pale.has(spans.row[i]) ? 1 : 0];
    for (let line = y; line < bottom; line++) words.fill(colour, line * across + x, line * across + right);
  }
  context.putImageData(image, Math.round(layout.left * ratio), Math.round(panel.top * ratio));
}

function word(colour, alpha) {
  const value = parseInt(colour.slice(1), 16);
  return ((alpha << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}

// The selected requests: a frame in their hue and their letter; the steps in which their prefill delays others.
function marks(context, layout, panel, look, place) {
  const inside = (i) => panel.scheme.spans.end[i] >= layout.shown[0] && panel.scheme.spans.start[i] <= layout.shown[1];
  for (const each of look.delays[place].times) delayed(context, layout, panel, look.ink, each, inside);
  const framed = look.selected.map((request, order) => ({ ...look.owners[order], bars: frame(context, layout, panel, request, look.owners[order], inside) }));
  letters(context, layout, panel, look.ink, framed.filter(({ bars }) => bars.length));
}

// In the colour of no phase, at the foot of the neighbours' bars: as long as the step, 5 px at least where a row has room.
function delayed(context, layout, panel, ink, { start, end, found }, inside) {
  const { spans } = panel.scheme, tall = Math.max(1, panel.edge - 1), roomy = panel.edge >= 6, middle = (start + end) / 2;
  const high = roomy ? 3 : tall, least = roomy ? 5 : 2;
  for (let i = 0; i < spans.row.length; i++) {
    const row = rowOfSpan(panel, i);
    if (row < 0 || spans.lane[i] < 0 || !found.has(spans.row[i]) || !(spans.start[i] < middle && middle < spans.end[i]) || !inside(i)) continue;
    const from = Math.max(layout.left, layout.x(start)), wide = Math.min(layout.right, layout.x(end)) - from, spare = Math.max(0, least - wide);
    const x = from - spare / 2, y = panel.top + row * panel.edge + tall - high;
    context.fillStyle = ink.paper;
    if (roomy) context.fillRect(x - 1, y - 1, wide + spare + 2, high + 1);
    context.fillStyle = ink.text;
    context.fillRect(x, y, wide + spare, high);
  }
}

// Frames the bars of a request; where each stands, [x, y] at the middle of its start.
function frame(context, layout, panel, request, owner, inside) {
  const { spans } = panel.scheme, tall = Math.max(1, panel.edge - 1), bars = [];
  context.strokeStyle = owner.colour;
  context.lineWidth = panel.edge >= 6 ? 2 : 1; // thicker, it would lie on the neighbours' bars
  for (let i = 0; i < spans.row.length; i++) {
    const row = spans.row[i] === request && inside(i) ? rowOfSpan(panel, i) : -1;
    if (row < 0) continue;
    const x = Math.max(layout.left, layout.x(spans.start[i])), right = Math.min(layout.right, layout.x(spans.end[i])), y = panel.top + row * panel.edge;
    context.strokeRect(x, y, Math.max(2, right - x), tall);
    bars.push([x, y + tall / 2]);
  }
  return bars;
}

// A letter before the first bar of each; one that had to give way to another has a line to its bar.
function letters(context, layout, panel, ink, framed) {
  const { wide, high } = LETTER, top = panel.top - 2, bottom = panel.top + Math.max(panel.height, high) + 2;
  const own = framed.map(({ bars: [[x, y]] }) => [x - wide - 1, Math.max(top, Math.min(bottom - high, y - high / 2))]);
  const within = { left: 0, right: layout.width, top, bottom };
  const corners = placeLetters(own, within);
  context.lineWidth = 1;
  framed.forEach(({ colour, bars: [bar] }, i) => {
    if (corners[i].join() === own[i].join()) return;
    context.strokeStyle = colour;
    context.beginPath();
    context.moveTo(corners[i][0] + wide / 2, corners[i][1] + high / 2);
    context.lineTo(...bar);
    context.stroke();
  });
  context.font = FONT;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  framed.forEach(({ letter, colour }, i) => {
    const [x, y] = corners[i];
    context.fillStyle = ink.paper;
    context.fillRect(x, y, wide, high);
    context.fillStyle = colour;
    context.fillRect(x, y + high - 1, wide, 1);
    context.fillStyle = ink.text;
    context.fillText(letter, x + 1.5, y + high - 2.5);
  });
}

// How many wait, as an area under the slots.
function queue(context, layout, panel, most, { colours, ink }) {
  const { steps } = panel.scheme, base = panel.queue + QUEUE - 2, high = QUEUE - 4;
  context.fillStyle = colours[WAITING];
  let right = -1, peak = 0;
  for (let i = 0; i < steps.end.length; i++) {
    if (!steps.waiting[i] || steps.end[i] < layout.shown[0] || steps.start[i] > layout.shown[1]) continue;
    const x = Math.max(layout.left, layout.x(steps.start[i])), end = Math.min(layout.right, layout.x(steps.end[i]));
    peak = Math.max(peak, steps.waiting[i]);
    if (end <= right) continue;
    const tall = Math.max(1, (high * steps.waiting[i]) / most);
    const left = Math.floor(x);
    right = Math.max(left + 1, Math.ceil(end));
    context.fillRect(left, base - tall, right - left, tall);
  }
  context.font = FONT;
  context.fillStyle = ink.quiet;
  context.textAlign = "right";
  context.textBaseline = "alphabetic";
  context.fillText("queue", layout.left - 4, base);
  if (!peak) return;
  const words = `at most ${peak}`, wide = context.measureText(words).width;
  context.fillStyle = ink.paper;
  context.fillRect(layout.right - wide - 4, base - 10, wide + 4, 11);
  context.fillStyle = ink.text;
  context.fillText(words, layout.right, base);
}

// The scheme's name and, above the end of its bars, its makespan and idle share. A dashed line: where it ended before.
function title(context, layout, panel, { ink, lead, ghosts }, place) {
  const y = panel.title + TITLE - 8, end = layout.x(panel.scheme.end);
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.fillStyle = ink.text;
  context.font = "600 12px system-ui, sans-serif";
  const name = `${panel.scheme.label === lead ? "▸ " : ""}${panel.scheme.label}`;
  context.fillText(name, 2, y);
  const after = 2 + context.measureText(name).width + 14;
  context.font = "12px system-ui, sans-serif";
  const wide = context.measureText(panel.scheme.words).width;
  context.fillText(panel.scheme.words, Math.max(after, Math.min(end - wide, layout.right - wide)), y);
  if (end >= layout.left && end <= layout.right + 1) context.fillRect(Math.round(end) - 1, panel.top - 5, 2, panel.height + 7);
  const before = ghosts[place] === undefined ? -1 : layout.x(ghosts[place]);
  if (before < layout.left || before > layout.right) return;
  context.strokeStyle = ink.quiet;
  context.lineWidth = 1;
  context.setLineDash([4, 3]);
  context.beginPath();
  context.moveTo(Math.round(before) + 0.5, panel.top - 5);
  context.lineTo(Math.round(before) + 0.5, panel.top + panel.height + 2);
  context.stroke();
  context.setLineDash([]);
}

function axis(context, layout, ink) {
  const [from, to] = layout.shown, span = to - from;
  let unit = 10 ** Math.floor(Math.log10(span / 4));
  unit *= [1, 2, 5, 10].find((factor) => span / (unit * factor) <= 9) ?? 10;
  const digits = Math.max(0, -Math.floor(Math.log10(unit) + 1e-9));
  context.font = FONT;
  context.fillStyle = ink.quiet;
  context.textBaseline = "alphabetic";
  context.fillRect(layout.left, layout.base, layout.right - layout.left, 1);
  for (let at = Math.ceil(from / unit); at * unit <= to; at++) {
    const x = layout.x(at * unit), text = `${(at * unit).toFixed(digits)} s`, half = context.measureText(text).width / 2;
    context.fillRect(Math.round(x), layout.base, 1, 4);
    context.textAlign = x + half > layout.width ? "right" : "center";
    context.fillText(text, x, layout.base + 15);
  }
}
