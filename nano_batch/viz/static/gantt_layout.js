// Where the bars stand: a panel a scheme on one time axis. Up to 60 rows keep 3 px at least; above that bars shrink.
export const LEFT = 46, RIGHT = 12, TITLE = 24, QUEUE = 18, AXIS = 20;
const TALLEST = 200, LARGEST_BAR = 12;
export const LETTER = { wide: 9, high: 11 };
// Where else a letter may stand, nearest first; right of its place it would lie on its own bar, so that is tried last.
const AROUND = [];
for (let i = -12; i <= 12; i++) for (let j = -12; j <= 12; j++) AROUND.push([i * (LETTER.wide + 1), j * (LETTER.high + 1)]);
const far = ([dx, dy]) => Math.hypot(dx, dy) + (dx > 0 ? 1000 : 0);
AROUND.sort((a, b) => far(a) - far(b));

export function rowHeight(rows) {
  return rows <= 60 ? Math.max(3, Math.min(LARGEST_BAR, Math.floor(TALLEST / Math.max(1, rows)))) : TALLEST / rows;
}

// `shown`: the times [from, to] of the axis. By requests, those there in these times have a row each.
export function ganttLayout(data, mode, shown, width) {
  const right = width - RIGHT, [from, to] = shown, span = Math.max(1e-12, to - from);
  let top = 0;
  const panels = data.schemes.map((scheme) => {
    const rowOf = mode === "slots" ? null : rowsOf(scheme, data.names.length, shown);
    const rows = mode === "slots" ? scheme.slots : rowOf.count, edge = rowHeight(rows);
    const panel = { scheme, rowOf, rows, edge, title: top, top: top + TITLE, height: Math.max(1, Math.round(edge * rows)) };
    panel.queue = panel.top + panel.height + 2;
    top = panel.top + panel.height + (mode === "slots" ? QUEUE + 4 : 6);
    return panel;
  });
  return {
    mode, shown, panels, width, left: LEFT, right, height: top + AXIS, base: top,
    x: (time) => LEFT + ((time - from) / span) * (right - LEFT),
    time: (x) => from + ((x - LEFT) / (right - LEFT)) * span,
  };
}

function rowsOf(scheme, count, [from, to]) {
  const rows = new Int32Array(count).fill(-1), { arrival, finish } = scheme.requests;
  rows.count = 0;
  for (let i = 0; i < count; i++) {
    const end = Number.isNaN(finish[i]) ? scheme.end : finish[i];
    if (arrival[i] <= to && end >= from) rows[i] = rows.count++;
  }
  return rows;
}

// The row of a span in its panel, or -1 where it is not drawn.
export function rowOfSpan(panel, i) {
  const { lane, row } = panel.scheme.spans;
  return panel.rowOf ? panel.rowOf[row[i]] : lane[i];
}

// The panel and the request under a point, or null.
export function barAt(layout, x, y) {
  const panel = layout.panels.find(({ title, top, height }) => y >= title && y < top + height);
  if (!panel) return null;
  const row = Math.floor((y - panel.top) / panel.edge), time = layout.time(x), { spans } = panel.scheme;
  if (y < panel.top || x < layout.left) return { panel, request: -1, span: -1 };
  const near = 1.5 * (layout.time(1) - layout.time(0));
  let best = -1;
  for (let i = 0; i < spans.row.length; i++) {
    if (rowOfSpan(panel, i) !== row || spans.start[i] - near > time || spans.end[i] + near < time) continue;
    if (best < 0 || (spans.start[i] <= time && time <= spans.end[i])) best = i;
  }
  return { panel, request: best < 0 ? -1 : spans.row[best], span: best, row };
}

// The corners of letters, each as near to its own place (x, y) as none lies on another; `within` holds all of them.
export function placeLetters(wanted, within) {
  const placed = [], inside = ([x, y]) => x >= within.left && x + LETTER.wide <= within.right && y >= within.top && y + LETTER.high <= within.bottom;
  const free = ([x, y]) => placed.every(([left, top]) => Math.abs(left - x) >= LETTER.wide || Math.abs(top - y) >= LETTER.high);
  // From the top down, so that the lines back to the bars do not cross.
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a][1] - wanted[b][1]);
  const corners = [];
  for (const i of order) {
    const [x, y] = wanted[i], at = AROUND.map(([dx, dy]) => [x + dx, y + dy]).find((corner) => inside(corner) && free(corner)) ?? wanted[i];
    placed.push(at);
    corners[i] = at;
  }
  return corners;
}
