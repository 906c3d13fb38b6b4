// Buttons that go to a moment worth looking at, and the sentence that says what to look at.
import { button, element } from "./dom.js";

export class Scenes {
  constructor(model, controls) {
    this.model = model;
    this.controls = controls;
    this.buttons = (model.get("_scenes") ?? []).map(({ number, label }) => {
      const node = button(`${number} ${label}`, "", () => this.go(number));
      node.dataset.scene = number;
      return node;
    });
    this.sentence = element("p", { class: "nb-sentence" });
    this.node = element("div", { class: "nb-scenes" }, [...this.buttons, this.sentence]);
    this.node.hidden = this.buttons.length === 0;
    for (const name of ["scene", "_scenes", "_sentence"]) model.on(`change:${name}`, () => this.show());
    this.show();
  }

  // With a kernel it sets the controls and goes to the moment; without one the page goes there itself, where it can.
  go(number) {
    const { model, controls } = this;
    if (model.send) return controls.send({ scene: number });
    const scene = model.get("_scenes").find((each) => each.number === number);
    const stand = () => {
      model.off("change:_answers", stand);
      if (model.get("error")) return; // a control that was not recorded
      for (const [name, value] of Object.entries({ scene: number, _sentence: scene.sentence, step: scene.step })) model.set(name, value);
      model.save_changes();
    };
    if (controls.reset()) model.on("change:_answers", stand);
    else stand();
  }

  show() {
    this.sentence.textContent = this.model.get("_sentence") ?? "";
    const scenes = this.model.get("_scenes") ?? [];
    this.buttons.forEach((node, i) => {
      const { number, label, step } = scenes[i], here = this.model.send || step !== undefined;
      node.disabled = !here;
      node.title = here ? `Set the controls, go to the moment: ${label}` : `${label}: another run, which this page does not hold; it needs a kernel. Run the notebook.`;
      node.setAttribute("aria-pressed", String(number === this.model.get("scene")));
    });
  }
}
