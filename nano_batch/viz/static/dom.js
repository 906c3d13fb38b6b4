// The elements of a view: made once, then only their text and values change.

export function element(tag, attributes = {}, children = []) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else node.setAttribute(name, value);
  }
  // JupyterLab looks for a shortcut from the focused element upwards and stops at this mark: without it on each
  // of them, D D on a button would delete the cell and an arrow on the slider would leave it.
  if (["button", "input", "select", "summary"].includes(tag)) node.setAttribute("data-lm-suppress-shortcuts", "true");
  node.append(...children);
  return node;
}

// Drawn, not typed: fonts differ in which of these glyphs they have.
const ICONS = {
  first: "M3 3h2v10H3zM13 3v10L6 8z",
  back: "M11 3v10L4 8z",
  play: "M4 2.5v11L13 8z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  forward: "M5 3v10l7-5z",
  last: "M11 3h2v10h-2zM3 3v10l7-5z",
};

export function setIcon(node, icon, label) {
  node.innerHTML = `<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path d="${ICONS[icon]}" fill="currentColor"/></svg>`;
  node.setAttribute("aria-label", label);
  node.title = label;
}

export function iconButton(icon, label, onClick) {
  const node = element("button", { type: "button" });
  setIcon(node, icon, label);
  node.addEventListener("click", onClick);
  return node;
}

export function button(text, title, onClick) {
  const node = element("button", { type: "button", title, text });
  node.addEventListener("click", onClick);
  return node;
}

export function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

// One decimal, halves upwards, in whole numbers: the kernel's table rounds the same way.
export function percent(part, whole) {
  const tenths = Math.floor((2000 * part + whole) / (2 * whole));
  return `${Math.floor(tenths / 10)}.${tenths % 10}`;
}

export function legend(states) {
  const numbers = {};
  const items = states.map(({ key, label, note }) => {
    numbers[key] = element("b", { text: "0" });
    const swatch = element("span", { class: "nb-swatch", "data-state": key });
    return element("li", { title: note, "data-state": key }, [swatch, element("span", { text: label }), numbers[key]]);
  });
  return { node: element("ul", { class: "nb-legend", "aria-label": "States and how many blocks are in each" }, items), numbers };
}

export function table(columns) {
  const body = element("tbody");
  const head = element("tr", {}, columns.map((text) => element("th", { scope: "col", text })));
  const node = element("table", {}, [element("thead", {}, [head]), body]);
  const fill = (rows) => {
    body.replaceChildren(
      ...rows.map((row) => element("tr", {}, row.map((text, i) => element(i ? "td" : "th", i ? { text } : { text, scope: "row" })))),
    );
  };
  return { node, fill };
}
