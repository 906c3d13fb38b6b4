// Which colour each block has: by state, by owner, by age or by reference count; and the legend that says so.
import { CACHED, FREE } from "./replay.js";
import { element } from "./dom.js";

const MODES = [
  ["state", "state"],
  ["owner", "owner"],
  ["age", "last use"],
  ["references", "references"],
];

export function colourMenu(model, onChange) {
  const options = MODES.map(([value, text]) => element("option", { value, text: `colour: ${text}` }));
  const menu = element("select", { "aria-label": "Colour" }, options);
  menu.addEventListener("change", () => {
    model.set("colour", menu.value);
    model.save_changes();
    onChange();
  });
  model.on("change:colour", () => {
    menu.value = model.get("colour");
    onChange();
  });
  menu.value = model.get("colour");
  return menu;
}

// { colours, labels, index: the place of each block's colour, lines: 1 where the owner changes, or null }.
export function paint(mode, { replay, picture, palette, states, theme, selection, lastUse }) {
  if (mode === "owner") return byOwner(replay, picture, palette, states, theme, selection);
  const count = picture.state.length, index = new Uint8Array(count);
  if (mode === "state") return { colours: states.colours, labels: states.labels, index: picture.state, lines: null };
  const ramp = palette.ramps[mode], free = states.colours[FREE], cached = states.colours[CACHED];
  for (let b = 0; b < count; b++) {
    const value = mode === "age" ? replay.step - lastUse[b] : replay.references[b];
    if (picture.state[b] === FREE) continue;
    if (mode === "references" && value === 0) index[b] = 1;
    else index[b] = 2 + ramp.from.findLastIndex((from) => value >= from);
  }
  return { colours: [free, cached, ...ramp[theme]], labels: ["free", mode === "age" ? null : "cached", ...ramp.labels], index, lines: null };
}

function byOwner(replay, picture, palette, states, theme, selection) {
  const { numBlocks } = replay.run, index = new Uint8Array(numBlocks), lines = new Uint8Array(numBlocks);
  const owner = new Int32Array(numBlocks).fill(-1);
  for (const [number, { table }] of replay.sequences) for (const block of table) if (block >= 0 && owner[block] < 0) owner[block] = number;
  let grey = 0, before = -1;
  for (let b = 0; b < numBlocks; b++) {
    if (owner[b] >= 0 && owner[b] !== before) {
      grey = 1 - grey;
      lines[b] = b > 0 ? 1 : 0;
    }
    if (owner[b] >= 0) index[b] = 2 + grey;
    else index[b] = picture.state[b] === CACHED ? 1 : 0;
    before = owner[b];
  }
  for (const [place, , { table }] of selection.present(replay).reverse()) {
    for (const block of table) if (block >= 0) index[block] = 4 + place;
  }
  const names = selection.requests.map((name, place) => `${palette.owners[place].letter} ${name}`);
  const colours = [states.colours[FREE], states.colours[CACHED], ...palette.others[theme], ...palette.owners.map((each) => each[theme])];
  return { colours, labels: ["free", "cached", "held by others", "and the next of them", ...names], index, lines };
}

export function tally(index, size) {
  const counts = new Array(size).fill(0);
  for (let b = 0; b < index.length; b++) counts[index[b]] += 1;
  return counts;
}
