// The keys of the Gantt beside those of playback, and the list of all of them.
import { element } from "./dom.js";
import { nextTrouble } from "./gantt_data.js";

const GANTT_KEYS = [
  ["Space", "play, pause"],
  ["← →", "one step of the leading scheme back, forward"],
  ["Shift + ← →", "ten steps"],
  ["Home, End", "first, last step"],
  ["[ ]", "previous, next stall or preemption of the leading scheme"],
  ["j k", "select the next, previous request"],
  ["s", "let the next scheme lead the clock"],
  ["+ - 0", "zoom in, zoom out, show all"],
  ["Esc", "select nothing; close this list"],
  ["?", "this list"],
];

export function ganttKeyList() {
  const rows = GANTT_KEYS.flatMap(([keys, what]) => [element("dt", { text: keys }), element("dd", { text: what })]);
  return element("dl", { class: "nb-help", hidden: "", "aria-label": "Keys" }, rows);
}

export function ganttKeys(view) {
  const { player, selection, help, data } = view;
  const beside = (direction) => {
    const at = data.names.indexOf(selection.requests[0]), count = data.names.length;
    const next = at < 0 ? (direction > 0 ? 0 : count - 1) : (at + direction + count) % count;
    selection.set([data.names[next]]);
  };
  return {
    "[": () => player.seek(nextTrouble(view.lead, player.step, -1)),
    "]": () => player.seek(nextTrouble(view.lead, player.step, 1)),
    j: () => beside(1),
    k: () => beside(-1),
    s: () => view.leadNext(),
    "+": () => view.zoom(0.5),
    "=": () => view.zoom(0.5),
    "-": () => view.zoom(2),
    0: () => view.showAll(),
    Escape: () => {
      help.hidden = true;
      if (!selection.empty) selection.set([]);
    },
    "?": () => (help.hidden = !help.hidden),
  };
}
