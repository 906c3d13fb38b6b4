// A step in numbers: the legend's counts, the table under the picture, the events, what a screen reader hears.
import { element, grouped, legend, percent, table } from "./dom.js";
import { TRACES, traceIcon } from "./traces.js";
import { counts } from "./replay.js";
import { tally } from "./paint.js";

const COLUMNS = ["state", "blocks", "% of blocks", "tokens stored"];

export class Words {
  // `index`: a state's key to its number.
  constructor(states, index) {
    this.states = states;
    this.index = index;
    this.difference = element("div", { class: "nb-difference nb-note" });
    this.legend = legend(states);
    this.colours = element("ul", { class: "nb-legend-mode", "aria-label": "Colours and how many blocks have each" });
    this.numbers = table(COLUMNS);
    this.now = element("div", { class: "nb-now" });
    this.live = element("div", { class: "nb-hidden", "aria-live": "polite" });
  }

  // What is drawn, in numbers.
  count({ run, picture }, step) {
    const { blocks, tokens } = counts(picture), total = run.numBlocks;
    this.blocks = blocks;
    const rows = this.states.map(({ key, label }) => {
      const i = this.index[key];
      return [label, grouped(blocks[i]), percent(blocks[i], total), grouped(tokens[i])];
    });
    this.shown = [...rows, ["total", grouped(total), "100.0", grouped(tokens.reduce((a, b) => a + b))]];
    this.text = `step ${step}: ` + rows.map(([label, count]) => `${label} ${count}`).join(", ");
  }

  // The page's words for what was counted.
  say(mode, { run, paint, grid }, line, step, difference) {
    for (const { key } of this.states) this.legend.numbers[key].textContent = grouped(this.blocks[this.index[key]]);
    this.numbers.fill(this.shown);
    this.difference.textContent = difference;
    this.legend.node.hidden = mode !== "state";
    this.colours.hidden = mode === "state";
    if (mode !== "state") this.sayColours(paint);
    const happened = TRACES.map(({ label }, rank) => {
      return `<span>${traceIcon(rank)} ${label} ${grouped(line.events[rank][step - run.firstStep])}</span>`;
    });
    const per = grid.per > 1 ? `<span>one mark stands for ${grid.per} blocks, in the colour of most</span>` : "";
    this.now.innerHTML = `<span>in this step:</span>${happened.join("")}${per}`;
    this.speaking ??= setTimeout(() => {
      this.speaking = null;
      this.live.textContent = this.text;
    }, 1000);
  }

  sayColours({ colours, labels, index }) {
    const found = tally(index, colours.length);
    const items = labels.map((label, i) => {
      if (!label) return null;
      const swatch = element("span", { class: "nb-swatch", style: `background: ${colours[i]}` });
      return element("li", {}, [swatch, element("span", { text: label }), element("b", { text: grouped(found[i]) })]);
    });
    this.colours.replaceChildren(...items.filter(Boolean));
  }

  csv() {
    const plain = this.shown.map((row) => row.map((cell, i) => (i ? cell.replaceAll(",", "") : cell)));
    return [COLUMNS, ...plain].map((row) => row.join()).join("\n") + "\n";
  }

  silence() {
    clearTimeout(this.speaking);
  }
}
