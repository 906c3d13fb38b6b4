// The batching Gantt: batch slots or requests over time, one panel a scheme. The runs come from the kernel once and are drawn here.
import { Controls, pinButton } from "./controls.js";
import { copyButton, downloadMenu } from "./files.js";
import { barAt, ganttLayout } from "./gantt_layout.js";
import { delaysOf, placeAt, readSchemes, timeOf } from "./gantt_data.js";
import { ganttKeyList, ganttKeys } from "./gantt_keys.js";
import { GanttWords } from "./gantt_words.js";
import { Overview } from "./gantt_overview.js";
import { paintGantt } from "./gantt_paint.js";
import { button, element } from "./dom.js";
import { isDark, prepare, watchTheme } from "./theme.js";
import { Player } from "./player.js";
import { Selection } from "./selection.js";
import { Steered } from "./steered.js";

class Gantt extends Steered {
  constructor(model, root) {
    super();
    this.model = model;
    this.root = root;
    this.player = new Player(() => this.redraw());
    this.selection = new Selection(model, () => this.redraw());
    this.controls = new Controls(model, this);
    this.still = document.createElement("canvas");
    this.build();
    this.listen();
    this.load();
  }

  build() {
    const { root, model } = this, title = model.get("title");
    root.classList.add("nb-view", "nb-gantt");
    const marks = { tabindex: "0", role: "group", "aria-label": title, "data-lm-suppress-shortcuts": "true" };
    for (const [name, value] of Object.entries(marks)) root.setAttribute(name, value);
    this.settings = element("span", { class: "nb-settings" });
    this.words = new GanttWords(model.get("_phases"));
    this.error = element("div", { class: "nb-error", role: "alert", hidden: "" });
    this.bars = element("canvas", { class: "nb-picture nb-bars", role: "img" });
    this.overview = new Overview(element("canvas", { class: "nb-strip", role: "slider", "aria-label": "Step: batch slots held over the run" }));
    this.tip = element("div", { class: "nb-tip", hidden: "" });
    this.help = ganttKeyList();
    const source = element("span", { class: "nb-source", text: model.get("_source") });
    const reset = button("Reset", "Every control back to its default, the whole time shown", () => this.reset());
    const take = { picture: () => [this.bars, this.overview.canvas], numbers: () => this.words.csv(), name: () => `gantt_step_${this.player.step}`, paper: () => this.ink.paper };
    const zooms = element("span", { class: "nb-player", role: "group", "aria-label": "Zoom" }, [
      button("+", "Zoom in at the clock (+)", () => this.zoom(0.5)),
      button("−", "Zoom out (-)", () => this.zoom(2)),
      button("All", "Show the whole time (0)", () => this.showAll()),
    ]);
    root.replaceChildren(
      element("div", { class: "nb-head" }, [element("b", { text: title }), this.settings, source]),
      this.words.difference,
      this.error,
      element("div", { class: "nb-bar" }, [this.player.node, this.rowsMenu(), zooms, reset, pinButton(model), copyButton(model), downloadMenu(model, take)]),
      element("div", { class: "nb-bar" }, [this.controls.node]),
      this.words.legend,
      (this.stage = element("div", { class: "nb-stage" }, [this.bars, this.tip])),
      element("div", { class: "nb-axis", text: "Slots held by the leading scheme (▸), % of its slots: prefill, decode, stalled. Drag to any step; drag over the bars above to zoom." }),
      this.overview.canvas,
      this.words.delays,
      element("details", {}, [element("summary", { text: "The numbers drawn, as view.table() and view.now() give them" }), this.words.whole.node, this.words.moment.node]),
      element("div", { class: "nb-keys", text: "Space plays, arrows step, [ ] go to stalls and preemptions, j k select a request, s changes the leading scheme, ? lists all keys" }),
      this.help,
      element("div", { class: "nb-stamp", text: "recorded: Run All makes it live" }),
      this.words.live,
    );
  }

  rowsMenu() {
    const { model } = this;
    const options = [["slots", "a row a batch slot"], ["requests", "a row a request"]].map(([value, text]) => element("option", { value, text }));
    const menu = element("select", { "aria-label": "Rows" }, options);
    menu.value = model.get("rows");
    menu.addEventListener("change", () => this.set("rows", menu.value));
    model.on("change:rows", () => {
      menu.value = model.get("rows");
      this.redraw();
    });
    return menu;
  }

