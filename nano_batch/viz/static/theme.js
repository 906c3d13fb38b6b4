// The host's theme: JupyterLab's or VS Code's variables, else the system's preference; colours switch without a rerun.

export const FONT = "10px ui-monospace, Menlo, Consolas, monospace";
export const SMALL = "8px ui-monospace, Menlo, Consolas, monospace";

function luminance(color) {
  const parts = color.match(/[\d.]+/g)?.map(Number);
  if (!parts || parts.length < 3 || parts[3] === 0) return null;
  return (0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]) / 255;
}

export function isDark(root) {
  const light = document.body.dataset.jpThemeLight;
  if (light !== undefined) return light === "false";
  if (document.body.classList.contains("vscode-dark")) return true;
  if (document.body.classList.contains("vscode-light")) return false;
  for (let node = root; node; node = node.parentElement) {
    const value = luminance(getComputedStyle(node).backgroundColor);
    if (value !== null) return value < 0.4;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

export function watchTheme(onChange) {
  const observer = new MutationObserver(onChange);
  const attributes = { attributes: true, attributeFilter: ["class", "data-jp-theme-light", "data-jp-theme-name"] };
  observer.observe(document.body, attributes);
  const query = matchMedia("(prefers-color-scheme: dark)");
  query.addEventListener("change", onChange);
  return () => {
    observer.disconnect();
    query.removeEventListener("change", onChange);
  };
}

// A canvas that is sharp at any device pixel ratio: sized in CSS pixels, drawn in device pixels.
export function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const across = Math.round(width * ratio), down = Math.round(height * ratio);
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
