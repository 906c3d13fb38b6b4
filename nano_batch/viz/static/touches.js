// When a block or a sequence was last touched: the events of each, in order, for a binary search at any step.
import { ALLOCATED, COPIED, SCHEDULED, SWAPPED_IN } from "./run.js";

function grouped_by(run, keyOf, size) {
  const start = new Int32Array(size + 1);
  for (let i = 0; i < run.length; i++) for (const key of keyOf(i)) start[key + 1] += 1;
  for (let key = 0; key < size; key++) start[key + 1] += start[key];
  const next = start.slice(0, size), events = new Int32Array(start[size]);
  for (let i = 0; i < run.length; i++) for (const key of keyOf(i)) events[next[key]++] = i;
  return { start, events };
}

// The last event of `key` before event `end`, or -1.
function lastBefore({ start, events }, key, end) {
  let low = start[key], high = start[key + 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (events[middle] < end) low = middle + 1;
    else high = middle;
  }
  return low > start[key] ? events[low - 1] : -1;
}

export class Touches {
  constructor(run) {
    this.run = run;
    const none = [], blocksOf = (i) => {
      const kind = run.kind[i];
      if (kind === COPIED) return [run.block[i], run.argument(i)];
      return kind >= ALLOCATED && kind <= SWAPPED_IN && run.block[i] >= 0 ? [run.block[i]] : none;
    };
    this.blocks = grouped_by(run, blocksOf, run.numBlocks);
    let most = 0;
    for (let i = 0; i < run.length; i++) if (run.kind[i] === SCHEDULED) most = Math.max(most, run.sequence[i] + 1);
    this.ran = grouped_by(run, (i) => (run.kind[i] === SCHEDULED ? [run.sequence[i]] : none), most);
    this.most = most;
  }

  // The step in which each block was last used before event `end`: touched itself, or held by a sequence that ran. -1: never.
  lastUse(replay, end) {
    const last = new Int32Array(this.run.numBlocks).fill(-1);
    for (let b = 0; b < last.length; b++) {
      const event = lastBefore(this.blocks, b, end);
      if (event >= 0) last[b] = this.run.step[event];
    }
    for (const [id, sequence] of replay.sequences) {
      const event = id < this.most ? lastBefore(this.ran, id, end) : -1;
      if (event < 0) continue;
      const step = this.run.step[event];
      for (const block of sequence.table) if (block >= 0 && step > last[block]) last[block] = step;
    }
    return last;
  }

  // The event of `kind` that last touched a block before event `end`, or -1.
  lastOf(kind, block, end) {
    const { start, events } = this.blocks;
    for (let i = start[block + 1] - 1; i >= start[block]; i--) {
      if (events[i] < end && this.run.kind[events[i]] === kind) return events[i];
    }
    return -1;
  }
}
