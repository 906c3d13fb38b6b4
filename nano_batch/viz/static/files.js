// What a reader takes along: the line of code, the picture, the numbers. Picture and numbers need no kernel.
import { button, element } from "./dom.js";

export function copyButton(model) {
  const node = button("Copy as code", "One line that recreates the view as it stands", async () => {
    const code = model.get("_code");
    try {
      await navigator.clipboard.writeText(code);
      node.textContent = "Copied";
    } catch {
      node.textContent = "Not allowed to copy";
    }
    setTimeout(() => (node.textContent = "Copy as code"), 1500);
  });
  const show = () => {
    node.hidden = !model.get("_code");
    node.dataset.code = model.get("_code");
  };
  model.on("change:_code", show);
  show();
  return node;
}

export function offer(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// `picture()` gives canvases to stack, or a promise of them, `numbers()` the text of a CSV, `name()` the file's name without its ending.
export function downloadMenu(model, { picture, numbers, name, paper }) {
  const forms = ["png", "csv", ...(model.send ? ["svg", "html"] : [])];
  const options = forms.map((form) => element("option", { value: form, text: form.toUpperCase() }));
  const menu = element("select", { "aria-label": "Download" }, [element("option", { value: "", text: "Download" }), ...options]);
  menu.addEventListener("change", () => {
    const form = menu.value;
    menu.value = "";
    if (form === "csv") offer(`${name()}.csv`, new Blob([numbers()], { type: "text/csv" }));
    else if (form === "png") Promise.resolve(picture()).then((parts) => stack(parts, paper()).toBlob((blob) => offer(`${name()}.png`, blob)));
    else if (form) model.send({ save: form });
  });
  if (model.send) {
    model.on("msg:custom", (message) => {
      if (!message.file) return;
      const bytes = Uint8Array.from(atob(message.data), (letter) => letter.charCodeAt(0));
      offer(message.file, new Blob([bytes]));
    });
  }
  return menu;
}

function stack(canvases, paper) {
  const whole = document.createElement("canvas");
  whole.width = Math.max(...canvases.map((canvas) => canvas.width));
  whole.height = canvases.reduce((sum, canvas) => sum + canvas.height, 0);
  const context = whole.getContext("2d");
  context.fillStyle = paper;
  context.fillRect(0, 0, whole.width, whole.height);
  let top = 0;
  for (const canvas of canvases) {
    if (canvas.height) context.drawImage(canvas, 0, top);
    top += canvas.height;
  }
  return whole;
}
