// A chart: panels of series that the kernel computed. Hover, selection and the cursor are the page's own.
import { Controls, pinButton } from "./controls.js";
import { copyButton, downloadMenu } from "./files.js";
import { button, element, table } from "./dom.js";
import { chartHelp, chartKeys } from "./chart_keys.js";
import { isDark, watchTheme } from "./theme.js";
import { Opened } from "./opened.js";
import { PanelPicture, commonRoom } from "./panel.js";
import { passOn } from "./keys.js";
import { photographs, shape } from "./svg.js";
import { readPanels } from "./series.js";
import { Steered } from "./steered.js";
import { ChartPointer } from "./chart_pointer.js";

const NARROW = 330;

class ChartPicture extends Steered {
  constructor(model, root) {
    super();
    this.model = model;
    this.root = root;
    this.pictures = [];
    this.mark = Math.random().toString(36).slice(2);
    this.point = null; // [panel, series, index]
    this.build();
    this.listen();
    this.load();
  }

  build() {
    const { root, model } = this;
    root.classList.add("nb-view");
    const marks = { tabindex: "0", role: "group", "aria-label": model.get("title"), "data-lm-suppress-shortcuts": "true" };
    for (const [name, value] of Object.entries(marks)) root.setAttribute(name, value);
    this.title = element("b");
    this.settings = element("span", { class: "nb-settings" });
    this.source = element("span", { class: "nb-source", text: model.get("_source") });
    this.error = element("div", { class: "nb-error", role: "alert", hidden: "" });
    this.difference = element("div", { class: "nb-difference nb-note" });
    this.says = element("p", { class: "nb-sentence" });
    this.legend = element("ul", { class: "nb-legend", "aria-label": "Series and their colours" });
    this.picture = element("div", { class: "nb-chart nb-picture", role: "img" });
    this.tip = element("div", { class: "nb-tip", hidden: "" });
    this.stage = element("div", { class: "nb-stage" }, [this.picture, this.tip]);
    this.details = element("details", {}, [element("summary", { text: "The numbers, as view.table() gives them" })]);
    this.help = chartHelp();
    this.live = element("div", { class: "nb-hidden", "aria-live": "polite" });
    this.controls = new Controls(model, this);
    this.opened = new Opened(model, this.controls);
    const reset = button("Reset", "Every control back to its default", () => this.reset());
    const take = { picture: () => photographs(this.pictures.map(({ node }) => node)), numbers: () => this.csv(), name: () => "chart", paper: () => this.ink.paper };
    const steered = model.get("_controls").length > 0;
    root.replaceChildren(
      element("div", { class: "nb-head" }, [this.title, this.settings, this.source]),
      this.difference,
      this.error,
      element("div", { class: "nb-bar" }, [...(steered ? [reset, pinButton(model)] : []), copyButton(model), downloadMenu(model, take)]),
      element("div", { class: "nb-bar" }, [this.controls.node]),
      this.says,
      this.legend,
      this.stage,
      this.details,
      element("div", { class: "nb-keys", text: "arrows go from point to point, Enter opens the run behind one, ? lists all keys" }),
      this.help,
      element("div", { class: "nb-stamp", text: "recorded: Run All makes it live" }),
      this.live,
      this.opened.node,
    );
  }

  listen() {
    const { model, root } = this;
    // What the kernel sends is drawn before the frame begins that shows it, also where a setting changes no curve.
    const drawn = () => {
      this.redraw();
      queueMicrotask(() => this.pending && this.frame());
    };
    model.on("change:_chart", () => {
      this.load();
      drawn();
    });
    model.on("change:error", () => this.failed(model.get("error")));
    for (const name of ["_difference", "_numbers", "_settings_line"]) model.on(`change:${name}`, drawn);
    model.on("change:cursor", () => this.pictures.forEach((picture) => picture.mark(model.get("cursor"))));
    model.on("change:pinned", () => {
      this.pinned = model.get("pinned") ? this.panels : null;
      this.before = null;
      this.redraw();
    });
    root.addEventListener("keydown", (event) => this.key(event));
    this.pointer = new ChartPointer(this);
    this.watchSize();
    this.unwatch = watchTheme(() => this.redraw());
  }

  load() {
    const { model } = this, shown = this.panels;
    this.panels = readPanels(model.get("_chart"));
    if (model.get("pinned") && !this.pinned) this.pinned = this.panels; // recorded with a pinned setting
    this.before = model.get("_difference") ? this.pinned ?? shown ?? null : null;
    if (this.point && !this.panels[this.point[0]]?.series[this.point[1]]?.x[this.point[2]]) this.point = null;
    this.failed(model.get("error"));
    this.redraw();
  }

  reset() {
    this.failed("");
    this.controls.reset();
  }

