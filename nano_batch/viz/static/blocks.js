// The block table: the physical KV blocks of a run, step by step. The run comes from the kernel once and plays here.
import { CACHED, COMPUTED, FREE, IN_USE, Replay, SHARED } from "./replay.js";
import { colourMenu, paint } from "./paint.js";
import { Controls, pinButton } from "./controls.js";
import { copyButton, downloadMenu } from "./files.js";
import { keyList, passOn, tableKeys } from "./keys.js";
import { FADE, tracesAt } from "./traces.js";
import { Strip } from "./strip.js";
import { layout } from "./layout.js";
import { button, element } from "./dom.js";
import { firstEventOf, readRun } from "./run.js";
import { isDark, watchTheme } from "./theme.js";
import { Calm } from "./calm.js";
import { Heatmap } from "./heatmap.js";
import { Hover } from "./hover.js";
import { Logical } from "./logical.js";
import { Player } from "./player.js";
import { Pointer } from "./pointer.js";
import { Queues } from "./queues.js";
import { Scenes } from "./scenes.js";
import { Selection } from "./selection.js";
import { Steered } from "./steered.js";
import { Touches } from "./touches.js";
import { Words } from "./words.js";
import { timeline } from "./timeline.js";

const INDEX = { free: FREE, in_use: IN_USE, shared: SHARED, cached: CACHED, computed: COMPUTED };

export class BlockTable extends Steered {
  constructor(model, root) {
    super();
    this.model = model;
    this.root = root;
    this.states = model.get("_states");
    this.player = new Player(() => this.redraw());
    this.selection = new Selection(model, () => this.redraw());
    this.controls = new Controls(model, this);
    this.calm = new Calm();
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.build();
    this.listen();
    this.load();
  }

  build() {
    const { root, model } = this;
    root.classList.add("nb-view");
    const marks = { tabindex: "0", role: "group", "aria-label": model.get("title"), "data-lm-suppress-shortcuts": "true" };
    for (const [name, value] of Object.entries(marks)) root.setAttribute(name, value);
    this.settings = element("span", { class: "nb-settings" });
    this.words = new Words(this.states, INDEX);
    this.error = element("div", { class: "nb-error", role: "alert", hidden: "" });
    this.heatmap = new Heatmap(element("canvas", { class: "nb-blocks nb-picture", role: "img" }));
    this.hover = new Hover();
    this.events = element("canvas", { class: "nb-events", role: "img" });
    this.strip = new Strip(element("canvas", { class: "nb-strip", role: "slider", "aria-label": "Step: KV blocks used over the run" }), this.events);
    this.queues = new Queues((name, adding) => this.selection.click(name, adding));
    this.logical = new Logical();
    this.scenes = new Scenes(model, this.controls);
    this.help = keyList();
    const source = element("span", { class: "nb-source", text: model.get("_source") });
    const reset = button("Reset", "Every control back to its default", () => this.reset());
    const take = { picture: () => [this.heatmap.canvas, this.logical.canvas, this.strip.canvas, this.events], numbers: () => this.words.csv(), name: () => `blocks_step_${this.player.step}`, paper: () => this.ink.paper };
    root.replaceChildren(
      element("div", { class: "nb-head" }, [element("b", { text: model.get("title") }), this.settings, source]),
      this.words.difference,
      this.error,
      this.scenes.node,
      element("div", { class: "nb-bar" }, [this.player.node, colourMenu(model, () => this.redraw()), reset, pinButton(model), copyButton(model), downloadMenu(model, take)]),
      element("div", { class: "nb-bar" }, [this.controls.node]),
      this.words.legend.node,
      this.words.colours,
      (this.stage = element("div", { class: "nb-stage" }, [this.heatmap.canvas, this.hover.node])),
      this.words.now,
      this.queues.node,
      this.logical.node,
      element("div", { class: "nb-axis", text: "KV blocks held, % of memory: in use below, cached above. Drag to any step. Marks: preemptions on top, evictions below; then events in each step." }),
      this.strip.canvas,
      this.events,
      element("details", {}, [element("summary", { text: "The numbers drawn, as view.table() and view.logical_tables() give them" }), this.words.numbers.node, this.logical.rows]),
      element("div", { class: "nb-keys", text: "Space plays, arrows step, [ ] go to evictions and preemptions, j k select a request, ? lists all keys" }),
      this.help,
      element("div", { class: "nb-stamp", text: "recorded: Run All makes it live" }),
      this.words.live,
    );
  }

