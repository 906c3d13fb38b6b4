// The keys of the block table beside those of playback, and the list of all of them.
import { element } from "./dom.js";
import { nextIncident } from "./timeline.js";

export const KEYS = [
  ["Space", "play, pause"],
  ["← →", "one step back, forward"],
  ["Shift + ← →", "ten steps"],
  ["Home, End", "first, last step"],
  ["[ ]", "previous, next eviction or preemption"],
  ["j k", "select the next, previous request"],
  ["Esc", "select nothing; close this list"],
  ["Ctrl + S", "saves the notebook, here too"],
  ["?", "this list"],
];

// Keys of the view stay in it, else D D would delete the cell; that of saving is the host's, wherever the focus is.
export function passOn(event, root) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.key.toLowerCase() !== "s") return false;
  const { key, code, keyCode, ctrlKey, metaKey, shiftKey } = event;
  const again = new KeyboardEvent("keydown", { key, code, keyCode, ctrlKey, metaKey, shiftKey, bubbles: true, cancelable: true });
  if (!root.parentElement.dispatchEvent(again)) event.preventDefault();
  return true;
}

export function keyList() {
  const rows = KEYS.flatMap(([keys, what]) => [element("dt", { text: keys }), element("dd", { text: what })]);
  return element("dl", { class: "nb-help", hidden: "", "aria-label": "Keys" }, rows);
}

export function tableKeys(view) {
  const { player, selection, help } = view;
  return {
    "[": () => player.seek(nextIncident(view.run, view.line, player.step, -1)),
    "]": () => player.seek(nextIncident(view.run, view.line, player.step, 1)),
    j: () => selection.set(neighbour(view.replay, selection, 1)),
    k: () => selection.set(neighbour(view.replay, selection, -1)),
    Escape: () => {
      help.hidden = true;
      if (!selection.empty) selection.set([]);
    },
    "?": () => (help.hidden = !help.hidden),
  };
}

// The request after (before) the one selected, in order of arrival, among those there at this step; from the end to the start.
function neighbour(replay, selection, direction) {
  const names = [...replay.sequences.keys()].sort((a, b) => a - b).map((number) => replay.name(number));
  if (!names.length) return selection.requests;
  const at = names.indexOf(selection.requests[0]);
  if (at < 0) return [names[direction > 0 ? 0 : names.length - 1]];
  return [names[(at + direction + names.length) % names.length]];
}
