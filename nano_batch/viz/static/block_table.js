// The widget of a block table.
import { BlockTable } from "./blocks.js";
import { element } from "./dom.js";

function render({ model, el }) {
  const root = element("div");
  el.append(root);
  const view = new BlockTable(model, root);
  return () => view.destroy();
}

export default { render };
