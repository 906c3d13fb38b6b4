// A run over its steps: blocks used and cached after each, and how many events of each kind happened in it.
import { ALLOCATED, COPIED, EVICTED, PREEMPTED } from "./run.js";
import { Replay } from "./replay.js";
import { TRACES, rankOf } from "./traces.js";

export function timeline(run) {
  const steps = run.lastStep - run.firstStep + 1;
  const used = new Int32Array(steps), cached = new Int32Array(steps);
  const events = TRACES.map(() => new Int32Array(steps)), preemptions = new Int32Array(steps);
  const replay = new Replay(run);
  let nowUsed = 0, nowCached = 0, at = run.firstStep;
  const count = (block, sign) => {
    if (replay.references[block] > 0) nowUsed += sign;
    else if (replay.marked[block]) nowCached += sign;
  };
  for (let b = 0; b < run.numBlocks; b++) count(b, 1);
  for (let i = replay.next; i < run.length; i++) {
    for (; at < run.step[i]; at++) (used[at - run.firstStep] = nowUsed), (cached[at - run.firstStep] = nowCached);
    const kind = run.kind[i], block = run.block[i], source = run.argument(i), rank = rankOf(kind);
    const touched = kind === COPIED ? [block, source] : kind >= ALLOCATED && kind <= EVICTED ? [block] : [];
    for (const b of touched) count(b, -1);
    replay.apply(i);
    for (const b of touched) count(b, 1);
    if (rank >= 0) events[rank][run.step[i] - run.firstStep] += 1;
    if (kind === PREEMPTED) preemptions[run.step[i] - run.firstStep] += 1;
    replay.computed.length = 0;
  }
  for (; at <= run.lastStep; at++) (used[at - run.firstStep] = nowUsed), (cached[at - run.firstStep] = nowCached);
  const evictions = events[TRACES.findIndex(({ kinds }) => kinds.includes(EVICTED))];
  return { used, cached, events, evictions, preemptions };
}

// The next step after `step` (direction 1) or before it (-1) with an eviction or a preemption; `step` where there is none.
export function nextIncident(run, line, step, direction) {
  for (let at = step + direction; at >= run.firstStep && at <= run.lastStep; at += direction) {
    if (line.evictions[at - run.firstStep] || line.preemptions[at - run.firstStep]) return at;
  }
  return step;
}
