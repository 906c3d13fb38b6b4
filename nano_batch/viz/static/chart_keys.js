// The keys of a chart, and the list of them.
import { element } from "./dom.js";

const CHART_KEYS = [
  ["← →", "previous, next point of a series"],
  ["Shift + ← →", "ten points"],
  ["Home, End", "first, last point"],
  ["↑ ↓", "another series of the panel"],
  ["[ ]", "previous, next panel"],
  ["Enter", "open the run behind the point, below the chart"],
  ["Esc", "point at nothing; close what is open"],
  ["Ctrl + S", "saves the notebook, here too"],
  ["?", "this list"],
];

export function chartHelp() {
  const rows = CHART_KEYS.flatMap(([keys, what]) => [element("dt", { text: keys }), element("dd", { text: what })]);
  return element("dl", { class: "nb-help", hidden: "", "aria-label": "Keys" }, rows);
}

// True when the key was used.
export function chartKeys(view, event) {
  const stride = event.shiftKey ? 10 : 1;
  const actions = {
    ArrowRight: () => walk(view, 0, 0, stride),
    ArrowLeft: () => walk(view, 0, 0, -stride),
    Home: () => walk(view, 0, 0, -Infinity),
    End: () => walk(view, 0, 0, Infinity),
    ArrowUp: () => walk(view, 0, -1, 0),
    ArrowDown: () => walk(view, 0, 1, 0),
    "[": () => walk(view, -1, 0, 0),
    "]": () => walk(view, 1, 0, 0),
    Enter: () => view.point && view.open(view.point),
    Escape: () => {
      view.help.hidden = true;
      if (view.point) view.show(null);
      else view.opened.leave();
    },
    "?": () => (view.help.hidden = !view.help.hidden),
  };
  if (!(event.key in actions)) return false;
  actions[event.key]();
  return true;
}

const wrapped = (value, count) => (value + count) % count;

// Go on from the point shown, or begin at the first.
function walk(view, panels, series, points) {
  const started = view.point ?? null, [panel, place, index] = started ?? [0, 0, 0];
  const to = wrapped(panel + (started ? panels : 0), view.panels.length), shown = view.panels[to];
  if (!shown.series.length) return;
  const drawn = wrapped(Math.min(place, shown.series.length - 1) + (started ? series : 0), shown.series.length);
  const last = shown.series[drawn].x.length - 1, next = Math.max(0, Math.min(last, index + (started ? points : 0)));
  view.say(view.show([to, drawn, next]));
  if (shown.steps) view.setCursor(shown.series[drawn].x[next]);
}
