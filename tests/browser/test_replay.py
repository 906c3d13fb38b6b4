"""The browser's replay against Python's: every block of every step, forwards, backwards and at random."""

import base64

import numpy as np
import pytest
from eventful import eventful_run

from nano_batch.records import walk
from nano_batch.viz.bundle import bundle
from nano_batch.viz.frame import frame_of
from nano_batch.viz.usage import blocks_held
from nano_batch.viz.wire import pack

SCRIPT = (
    bundle("timeline.js")
    + """
const decode = (value) => {
  if (Array.isArray(value)) return value.map(decode);
  if (value && typeof value === "object") {
    if ("base64" in value) {
      return new DataView(Uint8Array.from(atob(value.base64), (byte) => byte.charCodeAt(0)).buffer);
    }
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, decode(inner)]));
  }
  return value;
};
window.load = (message) => {
  window.run = readRun(decode(message));
  window.replay = new Replay(window.run);
  const line = timeline(window.run);
  return { used: Array.from(line.used), evictions: line.evictions.reduce((a, b) => a + b, 0) };
};
window.frames = (steps) => steps.map((step) => {
  const { state, fill } = window.replay.seek(step).picture();
  return [Array.from(state), Array.from(fill)];
});
"""
)
CASES = {
    "plain": {},
    "swap": {"preemption": "swap", "num_swap_blocks": 12},
    "window": {"sliding_window": 24},
    "no cache": {"enable_prefix_caching": False},
    "ring": {"event_log": 6000},
    "blocks of 1": {"num_blocks": 192, "block_size": 1},
}


def encoded(value):
    if isinstance(value, dict):
        return {name: encoded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [encoded(inner) for inner in value]
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    page.add_script_tag(content=SCRIPT, type="module")
    page.wait_for_function("() => Boolean(window.frames)")
    yield page
    page.close()


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_the_same_in_both_languages(page, case):
    log = eventful_run(CASES[case]).events()
    kinds = set(log.kind.tolist())
    assert {1, 4, 7, 12, 13} <= kinds  # forked, allocated, freed, preempted, finished
    assert (log.first_event > 0) == (case == "ring")
    assert {"swap": 11, "ring": 5, "plain": 6}.get(case, 4) in kinds  # swapped in, shared, copied
    assert len(log.keyframes) > 1
    line = page.evaluate("message => window.load(message)", encoded(pack(log, 0)))
    assert line["used"] == blocks_held(log).tolist()
    assert line["evictions"] == (log.kind == 9).sum()
    frames = {state.step: frame_of(log, state, state.step) for state in walk(log)}
    steps = list(frames)
    order = [*steps, *reversed(steps), *np.random.default_rng(0).permutation(steps).tolist()]
    for step, (state, fill) in zip(order, page.evaluate("steps => window.frames(steps)", order), strict=True):
        assert state == frames[step].state.tolist(), step
        assert fill == frames[step].fill.tolist(), step