  listen() {
    const { model, root, bars } = this, strip = this.overview.canvas;
    model.on("change:_run", () => {
      this.load();
      // New runs are drawn before the frame begins that shows them, once the rest of their message is taken.
      queueMicrotask(() => this.pending && this.frame());
    });
    model.on("change:error", () => this.failed(model.get("error")));
    for (const name of ["_difference", "_ghosts", "_table", "shown_s"]) model.on(`change:${name}`, () => this.redraw());
    model.on("change:lead", () => this.leads());
    model.on("change:step", () => model.get("step") !== this.player.step && this.player.seek(model.get("step")));
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("keyup", () => this.player.rest());
    bars.addEventListener("pointerdown", (event) => this.press(event));
    bars.addEventListener("pointermove", (event) => this.point(event));
    bars.addEventListener("pointerup", (event) => this.release(event));
    bars.addEventListener("pointerleave", () => (this.tip.hidden = true));
    bars.addEventListener("dblclick", () => this.showAll());
    strip.addEventListener("pointerdown", (event) => {
      strip.setPointerCapture(event.pointerId);
      root.focus({ preventScroll: true });
      this.scrub(event);
    });
    strip.addEventListener("pointermove", (event) => event.buttons && this.scrub(event));
    this.watchSize();
    this.unwatch = watchTheme(() => this.redraw());
  }

  load() {
    const { model } = this;
    this.data = readSchemes(model.get("_run"));
    this.stale = true;
    this.settings.textContent = model.get("_settings_line");
    this.failed(model.get("error"));
    this.leads();
  }

  // The times shown, in seconds: of another run, what there is of them.
  get shown() {
    const [from = 0, to = Infinity] = this.model.get("shown_s"), { end } = this.data;
    return from < end ? [from, Math.min(to, end)] : [0, end];
  }

  leads() {
    const { data, model, player } = this;
    this.lead = data.schemes.find(({ label }) => label === model.get("lead")) ?? data.schemes[0];
    const { number } = this.lead.steps;
    player.range(number[0], number[number.length - 1]);
    player.seek(this.opening ? data.opening : model.get("step"));
    this.opening = false;
    this.stale = true;
  }

  // The next scheme leads, at the same moment.
  leadNext() {
    const { schemes } = this.data;
    this.leadBy(schemes[(schemes.indexOf(this.lead) + 1) % schemes.length]);
  }

  leadBy(scheme) {
    const step = scheme.steps.number[placeAt(scheme, this.time)];
    clearTimeout(this.syncing);
    this.model.set("step", step);
    this.model.set("lead", scheme.label);
    this.model.save_changes();
    this.leads();
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
    this.redraw();
  }

  get time() {
    return timeOf(this.lead, this.player.step);
  }

  zoom(factor) {
    const [from, to] = this.shown, span = (to - from) * factor, end = this.data.end;
    const left = Math.max(0, Math.min(this.time - ((this.time - from) / (to - from)) * span, end - span));
    this.show(left, left + span);
  }

  show(from, to) {
    const left = Math.max(0, from), right = Math.min(this.data.end, Math.max(to, left + 1e-6));
    this.set("shown_s", left > 0 || right < this.data.end ? [left, right] : []);
  }

  showAll() {
    this.show(0, this.data.end);
  }

  reset() {
    const { model } = this, { rows, lead, step, shown_s = [], requests = [] } = model.get("_home");
    this.failed("");
    for (const [name, value] of Object.entries({ rows, lead, shown_s })) model.set(name, value);
    this.selection.set(requests);
    this.opening = this.controls.reset();
    if (!this.opening) this.player.seek(step ?? this.data.opening);
  }

