// A run as it comes from the kernel: the event log's columns and keyframes (docs/records.md), as typed arrays.

export const ARRIVED = 0, FORKED = 1, ADMITTED = 2, SCHEDULED = 3, ALLOCATED = 4, SHARED_WITH = 5, COPIED = 6;
export const FREED = 7, MARKED = 8, EVICTED = 9, SWAPPED_OUT = 10, SWAPPED_IN = 11, PREEMPTED = 12, FINISHED = 13;

function typed(view, Type) {
  // A DataView may start at any byte: typed arrays need alignment, so the bytes are copied once.
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function keyframe(message) {
  return {
    step: message.step,
    event: message.event,
    references: typed(message.block_references, Int32Array),
    marked: typed(message.block_cached, Uint8Array),
    sequence: typed(message.sequence, Uint32Array),
    state: typed(message.state, Uint8Array),
    stored: typed(message.stored, Int32Array),
    lane: typed(message.lane, Int32Array),
    offsets: typed(message.table_offsets, Int32Array),
    tables: typed(message.tables, Int32Array),
  };
}

export function readRun(message) {
  const events = message.events;
  const words = typed(events.argument, Int32Array); // int64, little-endian: low word at 2i, high word at 2i + 1
  const step = typed(events.step, Uint32Array);
  return {
    numBlocks: message.num_blocks,
    blockSize: message.block_size,
    firstStep: message.first_step,
    lastStep: message.last_step,
    openingStep: message.opening_step,
    firstEvent: message.first_event,
    requestIds: message.request_ids,
    length: step.length,
    step,
    kind: typed(events.kind, Uint8Array),
    sequence: typed(events.sequence, Uint32Array),
    block: typed(events.block, Int32Array),
    argument: (i) => words[2 * i],
    hash: (i) => (BigInt.asUintN(32, BigInt(words[2 * i + 1])) << 32n) | BigInt.asUintN(32, BigInt(words[2 * i])),
    keyframes: message.keyframes.map(keyframe),
  };
}

// The index of the first event whose step is at least `step`.
export function firstEventOf(run, step) {
  let low = 0, high = run.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (run.step[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}
