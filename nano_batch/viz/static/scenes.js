// Buttons that go to a moment worth looking at, and the sentence that says what to look at.
import { button, element } from "./dom.js";

export class Scenes {
  constructor(model, controls) {
    this.model = model;
    const scenes = model.get("_scenes") ?? [];
    this.buttons = scenes.map(({ number, label }) => {
      const node = button(`${number} ${label}`, `Set the controls, go to the moment: ${label}`, () => controls.send({ scene: number }));
      node.dataset.scene = number;
      node.disabled = !model.send;
      return node;
    });
    this.sentence = element("p", { class: "nb-sentence" });
    this.node = element("div", { class: "nb-scenes" }, [...this.buttons, this.sentence]);
    this.node.hidden = scenes.length === 0;
    for (const name of ["scene", "_sentence"]) model.on(`change:${name}`, () => this.show());
    this.show();
  }

  show() {
    this.sentence.textContent = this.model.get("_sentence") ?? "";
    for (const node of this.buttons) node.setAttribute("aria-pressed", String(Number(node.dataset.scene) === this.model.get("scene")));
  }
}
