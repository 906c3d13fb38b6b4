// Choose a workload: built in, by path, or uploaded. Python reads it and says what was understood.

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function labelled(text, control) {
  return element("label", {}, element("span", {}, text), control);
}

function render({ model, el }) {
  const builtin = element("select", { "aria-label": "Built-in workload" });
  const path = element("input", { type: "text", placeholder: "traces/mine.csv.gz", "aria-label": "Path of a trace", spellcheck: "false" });
  const file = element("input", { type: "file", "aria-label": "Upload a trace" });
  const limit = model.get("_upload_bytes") / 1e6;
  const note = element("p", { class: "nbp-note" },
    `Azure LLM inference, Mooncake and BurstGPT traces, or what Workload.to_csv writes; plain or gzip. Up to ${limit} MB by upload, larger by path. Nothing runs yet.`);
  const error = element("p", { class: "nbp-error", role: "alert", hidden: "" });
  const understood = element("div", { class: "nbp-understood", "aria-live": "polite" });
  const root = element("div", { class: "nb-picker", role: "group", "aria-label": "Workload" },
    element("div", { class: "nbp-bar" },
      labelled("Built in", builtin), labelled("Path", path), labelled("Upload", file)),
    note, error, understood);
  // JupyterLab looks for a shortcut from the focused element upwards and stops at this mark: without it on
  // each of them, D D on the list would delete the cell.
  for (const node of [root, builtin, path, file]) node.setAttribute("data-lm-suppress-shortcuts", "true");
  el.append(root);

  function options() {
    const chosen = model.get("builtin"), names = model.get("_builtins");
    const source = model.get("_uploaded") || model.get("path");
    builtin.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (!chosen) builtin.prepend(element("option", { value: "" }, `a file: ${source}`));
    builtin.value = chosen;
  }

  function show() {
    options();
    path.value = model.get("path");
    const message = model.get("error");
    error.textContent = message;
    error.hidden = !message;
    understood.innerHTML = model.get("_understood"); // a table that Python made, its texts escaped
  }

  // The answer is Python's last message: what stands here before it may be half old.
  function settle() {
    show();
    root.removeAttribute("data-asking");
  }

  function ask(name, value) {
    if (!value || value === model.get(name)) return;
    root.setAttribute("data-asking", "");
    model.set(name, value);
    model.save_changes();
  }

  builtin.addEventListener("change", () => ask("builtin", builtin.value));
  path.addEventListener("change", () => ask("path", path.value.trim()));
  path.addEventListener("keydown", (event) => {
    if (event.key === "Enter") ask("path", path.value.trim());
  });
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    root.setAttribute("data-asking", "");
    const about = { name: chosen.name, size: chosen.size };
    if (chosen.size > model.get("_upload_bytes")) model.send(about);
    else model.send(about, undefined, [await chosen.arrayBuffer()]);
    file.value = "";
  });
  const names = ["builtin", "path", "error", "_uploaded", "_understood"];
  for (const name of names) model.on(`change:${name}`, show);
  model.on("change:_answers", settle);
  show();
  return () => {
    for (const name of names) model.off(`change:${name}`, show);
    model.off("change:_answers", settle);
  };
}

export default { render };
