// One panel of a chart: its picture, its cursor, and what is at a place of it.
import { drawAxes, frameOf, marksBefore, marksBehind, roomOf, scaleOf, written } from "./axes.js";
import { drawBefore, drawSeries, markAt, nearestIndex } from "./series.js";
import { shape } from "./svg.js";

export class PanelPicture {
  constructor() {
    this.clip = `nb-clip-${Math.random().toString(36).slice(2)}`; // one in the page, whatever other views it has
    this.node = shape("svg", { class: "nb-panel", xmlns: "http://www.w3.org/2000/svg", "font-family": "system-ui, sans-serif" });
    this.cursor = shape("line", { class: "nb-cursor", "stroke-width": 1.5, visibility: "hidden" });
    this.ring = shape("circle", { r: 6, fill: "none", "stroke-width": 2, visibility: "hidden" });
  }

  draw(panel, before, width, room, ink) {
    const names = namesBeside(panel, width);
    const frame = frameOf(panel, width, room);
    this.panel = panel;
    this.frame = frame;
    this.x = scaleOf(panel.x, frame.left, frame.right);
    this.y = scaleOf(panel.y, frame.bottom, frame.top);
    const { x, y, node } = this, { left, right, top, bottom } = frame;
    const size = { width, height: frame.height, viewBox: `0 0 ${width} ${frame.height}`, "data-panel": panel.title, "data-frame": [left, top, right, bottom].join(" ") };
    for (const [name, value] of Object.entries(size)) node.setAttribute(name, value);
    const old = before ? panel.series.flatMap(({ name, kind }) => before.series.filter((each) => each.name === name && each.kind === kind)) : [];
    const inside = [...marksBehind(panel, frame, x, y, ink), ...panel.series.flatMap((series) => drawSeries(series, x, y, ink)), ...old.flatMap((series) => drawBefore(series, x, y, ink))];
    const clip = shape("clipPath", { id: this.clip }, [shape("rect", { x: left - 6, y: top - 6, width: right - left + 12, height: bottom - top + 46 })]);
    this.cursor.setAttribute("stroke", ink.text);
    this.ring.setAttribute("stroke", ink.text);
    node.replaceChildren(
      shape("defs", {}, [clip, ...ink.patterns()]),
      ...drawAxes(panel, frame, x, y, ink),
      shape("g", { "clip-path": `url(#${this.clip})` }, inside),
      ...(names.length ? directLabels(panel, frame, y, ink) : []),
      ...marksBefore(panel, frame, x, y, ink),
      this.cursor,
      this.ring,
    );
  }

  // The moment `at` (in units of x), or none.
  mark(at) {
    const shown = this.panel.steps && at !== null && at >= this.panel.x.low && at <= this.panel.x.high;
    this.cursor.setAttribute("visibility", shown ? "visible" : "hidden");
    if (!shown) return;
    const px = this.x.at(at);
    for (const [name, value] of Object.entries({ x1: px, x2: px, y1: this.frame.top, y2: this.frame.bottom })) this.cursor.setAttribute(name, value);
  }

  circle(point) {
    this.ring.setAttribute("visibility", point ? "visible" : "hidden");
    if (!point) return;
    const [cx, cy] = this.placeOf(point);
    this.ring.setAttribute("cx", cx);
    this.ring.setAttribute("cy", cy);
  }

  placeOf([place, index]) {
    const series = this.panel.series[place];
    const y = series.kind === "cells" ? (series.low[index] + series.high[index]) / 2 : series.high[index];
    return [this.x.at(series.x[index]), this.y.at(y)];
  }

  within(px, py) {
    const { left, right, top, bottom } = this.frame;
    return px >= left - 6 && px <= right + 6 && py >= top - 6 && py <= bottom + 6;
  }

  at(px, py) {
    return this.within(px, py) ? markAt(this.panel, px, py, this.x, this.y) : [-1, -1];
  }

  // Every series at the x of a point, in words; the point's own series first.
  describe([place, index]) {
    const { series, x, y, title } = this.panel, value = series[place].x[index], chosen = series[place];
    if (chosen.kind === "cells") return `${title}, ${chosen.name}\n${chosen.tips[index] || chosen.words[index]}`;
    const head = x.categories.length ? x.categories[value] : `${x.label} ${figureText(value)}${x.unit ? ` ${x.unit}` : ""}`;
    const lines = series.map((each, i) => {
      const at = i === place ? index : nearestIndex(each.x, value);
      if (at < 0 || (x.categories.length && each.x[at] !== value)) return null;
      return `${i === place ? "▸ " : ""}${each.name}: ${amount(each, at)}${y.unit ? ` ${y.unit}` : ""}`;
    });
    return [`${title}, ${head}`, ...lines.filter(Boolean)].join("\n");
  }
}

function amount(series, i) {
  const low = series.low[i], high = series.high[i];
  if (series.kind === "band") return `${figureText(low)} to ${figureText(high)}`;
  return figureText(series.kind === "line" || series.kind === "points" ? high : high - low);
}

// Three significant digits; whole, thousands separated, from 1,000 on: as nano_batch.display.number.
export function figureText(value) {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1000 || Number.isInteger(value)) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}

// What panels of a width need at their sides; those above each other have it in common, so that their x agree.
export function commonRoom(panels, width, stacked) {
  const rooms = panels.map((panel) => roomOf(panel, namesBeside(panel, width)));
  const widest = { left: Math.max(...rooms.map(({ left }) => left)), right: Math.max(...rooms.map(({ right }) => right)) };
  return rooms.map((room) => (stacked ? widest : room));
}

// The lines that have room for a name at their ends: two to six, none so near another that it could be either.
function namesBeside(panel, width) {
  const lines = panel.series.filter(({ kind }) => kind === "line");
  if (width <= 460 || lines.length < 2 || lines.length > 6) return [];
  const y = scaleOf(panel.y, panel.height - 80, 0);
  const ends = lines.map(({ high }) => y.at(high.findLast(Number.isFinite) ?? NaN)).sort((a, b) => a - b);
  return ends.every((end, i) => !i || end - ends[i - 1] >= 12) ? lines.map(({ name }) => name) : [];
}

// The name of each line at its end.
function directLabels({ series }, frame, y, ink) {
  const ends = series.filter(({ kind }) => kind === "line").flatMap((line) => {
    const last = line.high.findLastIndex(Number.isFinite);
    return last < 0 ? [] : [{ name: line.name, at: Math.max(frame.top, y.at(line.high[last])) + 4 }];
  });
  return ends.map(({ name, at }) => written(frame.right + 6, at, name, { fill: ink.text }));
}
