// The running and the waiting queue: a chip a request, which selects it.
import { element, grouped } from "./dom.js";

const MOST_CHIPS = 48;
const ORDERS = [
  ["running", "lane", "In the order of their lanes: the places in a step's batch."],
  ["waiting", "arrival", "In the order of arrival. Who is admitted next is the policy's choice, which the event log does not say beforehand."],
];

export class Queues {
  constructor(onClick) {
    this.rows = ORDERS.map(([key, order, why]) => {
      const name = element("span", { text: key, title: why }, [element("span", { class: "nb-note", text: ` by ${order}` })]);
      const count = element("b"), list = element("span", { class: "nb-chips" });
      const node = element("div", { class: "nb-queue", "data-queue": key }, [name, count, list]);
      return { key, count, list, node, chips: [] };
    });
    this.node = element("div", { class: "nb-queues" }, this.rows.map(({ node }) => node));
    this.node.addEventListener("click", (event) => {
      const chip = event.target.closest("button");
      if (chip) onClick(chip.dataset.request, event.shiftKey || event.ctrlKey || event.metaKey);
    });
  }

  show(replay, selection, owners) {
    const queues = replay.queues();
    for (const row of this.rows) {
      const entries = queues[row.key], shown = entries.slice(0, MOST_CHIPS);
      text(row.count, grouped(entries.length));
      while (row.chips.length < shown.length) row.chips.push(element("button", { type: "button", class: "nb-chip" }));
      shown.forEach(([number, sequence], i) => this.chip(row.chips[i], replay.name(number), sequence, selection, owners));
      const more = entries.length > MOST_CHIPS ? [element("span", { class: "nb-note", text: `and ${grouped(entries.length - MOST_CHIPS)} more` })] : [];
      if (row.drawn !== shown.length || more.length || row.more) row.list.replaceChildren(...row.chips.slice(0, shown.length), ...more);
      row.drawn = shown.length;
      row.more = more.length > 0;
    }
  }

  chip(chip, name, sequence, selection, owners) {
    const place = selection.requests.indexOf(name);
    const letter = place >= 0 ? `${owners[place].letter} ` : "";
    text(chip, `${letter}${name} · ${grouped(sequence.stored)} tokens · ${grouped(sequence.held)} blocks`);
    const light = place >= 0 ? "lit" : selection.empty ? "" : "pale";
    if (chip.dataset.request !== name) chip.dataset.request = name;
    if (chip.dataset.light !== light) chip.dataset.light = light;
    chip.setAttribute("aria-pressed", String(place >= 0));
    if (place >= 0) chip.style.setProperty("--nb-hue", owners[place].colour);
    else chip.style.removeProperty("--nb-hue");
  }
}

function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}
