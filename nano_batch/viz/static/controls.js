// The settings of a rerun: at most four show, the rest lie under "More". Only the newest request is computed.
import { button, element } from "./dom.js";

const SHOWN = 4;

const words = (value) => (typeof value === "boolean" ? (value ? "on" : "off") : String(value));

function labelled(control, parts) {
  return element("div", { class: "nb-control", "data-control": control.name }, [
    ...parts,
    element("span", { class: "nb-note", text: control.note }),
  ]);
}

// Numbers: a slider that moves by one value, a mark at the default, a field for any other value.
function slider(control, id, onChange, onError) {
  const { values, unit } = control;
  const input = element("input", { type: "range", id, min: 0, max: values.length - 1, step: 1 });
  const typed = element("input", { type: "text", inputmode: "decimal", class: "nb-typed", "aria-label": `Typed value, ${unit}` });
  const output = element("output", { for: id, class: "nb-hidden" });
  const home = values.indexOf(control.default) / Math.max(1, values.length - 1);
  const mark = element("span", { class: "nb-default", style: `--nb-home: ${home}`, title: `default: ${control.default}` });
  const show = (value) => {
    typed.value = value;
    output.textContent = `${value} ${unit}`;
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show(values[input.value]);
    onChange(values[input.value]);
  });
  typed.addEventListener("change", () => {
    const value = Number(typed.value), whole = Number.isInteger(control.default);
    if (typed.value.trim() && Number.isFinite(value) && (!whole || Number.isInteger(value))) onChange(value);
    else onError(`${control.name} is '${typed.value}'; it must be a ${whole ? "whole " : ""}number`);
  });
  const track = element("span", { class: "nb-track" }, [input, mark]);
  const node = labelled(control, [element("label", { for: id, text: control.label }), track, typed, element("span", { text: unit }), output]);
  const set = (value) => {
    const index = values.indexOf(value);
    if (index >= 0) input.value = index;
    show(value);
  };
  return { node, set };
}

// Words: a choice, the default marked.
function choice(control, id, onChange) {
  const options = control.values.map((value) =>
    element("option", { value: words(value), text: value === control.default ? `${words(value)} (default)` : words(value) }),
  );
  const select = element("select", { id }, options);
  select.addEventListener("change", () => onChange(control.values.find((value) => words(value) === select.value)));
  const node = labelled(control, [element("label", { for: id, text: control.label }), select]);
  return { node, set: (value) => (select.value = words(value)) };
}

export class Controls {
  // `host` shows what happens: busy(), ready(), failed(message).
  constructor(model, host) {
    this.model = model;
    this.host = host;
    this.node = element("div", { class: "nb-controls" });
    this.build();
    model.on("change:_controls", () => this.build());
    model.on("change:_answers", () => this.answered());
  }

  build() {
    for (const { name, listener } of this.items ?? []) this.model.off(`change:${name}`, listener);
    this.items = this.model.get("_controls").map((control) => {
      const id = `nb-${control.name}-${Math.random().toString(36).slice(2, 8)}`;
      const make = typeof control.default === "number" ? slider : choice;
      const change = (value) => this.ask({ [control.name]: value });
      const item = make(control, id, change, (message) => this.host.failed(message));
      return { name: control.name, home: control.default, ...item, listener: () => this.show() };
    });
    for (const { name, listener } of this.items) this.model.on(`change:${name}`, listener);
    const nodes = this.items.map(({ node }) => node), rest = nodes.slice(SHOWN);
    this.node.replaceChildren(...nodes.slice(0, SHOWN), ...(rest.length ? this.more(rest) : []));
    this.show();
  }

  more(nodes) {
    const drawer = element("div", { class: "nb-more", hidden: "" }, nodes);
    const opener = button(`More (${nodes.length})`, "Further settings", () => {
      drawer.hidden = !drawer.hidden;
      opener.setAttribute("aria-expanded", String(!drawer.hidden));
    });
    opener.setAttribute("aria-expanded", "false");
    return [opener, drawer];
  }

  show() {
    for (const { name, set } of this.items) set(this.wanted?.[name] ?? this.model.get(name));
  }

  // While one rerun is under way the newest wish waits; those between are never computed.
  ask(changes) {
    if (this.asking) {
      this.wanted = { ...this.wanted, ...changes };
      return;
    }
    this.asking = true;
    this.host.busy();
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    this.model.save_changes();
  }

  send(message) {
    this.asking = true;
    this.host.busy();
    this.model.send(message);
  }

  answered() {
    this.asking = false;
    const { wanted } = this;
    this.wanted = null;
    this.show();
    this.host.ready();
    if (wanted && this.items.some(({ name }) => name in wanted && wanted[name] !== this.model.get(name))) this.ask(wanted);
  }

  // Every control back to its default; false when all stand there.
  reset() {
    const moved = this.items.filter(({ name, home }) => this.model.get(name) !== home);
    if (moved.length) this.ask(Object.fromEntries(moved.map(({ name, home }) => [name, home])));
    return moved.length > 0;
  }
}

export function pinButton(model) {
  const node = button("Pin", "Keep this run: later settings are held against it", () => {
    model.set("pinned", !model.get("pinned"));
    model.save_changes();
  });
  node.classList.add("nb-pin");
  const show = () => node.setAttribute("aria-pressed", String(model.get("pinned")));
  model.on("change:pinned", show);
  show();
  return node;
}
