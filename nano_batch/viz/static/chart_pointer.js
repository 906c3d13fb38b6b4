// The pointer on a chart: point at a mark, drag the moment or a rule, click to open the run.
export class ChartPointer {
  constructor(view) {
    this.view = view;
    this.dragged = null; // the control that a rule sets, while it is dragged
    const { picture } = view;
    picture.addEventListener("pointermove", (event) => this.move(event));
    picture.addEventListener("pointerleave", () => view.show(null));
    picture.addEventListener("pointerdown", (event) => this.press(event));
    picture.addEventListener("pointerup", (event) => this.release(event));
  }

  // The panel under the pointer and the place in it.
  at(event) {
    const { pictures } = this.view;
    const place = pictures.findIndex(({ node }) => node.contains(event.target));
    if (place < 0) return [-1, 0, 0];
    const box = pictures[place].node.getBoundingClientRect();
    return [place, event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    const { view } = this, grip = event.target.closest?.("[data-sets]");
    view.root.focus({ preventScroll: true });
    this.pressed = [event.clientX, event.clientY];
    if (grip) {
      const [place] = this.at(event);
      this.dragged = { name: grip.dataset.sets, axis: grip.dataset.axis, picture: view.pictures[place] };
      view.picture.setPointerCapture(event.pointerId);
    }
  }

  move(event) {
    const { view, dragged } = this;
    if (dragged) return this.drag(event);
    const [place, px, py] = this.at(event);
    const picture = view.pictures[place], [series, index] = picture ? picture.at(px, py) : [-1, -1];
    view.show(series < 0 ? null : [place, series, index], px, py);
    if (series >= 0 && event.buttons && picture.panel.steps) view.setCursor(picture.panel.series[series].x[index]);
  }

  drag(event) {
    const { view } = this, { name, axis, picture } = this.dragged, box = picture.node.getBoundingClientRect();
    const control = view.model.get("_controls").find((each) => each.name === name);
    const raw = axis === "x" ? picture.x.value(event.clientX - box.left) : picture.y.value(event.clientY - box.top);
    const least = Math.min(...control.values), most = Math.max(...control.values);
    const value = Math.min(most, Math.max(least, Number(raw.toPrecision(2))));
    view.controls.ask({ [name]: Number.isInteger(control.default) ? Math.round(value) : value });
  }

  release(event) {
    const { view } = this, dragged = this.dragged;
    this.dragged = null;
    if (dragged || !this.pressed) return;
    const still = Math.hypot(event.clientX - this.pressed[0], event.clientY - this.pressed[1]) < 4;
    const [place, px, py] = this.at(event), picture = view.pictures[place];
    const [series, index] = picture ? picture.at(px, py) : [-1, -1];
    if (series < 0 || !still) return;
    if (picture.panel.steps) view.setCursor(picture.panel.series[series].x[index]);
    view.open([place, series, index]);
  }
}
