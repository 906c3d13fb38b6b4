// Cells of a grid in a panel: squares of one unit, with words in those that have room for them.
import { shape } from "./svg.js";

const HALF_CELL = 0.46, CELL_LETTER = 6.4, CELL_TEXT = 11; // HALF_CELL as in chart.py

export function cellShapes(series, x, y, marks, ink) {
  const colour = ink.role(series.colour);
  return Array.from(series.x, (at, i) => {
    const { left, right, top, bottom } = cellBox(series, i, x, y);
    const size = { x: left, y: top, width: right - left, height: bottom - top };
    const square = shape("rect", { ...marks, ...size, fill: ink.fill(series.colour), "data-index": i });
    const words = series.words[i];
    if (!words || CELL_LETTER * words.length > right - left || CELL_TEXT > bottom - top) return [square];
    const middle = { x: (left + right) / 2, y: (top + bottom) / 2 + 4, "text-anchor": "middle", "font-size": CELL_TEXT, "pointer-events": "none" };
    return [square, shape("text", { ...middle, fill: inkOn(colour), text: words })];
  }).flat();
}

function cellBox(series, i, x, y) {
  return { left: x.at(series.x[i] - HALF_CELL), right: x.at(series.x[i] + HALF_CELL), top: y.at(series.high[i]), bottom: y.at(series.low[i]) };
}

// How far a pixel is from the nearest cell, and which one that is.
export function cellNear(series, px, py, x, y) {
  let best = [Infinity, -1];
  series.x.forEach((_, i) => {
    const { left, right, top, bottom } = cellBox(series, i, x, y);
    const away = Math.hypot(Math.max(0, left - px, px - right), Math.max(0, top - py, py - bottom));
    if (away < best[0]) best = [away, i];
  });
  return best;
}

// As ink_on in palette.py.
const inkOn = (hex) => {
  const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
  const [red, green, blue] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
};
