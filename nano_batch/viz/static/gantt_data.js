// Runs of the same requests as they come from the kernel (viz/scheme.py), as typed arrays, and what they say at a moment.
export const WAITING = 0, PREFILL = 1, DECODE = 2, STALLED = 3, LOST = 4, IDLE = 5;

function arrayOf(view, Type) {
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function arraysOf(message, types) {
  return Object.fromEntries(Object.entries(types).map(([name, Type]) => [name, arrayOf(message[name], Type)]));
}

export function readSchemes(message) {
  const schemes = message.schemes.map(({ label, slots, end_s: end, words, spans, requests, steps, chunks }) => ({
    label, slots, end, words,
    spans: arraysOf(spans, { row: Uint32Array, lane: Int32Array, phase: Uint8Array, start: Float64Array, end: Float64Array }),
    requests: arraysOf(requests, { arrival: Float64Array, first: Float64Array, finish: Float64Array }),
    steps: arraysOf(steps, { number: Uint32Array, start: Float64Array, end: Float64Array, waiting: Uint32Array, running: Uint32Array, preemptions: Uint32Array }),
    chunks: arraysOf(chunks, { row: Uint32Array, step: Uint32Array, seconds: Float64Array }),
  }));
  return { names: message.names, schemes, end: Math.max(...schemes.map(({ end }) => end)), opening: message.opening_step };
}

// The place of the first value that is at least `value` in an ascending array.
export function firstAtLeast(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// A step's end belongs to the step.
export function placeAt(scheme, time) {
  return Math.min(firstAtLeast(scheme.steps.end, time), scheme.steps.end.length - 1);
}

export function timeOf(scheme, step) {
  const place = Math.min(firstAtLeast(scheme.steps.number, step), scheme.steps.end.length - 1);
  return scheme.steps.end[place];
}

// Requests in each phase and idle slots in the step that ends at `time`, as Scheme.at gives them.
export function phasesAt(scheme, time) {
  const { phase, start, end } = scheme.spans, counts = new Array(6).fill(0);
  for (let i = 0; i < phase.length; i++) if (start[i] < time && time <= end[i]) counts[phase[i]] += 1;
  counts[IDLE] = scheme.slots - counts[PREFILL] - counts[DECODE] - counts[STALLED];
  return counts;
}

// The neighbours whose tokens the prefill of `row` delayed: [row, seconds], most first, and the chunks' times.
export function delaysOf(scheme, row) {
  const { spans, chunks, requests, steps } = scheme, late = new Map(), times = [];
  for (let c = 0; c < chunks.row.length; c++) {
    if (chunks.row[c] !== row) continue;
    const start = steps.start[chunks.step[c]], end = steps.end[chunks.step[c]], middle = (start + end) / 2, found = new Set();
    for (let i = 0; i < spans.row.length; i++) {
      if (spans.lane[i] < 0 || !(spans.start[i] < middle && middle < spans.end[i]) || spans.row[i] === row) continue;
      if (requests.first[spans.row[i]] <= start + 1e-9) found.add(spans.row[i]);
    }
    for (const other of found) late.set(other, (late.get(other) ?? 0) + chunks.seconds[c]);
    times.push({ start, end, found });
  }
  const neighbours = [...late].filter(([, seconds]) => seconds > 0).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  return { neighbours, times };
}

// The next step of a scheme after `step` (direction 1), or before it (-1), in which some request stalls or is preempted anew.
export function nextTrouble(scheme, step, direction) {
  if (!scheme.troubles) {
    const places = new Set();
    for (let i = 0; i < scheme.spans.row.length; i++) {
      if (scheme.spans.phase[i] === STALLED) places.add(placeAt(scheme, (scheme.spans.start[i] + scheme.spans.end[i]) / 2));
    }
    for (let i = 0; i < scheme.steps.preemptions.length; i++) if (scheme.steps.preemptions[i]) places.add(i);
    scheme.troubles = [...places].map((place) => scheme.steps.number[place]).sort((a, b) => a - b);
  }
  const found = direction > 0 ? scheme.troubles.find((at) => at > step) : scheme.troubles.findLast((at) => at < step);
  return found ?? step;
}