  draw() {
    const { root, model, player, data } = this, theme = isDark(root) ? "dark" : "light";
    if (root.dataset.theme !== theme) root.dataset.theme = theme;
    const style = getComputedStyle(root), colours = [], variable = (name) => style.getPropertyValue(name).trim();
    this.ink = { text: style.color, quiet: variable("--nb-quiet"), line: variable("--nb-line"), alarm: variable("--nb-alarm"), paper: style.backgroundColor };
    for (const look of model.get("_phases")) {
      colours[look.number] = look[theme];
      root.style.setProperty(`--nb-${look.key}`, look[theme]);
    }
    const width = this.outer - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 2;
    const selected = this.selection.requests.map((name) => data.names.indexOf(name)).filter((row) => row >= 0);
    const owners = model.get("_palette").owners.map((owner) => ({ letter: owner.letter, colour: owner[theme] }));
    const ghosts = model.get("_ghosts"), mode = model.get("rows");
    const key = [width, devicePixelRatio, theme, this.ink.paper, mode, ...this.shown, selected, ghosts, this.lead.label].join();
    if (key !== this.drawn || this.stale) {
      this.layout = ganttLayout(data, mode, this.shown, width);
      this.delays = data.schemes.map((scheme) => (selected.length ? delaysOf(scheme, selected[0]) : { neighbours: [], times: [] }));
      paintGantt(this.still, this.layout, { colours, owners, selected, ghosts, ink: this.ink, lead: this.lead.label, delays: this.delays });
      Object.assign(this, { drawn: key, stale: false });
    }
    const context = prepare(this.bars, width, this.layout.height);
    context.drawImage(this.still, 0, 0, width, this.layout.height);
    this.cursor(context);
    this.overview.draw(width, data, this.lead, this.shown, this.time, colours, this.ink);
    player.tell();
    this.words.say({ data, lead: this.lead, time: this.time, step: player.step, difference: model.get("_difference"), table: model.get("_table"), selected, delays: this.delays });
    this.bars.setAttribute("aria-label", this.words.text);
    const marks = { "aria-valuemin": player.first, "aria-valuemax": player.last, "aria-valuenow": player.step };
    for (const [name, value] of Object.entries(marks)) this.overview.canvas.setAttribute(name, value);
    this.sync();
  }

  cursor(context) {
    const { layout, ink } = this, x = layout.x(this.time);
    if (this.dragged) {
      const [a, b] = this.dragged;
      context.globalAlpha = 0.25;
      context.fillStyle = ink.quiet;
      context.fillRect(Math.min(a, b), 0, Math.abs(b - a), layout.base);
      context.globalAlpha = 1;
    }
    if (x < layout.left - 1 || x > layout.right + 1) return;
    context.fillStyle = ink.paper;
    context.fillRect(Math.round(x) - 2, 4, 4, layout.base - 4);
    context.fillStyle = ink.text;
    context.fillRect(Math.round(x) - 1, 4, 2, layout.base - 4);
  }

  key(event) {
    if (event.target.matches("input, select, summary")) return;
    if (event.target.matches("button") && (event.key === " " || event.key === "Enter")) return;
    if (!this.player.key(event, ganttKeys(this))) return;
    event.preventDefault();
    event.stopPropagation();
  }

  scrub(event) {
    const x = event.clientX - this.overview.canvas.getBoundingClientRect().left;
    this.player.seek(this.lead.steps.number[placeAt(this.lead, this.overview.time(x))]);
  }

  place(event) {
    const box = this.bars.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    this.bars.setPointerCapture(event.pointerId);
    this.root.focus({ preventScroll: true });
    [this.pressed] = this.place(event);
  }

  point(event) {
    const [x, y] = this.place(event);
    if (event.buttons && this.pressed !== undefined && Math.abs(x - this.pressed) > 5) {
      this.dragged = [this.pressed, x];
      this.tip.hidden = true;
      return this.redraw();
    }
    const found = this.layout ? barAt(this.layout, x, y) : null;
    this.tip.hidden = !found || found.span < 0;
    if (this.tip.hidden) return;
    this.tip.textContent = this.words.describe(this.data, found);
    this.tip.style.left = `${Math.min(x + 14, Math.max(0, this.layout.width - this.tip.offsetWidth))}px`;
    this.tip.style.top = `${y + 16}px`;
  }

  // A drag over the bars zooms in on these times; a click selects a request, or lets a scheme lead.
  release(event) {
    const { dragged, layout } = this, [x, y] = this.place(event);
    this.pressed = this.dragged = undefined;
    if (dragged) {
      const [from, to] = dragged.map((at) => layout.time(at)).sort((a, b) => a - b);
      return this.show(from, to);
    }
    const found = barAt(layout, x, y);
    if (!found) return;
    if (y < found.panel.top) return this.leadBy(found.panel.scheme);
    if (found.request >= 0) this.selection.click(this.data.names[found.request], event.shiftKey || event.ctrlKey || event.metaKey);
    else this.selection.set([]);
  }

  destroy() {
    this.player.pause();
    this.sizes.disconnect();
    this.unwatch();
    clearTimeout(this.syncing);
    clearTimeout(this.dimming);
    this.words.silence();
  }
}

function render({ model, el }) {
  const root = element("div");
  el.append(root);
  const view = new Gantt(model, root);
  return () => view.destroy();
}

export default { render };
