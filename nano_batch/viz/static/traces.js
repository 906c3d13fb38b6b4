// What happened to a block in the last 8 steps: one mark a kind, fading with its age. Also on pause and backwards.
import { ALLOCATED, COPIED, EVICTED, FREED, SWAPPED_IN, SWAPPED_OUT, firstEventOf } from "./run.js";

export const FADE = 8;
// In the order of rank: of one step's events on a block the last of these is shown.
export const TRACES = [
  { label: "allocated", short: "alloc", kinds: [ALLOCATED], path: [[1, 4, 7, 4], [4, 1, 4, 7]] },
  { label: "freed", kinds: [FREED], path: [[1, 4, 7, 4]] },
  { label: "copied", kinds: [COPIED], path: [[1, 2.5, 7, 2.5], [1, 5.5, 7, 5.5]] },
  { label: "swapped", kinds: [SWAPPED_OUT, SWAPPED_IN], path: [[1, 3, 7, 3], [5, 1, 7, 3], [1, 5, 7, 5], [1, 5, 3, 7]] },
  { label: "evicted", kinds: [EVICTED], path: [[1.5, 1.5, 6.5, 6.5], [6.5, 1.5, 1.5, 6.5]] },
];
const RANK = new Int8Array(16).fill(-1);
TRACES.forEach(({ kinds }, rank) => kinds.forEach((kind) => (RANK[kind] = rank)));

export function rankOf(kind) {
  return RANK[kind];
}

// Per block 1 + rank * FADE + age of its newest mark, 0 where there is none.
export function tracesAt(run, step, into) {
  into.fill(0);
  const end = firstEventOf(run, step + 1);
  for (let i = firstEventOf(run, step - FADE + 1); i < end; i++) {
    const rank = RANK[run.kind[i]], block = run.block[i];
    if (rank < 0 || block < 0) continue;
    const age = step - run.step[i], old = into[block];
    const sameStep = old && (old - 1) % FADE === age;
    if (!sameStep || rank > Math.floor((old - 1) / FADE)) into[block] = 1 + rank * FADE + age;
  }
  return into;
}

export function drawTrace(context, x, y, trace, ink, plain) {
  const rank = Math.floor((trace - 1) / FADE), age = (trace - 1) % FADE;
  context.globalAlpha = plain ? 1 : 1 - age / FADE;
  context.fillStyle = ink.paper;
  context.fillRect(x, y, 8, 8);
  context.strokeStyle = ink.text;
  context.lineWidth = 1.5;
  context.beginPath();
  for (const [a, b, c, d] of TRACES[rank].path) {
    context.moveTo(x + a, y + b);
    context.lineTo(x + c, y + d);
  }
  context.stroke();
  context.globalAlpha = 1;
}

// The same mark as an icon in the page.
export function traceIcon(rank) {
  const lines = TRACES[rank].path.map(([a, b, c, d]) => `M${a} ${b}L${c} ${d}`).join("");
  return `<svg viewBox="0 0 8 8" width="10" height="10" aria-hidden="true"><path d="${lines}" stroke="currentColor" stroke-width="1.5" fill="none"/></svg>`;
}
