// The series of a panel as shapes, the setting before as thin grey lines, and which mark is at a place.
import { cellNear, cellShapes } from "./cells.js";
import { shape, through } from "./svg.js";

// The panels of a chart with their columns, which come end to end in one buffer, as typed arrays.
export function readPanels({ panels, data }) {
  const all = new Float64Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
  const take = ([first, count]) => all.subarray(first, first + count);
  return panels.map((panel) => ({
    ...panel,
    series: panel.series.map((each) => ({ ...each, x: take(each.x), low: take(each.low), high: take(each.high) })),
    steps: panel.steps && take(panel.steps),
  }));
}

export function drawSeries(series, x, y, ink) {
  const colour = ink.fill(series.colour), marks = { "data-series": series.name };
  const xs = Array.from(series.x, x.at), high = Array.from(series.high, y.at);
  if (series.kind === "bars") return barShapes(series, x, y, colour, marks, ink);
  if (series.kind === "area" || series.kind === "band") {
    const low = Array.from(series.low, y.at);
    const back = through(xs.toReversed(), low.toReversed()).replace("M", "L");
    const area = { ...marks, d: `${through(xs, high)}${back}Z`, fill: colour };
    if (series.kind === "band") return [shape("path", { ...area, opacity: 0.25 })];
    return [shape("path", area)];
  }
  if (series.kind === "cells") return cellShapes(series, x, y, marks, ink);
  if (series.kind === "points") return pointShapes(series, xs, high, colour, marks, ink);
  const dash = series.dash ? { "stroke-dasharray": series.dash } : {};
  return [shape("path", { ...marks, d: through(xs, high), fill: "none", stroke: colour, "stroke-width": series.width, "stroke-linejoin": "round", ...dash })];
}

// Left and right end of the bar of a category, in pixels.
export function barEnds({ stack: [place, count] }, category, x) {
  const wide = 0.7 / count, middle = category + wide * (place - (count - 1) / 2);
  return [x.at(middle - wide / 2), x.at(middle + wide / 2)];
}

function barShapes(series, x, y, colour, marks, ink) {
  return Array.from(series.x, (category, i) => {
    const [from, to] = barEnds(series, category, x), top = y.at(series.high[i]);
    const size = { x: from, y: top, width: to - from, height: Math.max(0, y.at(series.low[i]) - top) };
    return shape("rect", { ...marks, ...size, fill: colour, stroke: ink.paper, "stroke-width": 0.6, "data-index": i });
  });
}

function pointShapes(series, xs, ys, colour, marks, ink) {
  return xs.flatMap((at, i) => {
    if (!Number.isFinite(ys[i]) || !Number.isFinite(at)) return [];
    const fill = series.hollow?.[i] ? ink.paper : colour;
    if (series.mark === "diamond") return [shape("path", { ...marks, d: `M${at - 6} ${ys[i]}l6 -6l6 6l-6 6Z`, fill, stroke: colour, "stroke-width": 2, "data-index": i })];
    return [shape("circle", { ...marks, cx: at, cy: ys[i], r: 4, fill, stroke: colour, "stroke-width": 2, "data-index": i })];
  });
}

export function drawBefore(series, x, y, ink) {
  const line = { fill: "none", stroke: ink.quiet, "stroke-width": 1, "data-before": series.name };
  if (series.kind === "bars") {
    return Array.from(series.x, (category, i) => {
      const [from, to] = barEnds(series, category, x), at = y.at(series.high[i]);
      return shape("path", { ...line, d: `M${from} ${at}L${to} ${at}` });
    });
  }
  const xs = Array.from(series.x, x.at), ys = Array.from(series.high, y.at);
  if (series.kind !== "points") return series.kind !== "line" && series.kind !== "area" ? [] : [shape("path", { ...line, d: through(xs, ys) })];
  return xs.filter((at, i) => Number.isFinite(ys[i])).map((at, i) => shape("circle", { ...line, cx: at, cy: ys[i], r: 3 }));
}

// The place of the value in `x` that is nearest to `value`; -1 where there is none.
export function nearestIndex(x, value, distance = (one, two) => Math.abs(one - two)) {
  let best = -1;
  for (let i = 0; i < x.length; i++) {
    if (Number.isFinite(x[i]) && (best < 0 || distance(x[i], value) < distance(x[best], value))) best = i;
  }
  return best;
}

// The mark at a pixel: [series, index]; of areas and bars the one that covers it, else the nearest.
export function markAt(panel, px, py, x, y) {
  const found = [];
  panel.series.forEach((series, place) => {
    if (series.kind === "cells") {
      const [away, index] = cellNear(series, px, py, x, y);
      if (index >= 0) found.push([away, place, index]);
      return;
    }
    const index = nearestIndex(series.x, px, (value, pixel) => Math.abs(x.at(value) - pixel));
    if (index < 0 || !Number.isFinite(series.high[index])) return;
    const top = y.at(series.high[index]), bottom = y.at(series.low[index]);
    let away = Math.max(0, top - py, py - bottom);
    if (series.kind === "bars") {
      const [from, to] = barEnds(series, series.x[index], x);
      away += Math.max(0, from - px, px - to);
    }
    if (series.kind === "line" || series.kind === "points") away = Math.hypot(top - py, x.at(series.x[index]) - px);
    found.push([away, place, index]);
  });
  found.sort((a, b) => a[0] - b[0]);
  return found.length ? [found[0][1], found[0][2]] : [-1, -1];
}
