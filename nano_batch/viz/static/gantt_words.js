// The Gantt in numbers: the legend's counts, the tables under the picture, delays, what a screen reader hears.
import { element, grouped, table } from "./dom.js";
import { IDLE, LOST, WAITING, phasesAt } from "./gantt_data.js";

const SHOWN_NEIGHBOURS = 6;

export class GanttWords {
  constructor(looks) {
    this.looks = looks;
    this.difference = element("div", { class: "nb-difference nb-note" });
    this.counts = {};
    const items = looks.map(({ key, label, note, number }) => {
      this.counts[number] = element("b", { text: "0" });
      return element("li", { title: note, "data-phase": key }, [element("span", { class: "nb-swatch" }), element("span", { text: label }), this.counts[number]]);
    });
    this.legend = element("ul", { class: "nb-legend", "aria-label": "Phases and how many requests of the leading scheme are in each" }, items);
    this.delays = element("div", { class: "nb-delays nb-note" });
    this.moment = table(["scheme", ...looks.map(({ label, number }) => (number === IDLE ? "idle slots" : label))]);
    this.whole = { node: element("div") };
    this.live = element("div", { class: "nb-hidden", "aria-live": "polite" });
  }

  say({ data, lead, time, step, difference, table: whole, selected, delays }) {
    this.difference.textContent = difference;
    this.rows = data.schemes.map((scheme) => {
      const counts = phasesAt(scheme, time);
      if (scheme === lead) for (const { number } of this.looks) this.counts[number].textContent = grouped(counts[number]);
      return [scheme.label, ...this.looks.map(({ number }) => grouped(counts[number]))];
    });
    this.moment.fill(this.rows);
    if (whole !== this.shown) {
      this.shown = whole;
      const drawn = table(whole.columns);
      drawn.fill(whole.rows);
      this.whole.node.replaceChildren(drawn.node);
    }
    this.sayDelays(data, selected, delays);
    const counts = phasesAt(lead, time);
    this.text = `${lead.label}, step ${step}: ` + this.looks.map(({ label, number }) => `${label} ${counts[number]}`).join(", ");
    this.speaking ??= setTimeout(() => {
      this.speaking = null;
      this.live.textContent = this.text;
    }, 1000);
  }

  // Whom the prefill of the first selected request delayed, in each scheme.
  sayDelays(data, selected, delays) {
    if (!selected.length) return this.delays.replaceChildren();
    const lines = data.schemes.map((scheme, place) => {
      const { neighbours } = delays[place], shown = neighbours.slice(0, SHOWN_NEIGHBOURS);
      const each = shown.map(([row, seconds]) => `${data.names[row]} +${(1e3 * seconds).toFixed(1)} ms`).join(", ");
      const more = neighbours.length > shown.length ? `, and ${neighbours.length - shown.length} more` : "";
      return element("li", { text: `${scheme.label}: ${neighbours.length ? each + more : "nobody"}` });
    });
    const head = element("span", { text: `The prefill of ${data.names[selected[0]]} made these wait longer for their next tokens, marked at the foot of their bars: ` });
    this.delays.replaceChildren(head, element("span", { class: "nb-delay" }), element("ul", {}, lines));
  }

  describe(data, { panel, request, span }) {
    const { spans, requests } = panel.scheme, look = this.looks.find(({ number }) => number === spans.phase[span]);
    const lines = [`${data.names[request]}, ${panel.scheme.label}`];
    lines.push(`${look.label} from ${clock(spans.start[span])} to ${clock(spans.end[span])} (${ms(spans.end[span] - spans.start[span])})`);
    if (spans.phase[span] !== WAITING && spans.phase[span] !== LOST) lines.push(`batch slot ${spans.lane[span]}`);
    lines.push(`arrived ${clock(requests.arrival[request])}, first token after ${ms(requests.first[request] - requests.arrival[request])}`);
    if (!Number.isNaN(requests.finish[request])) lines.push(`ended ${clock(requests.finish[request])}`);
    return lines.join("\n");
  }

  csv() {
    const plain = this.shown.rows.map((row) => row.map((cell, i) => (i ? cell.replaceAll(",", "") : cell)));
    return [this.shown.columns, ...plain].map((row) => row.join()).join("\n") + "\n";
  }

  silence() {
    clearTimeout(this.speaking);
  }
}

function clock(seconds) {
  return `${seconds.toFixed(3)} s`;
}

function ms(seconds) {
  return Number.isNaN(seconds) ? "–" : `${(1e3 * seconds).toFixed(1)} ms`;
}
