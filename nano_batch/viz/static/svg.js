// Shapes of a chart: SVG with its colours in attributes, so that a picture can be taken of it as it stands.
const SPACE = "http://www.w3.org/2000/svg";

export function shape(tag, attributes = {}, children = []) {
  const node = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// A path through the points whose coordinates are finite; it starts anew after a gap.
export function through(xs, ys) {
  let path = "", on = false;
  for (let i = 0; i < xs.length; i++) {
    const there = Number.isFinite(xs[i]) && Number.isFinite(ys[i]);
    if (there) path += `${on ? "L" : "M"}${xs[i].toFixed(1)} ${ys[i].toFixed(1)}`;
    on = there;
  }
  return path;
}

// The pictures as canvases of twice their size in CSS pixels.
export function photographs(nodes) {
  return Promise.all(
    nodes.map(async (node) => {
      const text = new XMLSerializer().serializeToString(node);
      const image = new Image();
      image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = 2 * node.clientWidth;
      canvas.height = 2 * node.clientHeight;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      return canvas;
    }),
  );
}