  listen() {
    const { model, root } = this;
    model.on("change:_run", () => {
      this.load();
      // A new run is drawn before the frame begins that shows it, once the rest of its message is taken.
      queueMicrotask(() => this.pending && this.frame(performance.now()));
    });
    model.on("change:error", () => this.failed(model.get("error")));
    model.on("change:_difference", () => this.redraw());
    model.on("change:pinned", () => {
      this.pinned = model.get("pinned") ? { run: this.run, line: this.line } : null;
      this.before = null;
      this.redraw();
    });
    model.on("change:step", () => model.get("step") !== this.player.step && this.player.seek(model.get("step")));
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("keyup", () => this.player.rest());
    this.pointer = new Pointer(this);
    this.watchSize();
    this.unwatch = watchTheme(() => this.redraw());
  }

  load() {
    const { model } = this, shown = this.run && { run: this.run, line: this.line };
    this.run = readRun(model.get("_run"));
    this.replay = new Replay(this.run);
    this.touches = new Touches(this.run);
    this.line = timeline(this.run);
    this.traces = new Uint8Array(this.run.numBlocks);
    this.before = model.get("_difference") ? this.pinned ?? shown ?? null : null;
    this.pointer.hovered = -1;
    this.player.range(this.run.firstStep, this.run.lastStep);
    this.settings.textContent = model.get("_settings_line");
    this.failed(model.get("error"));
    this.player.seek(this.opening ? this.run.openingStep : model.get("step"));
    this.opening = false;
  }

  reset() {
    this.failed("");
    this.opening = this.controls.reset(); // the step to open at comes with the rerun
    if (!this.opening) this.player.seek(this.run.openingStep);
  }

  draw(now) {
    const { run, player, root, selection, replay, model } = this, theme = isDark(root) ? "dark" : "light";
    if (root.dataset.theme !== theme) root.dataset.theme = theme;
    if (replay.step !== player.step) replay.seek(player.step);
    const style = getComputedStyle(root), states = { colours: [], labels: [] };
    this.ink = { text: style.color, quiet: style.getPropertyValue("--nb-quiet"), paper: style.backgroundColor };
    for (const state of this.states) {
      states.colours[INDEX[state.key]] = state[theme];
      states.labels[INDEX[state.key]] = state.label;
      root.style.setProperty(`--nb-${state.key}`, state[theme]);
    }
    const width = this.outer - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 2;
    this.grid = layout(run.numBlocks, width);
    this.calm.begin(run.numBlocks, player.moving, now);
    const picture = replay.picture(), palette = model.get("_palette"), mode = model.get("colour");
    const owners = palette.owners.map((owner) => ({ letter: owner.letter, colour: owner[theme] }));
    const needsUse = mode === "age" || this.pointer.hovered >= 0;
    const lastUse = needsUse ? this.touches.lastUse(replay, firstEventOf(run, player.step + 1)) : null;
    const painted = paint(mode, { replay, picture, palette, states, theme, selection, lastUse });
    // Faster than a mark fades in a second it would flicker: then it shows at rest only.
    const traced = this.grid.cell >= 12 && !(player.playing && player.speed > FADE);
    this.what = {
      grid: this.grid, run, replay, picture, paint: painted, owners, states, selection, lastUse, touches: this.touches,
      lit: selection.lit(replay), traces: traced ? tracesAt(run, player.step, this.traces) : null, ink: this.ink,
      free: states.colours[FREE], hovered: this.pointer.hovered, block: selection.block, plain: this.still.matches, calm: this.calm,
    };
    this.heatmap.draw(this.what);
    this.strip.draw(width, run, this.line, this.before, player, states.colours, this.ink);
    this.words.count(this.what, player.step);
    if (this.calm.due()) this.tell(width, mode, owners);
    this.heatmap.canvas.setAttribute("aria-label", this.words.text);
    const marks = { "aria-valuemin": run.firstStep, "aria-valuemax": run.lastStep, "aria-valuenow": player.step };
    for (const [name, value] of Object.entries(marks)) this.strip.canvas.setAttribute(name, value);
    this.sync();
  }

  tell(width, mode, owners) {
    this.player.tell();
    this.queues.show(this.replay, this.selection, owners);
    this.logical.draw(width, this.what, this.selection);
    this.words.say(mode, this.what, this.line, this.player.step, this.model.get("_difference"));
  }

  key(event) {
    if (passOn(event, this.root)) return;
    if (event.target.matches("input, select, summary")) return;
    if (event.target.matches("button") && (event.key === " " || event.key === "Enter")) return;
    if (!this.player.key(event, tableKeys(this))) return;
    event.preventDefault();
    event.stopPropagation();
  }

  destroy() {
    this.player.pause();
    this.sizes.disconnect();
    this.unwatch();
    clearTimeout(this.syncing);
    this.words.silence();
    clearTimeout(this.dimming);
  }
}
