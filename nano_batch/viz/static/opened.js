// The run behind a mark, in a block table below the chart: a view in a view, with a model of its own.
import { BlockTable } from "./blocks.js";
import { button, element } from "./dom.js";

// What a block table takes for its model: the values that came with it; what the page changes goes to the kernel.
class InnerModel {
  constructor(values, tell) {
    this.values = values;
    this.tell = tell;
    this.listeners = {};
    this.unsaved = {};
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    this.take({ [name]: value });
    this.unsaved[name] = value;
  }

  on(event, call) {
    (this.listeners[event] ??= new Set()).add(call);
  }

  off(event, call) {
    this.listeners[event]?.delete(call);
  }

  take(values) {
    const changed = Object.keys(values).filter((name) => values[name] !== this.values[name]);
    Object.assign(this.values, values);
    for (const name of changed) for (const call of this.listeners[`change:${name}`] ?? []) call();
  }

  save_changes() {
    const changes = this.unsaved;
    this.unsaved = {};
    this.tell(changes);
  }
}

export class Opened {
  constructor(model, controls) {
    this.model = model;
    this.controls = controls;
    this.node = element("div", { class: "nb-opened" });
    model.on("change:_opened", () => this.show());
    model.on("msg:custom", (message) => message.opened && this.inner?.take(message.opened));
    this.show();
  }

  ask(mark) {
    if (this.model.send) this.controls.send({ open: mark });
    else this.controls.host.failed("this page has no kernel to run the schedule behind a mark; run the notebook");
  }

  show() {
    this.close();
    const values = this.model.get("_opened");
    if (!values?._run) return;
    this.inner = new InnerModel({ ...values }, (changes) => this.model.send?.({ opened: changes }));
    const root = element("div"), shut = button("Close", "Close this run", () => this.leave());
    this.node.replaceChildren(element("div", { class: "nb-bar" }, [element("b", { text: values.about ?? "The run behind the mark" }), shut]), root);
    this.view = new BlockTable(this.inner, root);
  }

  leave() {
    if (this.view) this.model.send({ opened: null });
  }

  close() {
    this.view?.destroy();
    this.view = this.inner = null;
    this.node.replaceChildren();
  }
}
