// The axes of a panel: from values to pixels and back, grid, ticks, titles, and the marks that belong to an axis.
import { shape } from "./svg.js";

const SMALL_TEXT = 11;
const TITLE = 40, FOOT = 40, RIBBON = 18, LINE = 16, LETTER = 6.5;

const warp = (axis) => (axis.scale === "linear" ? (value) => value : Math.log2);

export function scaleOf(axis, from, to) {
  const turn = warp(axis), low = turn(axis.low), high = turn(axis.high);
  const back = axis.scale === "linear" ? (value) => value : (value) => 2 ** value;
  return {
    at: (value) => from + ((turn(value) - low) / (high - low)) * (to - from),
    value: (pixel) => back(low + ((pixel - from) / (to - from)) * (high - low)),
  };
}

export function written(x, y, text, attributes = {}) {
  return shape("text", { x: x.toFixed(1), y: y.toFixed(1), "font-size": SMALL_TEXT, text, ...attributes });
}

// What a panel needs beside its plot: at the left for ticks, at the right for names of lines, if any.
export function roomOf(panel, names) {
  const widest = Math.max(...panel.y.ticks.map(([, text]) => text.length), 2);
  const longest = Math.max(...names.map((name) => name.length), 0);
  return { left: 12 + LETTER * widest, right: names.length ? Math.min(190, 10 + LETTER * longest) : 12 };
}

// Where the plot of a panel lies in its `width`, with this `room` at its sides.
export function frameOf(panel, width, room) {
  const foot = FOOT + (panel.marks.some(({ kind }) => kind === "ribbon") ? RIBBON : 0);
  // A note that does not fit behind the title gets a line of its own.
  const below = LETTER * (panel.title.length + panel.note.length + 3) > width - room.left ? LINE : 0;
  return { left: room.left, right: width - room.right, top: TITLE + below, bottom: panel.height - foot, width, height: panel.height, below };
}

export function drawAxes(panel, frame, x, y, ink) {
  const { left, right, top, bottom } = frame, quiet = { fill: ink.quiet };
  const title = shape("tspan", { text: panel.title, "font-weight": 600 });
  const place = frame.below ? { x: left, y: 14 + LINE } : { dx: 8 };
  const note = shape("tspan", { text: panel.note, fill: ink.quiet, ...place });
  const parts = [shape("text", { x: left, y: 14, fill: ink.text, "font-size": 12 }, [title, note])];
  parts.push(written(left, 30 + frame.below, titled(panel.y), quiet));
  for (const [value, text] of panel.y.ticks) {
    const at = y.at(value);
    parts.push(shape("line", { x1: left, x2: right, y1: at, y2: at, stroke: ink.line, "stroke-width": 1, opacity: 0.35 }));
    parts.push(written(left - 5, at + 4, text, { ...quiet, "text-anchor": "end" }));
  }
  let end = -Infinity;
  for (const [value, text] of panel.x.ticks) {
    // The last number may lie at the edge of the picture: then it stands to the left of its tick.
    const at = x.at(value), half = (LETTER * text.length) / 2, middle = Math.min(at, frame.width - half);
    if (middle - half < end + 6) continue;
    parts.push(shape("line", { x1: at, x2: at, y1: bottom, y2: bottom + 4, stroke: ink.line }));
    parts.push(written(middle, bottom + 16, text, { ...quiet, "text-anchor": "middle" }));
    end = middle + half;
  }
  parts.push(shape("line", { x1: left, x2: right, y1: bottom, y2: bottom, stroke: ink.line }));
  parts.push(written((left + right) / 2, frame.height - 6, titled(panel.x), { ...quiet, "text-anchor": "middle" }));
  return parts;
}

const titled = ({ label, unit }) => [label, unit].filter(Boolean).join(", ");

// Behind the series: shaded ranges, ribbons; before them: rules and words. Rules that set a control can be dragged.
export function marksBehind(panel, frame, x, y, ink) {
  return panel.marks.flatMap((mark) => {
    if (mark.kind === "shade") return [shape("rect", { ...shadedBox(mark, frame, x, y), fill: ink.role(mark.colour), opacity: 0.2, "data-mark": mark.label })];
    if (mark.kind === "ribbon") return ribbon(mark, frame, x, ink);
    return [];
  });
}

function shadedBox(mark, { left, right, top, bottom }, x, y) {
  const upright = mark.axis === "x";
  const [from, to] = upright ? [x.at(mark.low), x.at(mark.high)] : [left, right];
  const [above, below] = upright ? [top, bottom] : [y.at(mark.high), y.at(mark.low)];
  return { x: from, y: above, width: Math.max(0, to - from), height: Math.max(0, below - above) };
}

// The edges and the words of a range stand before what is drawn in it.
function shadedEdge(mark, frame, x, y, ink) {
  const box = shadedBox(mark, frame, x, y);
  const edge = shape("rect", { ...box, fill: "none", stroke: ink.quiet, "stroke-width": 1, "stroke-dasharray": "2 3" });
  const halo = { fill: ink.text, stroke: ink.paper, "stroke-width": 3, "paint-order": "stroke" };
  return [edge, written(box.x + 4, box.y + 12, mark.label, halo)];
}

function ribbon(mark, { bottom }, x, ink) {
  return mark.words.flatMap((words, i) => {
    const from = x.at(mark.edges[i]), to = x.at(mark.edges[i + 1]), fits = LETTER * words.length < to - from - 4;
    const box = shape("rect", { x: from + 1, y: bottom + 20, width: Math.max(0, to - from - 2), height: 15, fill: ink.line, opacity: 0.3 });
    box.append(shape("title", { text: words }));
    const middle = { fill: ink.text, "text-anchor": "middle" };
    return fits ? [box, written((from + to) / 2, bottom + 31, words, middle)] : [box];
  });
}

export function marksBefore(panel, frame, x, y, ink) {
  return panel.marks.flatMap((mark) => {
    if (mark.kind === "shade") return shadedEdge(mark, frame, x, y, ink);
    if (mark.kind === "rule") return [ruleLine(mark, frame, x, y, ink)];
    if (mark.kind === "text") return [written(x.at(mark.x), y.at(mark.y), mark.words, { fill: ink.text })];
    return [];
  });
}

function ruleLine(mark, { left, right, top, bottom }, x, y, ink) {
  const upright = mark.axis === "x", at = upright ? x.at(mark.at) : y.at(mark.at);
  const ends = upright ? { x1: at, x2: at, y1: top, y2: bottom } : { x1: left, x2: right, y1: at, y2: at };
  const words = upright ? written(at + 4, top + 12, mark.label, { fill: ink.text }) : written(left + 6, at - 4, mark.label, { fill: ink.text });
  const line = shape("line", { ...ends, stroke: ink.text, "stroke-width": 1.2, "stroke-dasharray": "5 3" });
  const group = shape("g", { "data-rule": mark.label }, [line, words]);
  if (mark.sets) {
    const grip = shape("line", { ...ends, stroke: "transparent", "stroke-width": 12, "data-sets": mark.sets, "data-axis": mark.axis });
    grip.style.cursor = upright ? "ew-resize" : "ns-resize";
    group.append(grip);
  }
  return group;
}
