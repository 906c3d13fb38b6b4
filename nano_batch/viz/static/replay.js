// The replayed state of a run at a step: the effects of docs/records.md, event by event, from the nearest keyframe.
import { ADMITTED, ALLOCATED, ARRIVED, COPIED, EVICTED, FINISHED, FORKED, FREED, MARKED, PREEMPTED, SCHEDULED, SHARED_WITH, firstEventOf } from "./run.js";

export const FREE = 0, IN_USE = 1, SHARED = 2, CACHED = 3, COMPUTED = 4;
export const WAITING = 0, RUNNING = 1, ENDING = 2;

function newSequence(state, stored, lane, table) {
  return { state, stored, lane, table, held: table.filter((block) => block >= 0).length };
}

export class Replay {
  constructor(run) {
    this.run = run;
    this.restore(run.keyframes[0]);
  }

  restore(frame) {
    this.references = frame.references.slice();
    this.marked = frame.marked.slice();
    this.sequences = new Map();
    for (let i = 0; i < frame.sequence.length; i++) {
      const table = Array.from(frame.tables.subarray(frame.offsets[i], frame.offsets[i + 1]));
      this.sequences.set(frame.sequence[i], newSequence(frame.state[i], frame.stored[i], frame.lane[i], table));
    }
    this.next = frame.event - this.run.firstEvent;
    this.computed = []; // [sequence, first slot, slot after the last] of the step shown
  }

  // After seek(s) the state is that after every event whose step is <= s.
  seek(step) {
    const begin = firstEventOf(this.run, step);
    const end = firstEventOf(this.run, step + 1);
    let frame = this.run.keyframes[0];
    for (const candidate of this.run.keyframes) if (candidate.event - this.run.firstEvent <= begin) frame = candidate;
    const from = frame.event - this.run.firstEvent;
    if (this.next > begin || this.next < from) this.restore(frame);
    while (this.next < begin) this.apply(this.next++);
    this.computed = [];
    while (this.next < end) this.apply(this.next++);
    this.step = step;
    return this;
  }

  apply(i) {
    const run = this.run, id = run.sequence[i], block = run.block[i], argument = run.argument(i);
    const sequence = this.sequences.get(id);
    switch (run.kind[i]) {
      case ARRIVED:
      case FORKED:
        this.sequences.set(id, newSequence(WAITING, 0, -1, []));
        break;
      case ADMITTED:
        sequence.table = new Array(Math.ceil(argument / run.blockSize)).fill(-1);
        Object.assign(sequence, { state: RUNNING, stored: argument, lane: block });
        break;
      case SCHEDULED:
        this.computed.push([id, sequence.stored, sequence.stored + argument]);
        sequence.stored += argument;
        break;
      case ALLOCATED:
        this.own(sequence, argument, block);
        this.references[block] = 1;
        break;
      case SHARED_WITH:
        this.own(sequence, argument, block);
        this.references[block] += 1;
        break;
      case COPIED:
        sequence.table[sequence.table.indexOf(argument)] = block;
        this.references[argument] -= 1;
        this.references[block] = 1;
        break;
      case FREED:
        this.references[block] -= 1;
        this.disown(id, sequence, argument);
        break;
      case MARKED:
        this.marked[block] = 1;
        break;
      case EVICTED:
        this.marked[block] = 0;
        break;
      case PREEMPTED:
        Object.assign(sequence, { state: WAITING, stored: 0, lane: -1, table: [], held: 0 });
        this.computed = this.computed.filter((range) => range[0] !== id);
        break;
      case FINISHED:
        sequence.state = ENDING;
        this.computed = this.computed.filter((range) => range[0] !== id);
        if (sequence.held === 0) this.sequences.delete(id);
        break;
      // Swaps move bytes between pools: the events around them carry the change of state.
    }
  }

  own(sequence, index, block) {
    sequence.table[index] = block; // at most one past the end: the table grows by one
    sequence.held += 1;
  }

  disown(id, sequence, index) {
    if (!sequence || index >= sequence.table.length) return; // the table was dropped by a preemption
    sequence.table[index] = -1;
    sequence.held -= 1;
    if (sequence.state === ENDING && sequence.held === 0) this.sequences.delete(id);
  }

  // What is drawn: a state and the written token slots of every physical block.
  picture() {
    const { numBlocks, blockSize } = this.run;
    const state = new Uint8Array(numBlocks), fill = new Int32Array(numBlocks);
    for (let b = 0; b < numBlocks; b++) {
      const references = this.references[b];
      state[b] = references > 1 ? SHARED : references === 1 ? IN_USE : this.marked[b] ? CACHED : FREE;
      if (state[b] === CACHED) fill[b] = blockSize;
    }
    for (const sequence of this.sequences.values()) {
      for (let i = 0; i < sequence.table.length; i++) {
        const block = sequence.table[i];
        if (block < 0) continue;
        fill[block] = Math.max(fill[block], Math.min(blockSize, Math.max(0, sequence.stored - i * blockSize)));
      }
    }
    for (const [id, from, to] of this.computed) {
      const table = this.sequences.get(id)?.table ?? [];
      for (let i = Math.floor(from / blockSize); i * blockSize < to; i++) {
        if (i < table.length && table[i] >= 0) state[table[i]] = COMPUTED;
      }
    }
    return { state, fill };
  }

  name(number) {
    return this.run.requestIds[number] ?? String(number);
  }

  // The sequences that hold a block: [id, logical index].
  owners(block) {
    const found = [];
    for (const [number, sequence] of this.sequences) {
      const index = sequence.table.indexOf(block);
      if (index >= 0) found.push([this.name(number), index]);
    }
    return found;
  }

  // Who runs, by lane, and who waits, in order of arrival: [number, sequence].
  queues() {
    const of = (state) => [...this.sequences].filter(([, sequence]) => sequence.state === state);
    const running = of(RUNNING).sort((a, b) => a[1].lane - b[1].lane);
    return { running, waiting: of(WAITING).sort((a, b) => a[0] - b[0]) };
  }
}

export function counts(picture) {
  const blocks = new Array(5).fill(0), tokens = new Array(5).fill(0);
  for (let b = 0; b < picture.state.length; b++) {
    blocks[picture.state[b]] += 1;
    tokens[picture.state[b]] += picture.fill[b];
  }
  return { blocks, tokens };
}