  draw() {
    const { root, model, panels } = this, theme = isDark(root) ? "dark" : "light";
    if (root.dataset.theme !== theme) root.dataset.theme = theme;
    const style = getComputedStyle(root);
    this.ink = inks(style, model.get("_roles"), model.get("_hatched"), theme, this.mark);
    const width = this.outer - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 2;
    const columns = Math.max(1, Math.min(model.get("_chart").columns, Math.floor(width / NARROW)));
    const wide = Math.floor((width - 12 * (columns - 1)) / columns);
    this.picture.style.gridTemplateColumns = `repeat(${columns}, ${wide}px)`;
    while (this.pictures.length < panels.length) this.pictures.push(new PanelPicture());
    this.pictures.length = panels.length;
    const rooms = commonRoom(panels, wide, columns === 1);
    panels.forEach((panel, i) => {
      const before = model.get("_difference") ? this.before?.find(({ title }) => title === panel.title) : null;
      this.pictures[i].draw(panel, before, wide, rooms[i], this.ink);
      this.pictures[i].mark(model.get("cursor"));
    });
    this.picture.replaceChildren(...this.pictures.map(({ node }) => node));
    this.pictures.forEach((picture, i) => picture.circle(this.point?.[0] === i ? this.point.slice(1) : null));
    this.tell();
  }

  // The words around the picture, and its label, which changes last.
  tell() {
    const { model, ink } = this, { columns, rows, title } = model.get("_numbers"), says = model.get("_chart").says.join(" ");
    this.title.textContent = model.get("title");
    this.settings.textContent = model.get("_settings_line");
    this.difference.textContent = model.get("_difference");
    this.says.textContent = says;
    this.says.hidden = !says;
    const alone = ({ kind, colour }, series) => kind !== "band" || !series.some((each) => each.kind === "line" && each.colour === colour);
    const named = this.panels.flatMap(({ series }) => series.filter((each) => alone(each, series)));
    const shown = new Map(named.map(({ name, colour, kind }) => [name, { colour, kind }]));
    this.legend.replaceChildren(...Array.from(shown, ([name, { colour, kind }]) => {
      const swatch = shape("svg", { width: 14, height: 14, class: "nb-swatch", "data-role": colour }, [
        shape("defs", {}, ink.patterns()),
        shape("rect", { width: 14, height: 14, fill: ink.fill(colour), opacity: kind === "band" ? 0.25 : 1 }),
      ]);
      return element("li", {}, [swatch, element("span", { text: name })]);
    }));
    const numbers = table(columns);
    numbers.fill(rows);
    this.details.replaceChildren(this.details.firstChild, element("div", { class: "nb-note", text: title }), numbers.node);
    this.picture.setAttribute("aria-label", `${model.get("title")}. ${says} ${rows.map((row) => row.join(" ")).join("; ")}`);
  }

  // Point at a mark, from the keyboard or by the pointer; `px`, `py`: where the words stand.
  show(point, px, py) {
    this.point = point;
    this.tip.hidden = !point;
    this.pictures.forEach((picture, i) => picture.circle(point?.[0] === i ? point.slice(1) : null));
    if (!point) return "";
    const picture = this.pictures[point[0]], stage = this.stage.getBoundingClientRect(), box = picture.node.getBoundingClientRect();
    const [x, y] = px === undefined ? picture.placeOf(point.slice(1)) : [px, py];
    this.tip.textContent = picture.describe(point.slice(1));
    const right = stage.width - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(x + box.left - stage.left + 14, right))}px`;
    this.tip.style.top = `${y + box.top - stage.top + 16}px`;
    return this.tip.textContent;
  }

  say(text) {
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => (this.live.textContent = text), 1000);
  }

  // The moment of a point in a panel over time.
  setCursor(at) {
    if (this.model.get("cursor") === at) return;
    this.model.set("cursor", at);
    this.model.save_changes();
    this.pictures.forEach((picture) => picture.mark(at));
  }

  open([panel, series, index]) {
    const shown = this.panels[panel];
    if (this.model.get("_opens")) this.opened.ask([shown.title, shown.series[series].name, index]);
  }

  key(event) {
    if (event.target.closest(".nb-view") !== this.root || passOn(event, this.root)) return;
    if (event.target.matches("input, select, summary")) return;
    if (event.target.matches("button") && (event.key === " " || event.key === "Enter")) return;
    if (event.ctrlKey || event.metaKey || event.altKey || !chartKeys(this, event)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  csv() {
    const { columns, rows } = this.model.get("_numbers");
    const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
    const plain = rows.map((row) => row.map((cell, i) => (i ? cell.replaceAll(",", "") : cell)));
    return [columns, ...plain].map((row) => row.map(quoted).join()).join("\n") + "\n";
  }

  destroy() {
    this.sizes.disconnect();
    this.unwatch();
    this.opened.close();
    clearTimeout(this.speaking);
    clearTimeout(this.dimming);
  }
}

// The colours of a theme: of text and lines, of roles, and of roles that are hatched.
function inks(style, roles, hatched, theme, mark) {
  const role = (name) => roles[name][theme], paper = style.backgroundColor;
  const pattern = (name) => shape("pattern", { id: `nb-hatch-${name}-${mark}`, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, [
    shape("rect", { width: 6, height: 6, fill: role(name) }),
    shape("path", { d: "M0 6L6 0", stroke: paper, "stroke-width": 1 }),
  ]);
  return {
    text: style.color, quiet: style.getPropertyValue("--nb-quiet").trim(), line: style.getPropertyValue("--nb-line").trim(), paper, role,
    fill: (name) => (hatched.includes(name) ? `url(#nb-hatch-${name}-${mark})` : role(name)),
    patterns: () => hatched.map(pattern),
  };
}

function render({ model, el }) {
  const root = element("div");
  el.append(root);
  const view = new ChartPicture(model, root);
  return () => view.destroy();
}

export default { render };
