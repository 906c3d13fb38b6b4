// The block table: the physical KV blocks of a run, step by step. The run comes from the kernel once and plays here.
import { CACHED, COMPUTED, FREE, IN_USE, Replay, SHARED, counts, timeline } from "./replay.js";
import { blockAt, layout } from "./layout.js";
import { button, element, grouped, legend, percent, slider, table } from "./dom.js";
import { drawBlocks, outline } from "./heatmap.js";
import { drawStrip, stripScale } from "./strip.js";
import { isDark, watchTheme } from "./theme.js";
import { Player } from "./player.js";
import { readRun } from "./run.js";

const INDEX = { free: FREE, in_use: IN_USE, shared: SHARED, cached: CACHED, computed: COMPUTED };

class BlockTable {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.states = model.get("_states");
    this.player = new Player(() => this.redraw());
    this.build();
    this.listen();
    this.load();
  }

  build() {
    const { root, model } = this;
    root.classList.add("nb-view");
    const marks = { tabindex: "0", role: "group", "aria-label": model.get("title") };
    for (const [name, value] of Object.entries(marks)) root.setAttribute(name, value);
    this.settings = element("span", { class: "nb-settings" });
    const source = element("span", { class: "nb-source", text: model.get("_source") });
    this.error = element("div", { class: "nb-error", role: "alert", hidden: "" });
    this.controls = model.get("_controls").map((control) => ({
      name: control.name,
      home: control.default,
      ...slider(control, (value) => this.ask(control.name, value)),
    }));
    this.blocks = element("canvas", { class: "nb-blocks", role: "img" });
    this.tip = element("div", { class: "nb-tip", hidden: "" });
    this.strip = element("canvas", { class: "nb-strip", role: "slider", "aria-label": "Step: KV blocks used over the run" });
    this.legend = legend(this.states);
    this.numbers = table(["state", "blocks", "% of blocks", "tokens stored"]);
    this.live = element("div", { class: "nb-hidden", "aria-live": "polite" });
    const reset = button("Reset", "Every control back to its default", () => this.reset());
    root.replaceChildren(
      element("div", { class: "nb-head" }, [element("b", { text: model.get("title") }), this.settings, source]),
      this.error,
      element("div", { class: "nb-bar" }, [this.player.node, ...this.controls.map((control) => control.node), reset]),
      this.legend.node,
      (this.stage = element("div", { class: "nb-stage" }, [this.blocks, this.tip])),
      element("div", { class: "nb-axis", text: "KV blocks held, % of memory: in use below, cached above. Drag to any step. Marks: preemptions on top, evictions below." }),
      this.strip,
      element("details", {}, [element("summary", { text: "The numbers drawn, as view.table() gives them" }), this.numbers.node]),
      element("div", { class: "nb-keys", text: "Space plays, arrows step, Shift steps by 10, Home and End jump" }),
      element("div", { class: "nb-stamp", text: "recorded: Run All makes it live" }),
      this.live,
    );
    // JupyterLab looks for a shortcut from the focused element upwards and stops at this mark: without it on
    // each of them, D D on a button would delete the cell and an arrow on the slider would leave it.
    for (const node of [root, ...root.querySelectorAll("button, input, select, summary")]) {
      node.setAttribute("data-lm-suppress-shortcuts", "true");
    }
  }

  listen() {
    const { model, root } = this;
    model.on("change:_run", () => this.load());
    model.on("change:_answers", () => this.settle());
    model.on("change:error", () => this.settle());
    model.on("change:step", () => model.get("step") !== this.player.step && this.player.seek(model.get("step")));
    for (const control of this.controls) model.on(`change:${control.name}`, () => control.set(model.get(control.name)));
    root.addEventListener("keydown", (event) => this.key(event));
    this.blocks.addEventListener("pointermove", (event) => this.hover(event));
    this.blocks.addEventListener("pointerleave", () => this.hover(null));
    this.blocks.addEventListener("pointerdown", () => root.focus({ preventScroll: true }));
    this.strip.addEventListener("pointerdown", (event) => {
      this.strip.setPointerCapture(event.pointerId);
      root.focus({ preventScroll: true });
      this.scrub(event);
    });
    this.strip.addEventListener("pointermove", (event) => event.buttons && this.scrub(event));
    this.sizes = new ResizeObserver(() => this.redraw());
    this.sizes.observe(root);
    this.unwatch = watchTheme(() => this.redraw());
  }

  load() {
    this.run = readRun(this.model.get("_run"));
    this.replay = new Replay(this.run);
    this.line = timeline(this.run);
    this.hovered = -1;
    this.player.range(this.run.firstStep, this.run.lastStep);
    for (const control of this.controls) control.set(this.model.get(control.name));
    this.settings.textContent = this.model.get("_settings_line");
    this.settle();
    this.player.seek(this.opening ? this.run.openingStep : this.model.get("step"));
    this.opening = false;
  }

  // A rerun is asked of the kernel; the last picture stays, dimmed when it takes longer than 150 ms.
  ask(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
    this.root.dataset.asking = "";
    clearTimeout(this.dimming);
    this.dimming = setTimeout(() => this.stage.classList.add("nb-busy"), 150);
  }

  settle() {
    delete this.root.dataset.asking;
    clearTimeout(this.dimming);
    this.stage.classList.remove("nb-busy");
    const message = this.model.get("error");
    this.error.textContent = message;
    this.error.hidden = !message;
    for (const control of this.controls) control.set(this.model.get(control.name));
  }

  reset() {
    const moved = this.controls.filter((control) => this.model.get(control.name) !== control.home);
    this.opening = moved.length > 0; // the step to open at comes with the rerun
    for (const control of moved) this.ask(control.name, control.home);
    if (!this.opening) this.player.seek(this.run.openingStep);
  }

  redraw() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      // A host that is switching its theme hides the page for a moment: the last width holds then.
      if (this.root.isConnected && this.root.clientWidth) this.outer = this.root.clientWidth;
      if (this.outer) this.draw();
    });
  }

  draw() {
    const { run, player, root } = this, dark = isDark(root);
    root.dataset.theme = dark ? "dark" : "light";
    const style = getComputedStyle(root);
    const ink = { text: style.color, quiet: style.getPropertyValue("--nb-quiet"), paper: style.getPropertyValue("--nb-paper") };
    const colours = [];
    for (const state of this.states) {
      colours[INDEX[state.key]] = dark ? state.dark : state.light;
      root.style.setProperty(`--nb-${state.key}`, colours[INDEX[state.key]]);
    }
    const width = this.outer - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    this.grid = layout(run.numBlocks, width);
    if (this.replay.step !== player.step) this.replay.seek(player.step);
    this.picture = this.replay.picture();
    drawBlocks(this.blocks, this.grid, run, this.picture, this.replay, colours, ink);
    if (this.hovered >= 0) outline(this.blocks.getContext("2d"), this.grid, this.hovered, ink);
    drawStrip(this.strip, width, run, this.line, player.step, colours, ink);
    this.say();
    this.sync();
  }

  say() {
    const { blocks, tokens } = counts(this.picture), total = this.run.numBlocks;
    const rows = this.states.map(({ key, label }) => {
      const i = INDEX[key];
      this.legend.numbers[key].textContent = grouped(blocks[i]);
      return [label, grouped(blocks[i]), percent(blocks[i], total), grouped(tokens[i])];
    });
    this.numbers.fill([...rows, ["total", grouped(total), "100.0", grouped(tokens.reduce((a, b) => a + b))]]);
    const text = `step ${this.player.step}: ` + rows.map(([label, count]) => `${label} ${count}`).join(", ");
    this.blocks.setAttribute("aria-label", text);
    this.strip.setAttribute("aria-valuemin", this.run.firstStep);
    this.strip.setAttribute("aria-valuemax", this.run.lastStep);
    this.strip.setAttribute("aria-valuenow", this.player.step);
    this.speaking ??= setTimeout(() => {
      this.speaking = null;
      this.live.textContent = this.blocks.getAttribute("aria-label");
    }, 1000);
  }

  // The kernel learns the step when it rests, twice a second at most while it plays.
  sync() {
    if (this.model.get("step") === this.player.step) return;
    clearTimeout(this.syncing);
    const send = () => {
      this.model.set("step", this.player.step);
      this.model.save_changes();
      this.sent = performance.now();
    };
    if (this.player.playing && performance.now() - (this.sent ?? 0) > 500) send();
    else if (!this.player.playing) this.syncing = setTimeout(send, 60);
  }

  key(event) {
    if (event.target.matches("input, select, summary")) return;
    if (event.target.matches("button") && (event.key === " " || event.key === "Enter")) return;
    if (!this.player.key(event)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  scrub(event) {
    const scale = stripScale(this.run, this.strip.clientWidth);
    this.player.seek(scale.step(event.clientX - this.strip.getBoundingClientRect().left));
  }

  hover(event) {
    const box = this.blocks.getBoundingClientRect();
    const x = event ? event.clientX - box.left : -1, y = event ? event.clientY - box.top : -1;
    const block = this.grid ? blockAt(this.grid, this.run.numBlocks, x, y) : -1;
    this.tip.hidden = block < 0;
    if (block >= 0) {
      this.tip.textContent = this.describe(block);
      this.tip.style.left = `${Math.min(x + 14, Math.max(0, box.width - this.tip.offsetWidth))}px`;
      this.tip.style.top = `${y + 16}px`;
    }
    if (block !== this.hovered) this.redraw();
    this.hovered = block;
  }

  describe(block) {
    const { replay, run, picture } = this;
    const state = this.states.find(({ key }) => INDEX[key] === picture.state[block]).label;
    const owners = replay.owners(block).map(([id, index]) => `${id} (its block ${index})`);
    const shown = owners.length > 4 ? [...owners.slice(0, 4), `and ${owners.length - 4} more`] : owners;
    const lines = [`block ${block}: ${state}`, `${picture.fill[block]} of ${run.blockSize} token slots written`];
    lines.push(owners.length ? `held by ${shown.join(", ")}` : "held by nobody", `reference count ${replay.references[block]}`);
    if (replay.markedBy[block] >= 0) lines.push(`prefix hash ${run.hash(replay.markedBy[block]).toString(16).padStart(16, "0").slice(0, 8)}…`);
    return lines.join("\n");
  }

  destroy() {
    this.player.pause();
    this.sizes.disconnect();
    this.unwatch();
    clearTimeout(this.syncing);
    clearTimeout(this.speaking);
    clearTimeout(this.dimming);
  }
}

function render({ model, el }) {
  const root = element("div");
  el.append(root);
  const view = new BlockTable(model, root);
  return () => view.destroy();
}

export default { render };
