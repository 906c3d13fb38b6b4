// Makes every view of the page live, from the modules and states that the page brings along.
(async () => {
  const data = JSON.parse(document.getElementById("nb-data").textContent);
  // A page opened from a disk may import no file beside it, but a module from its own text.
  const load = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  const { Model, unpack } = await load(data.model);
  const modules = {};

  function disable(figure, control, reason) {
    for (const node of figure.querySelectorAll(`[data-control="${control.name}"]`)) {
      for (const part of node.querySelectorAll("input, select, button")) {
        part.disabled = true;
        part.title = reason;
      }
      const note = document.createElement("span");
      note.className = "nb-fixed";
      note.textContent = reason;
      node.append(note);
    }
  }

  function reason(steering) {
    const own = "not recorded in this page, which has no kernel: run the notebook to move it";
    return steering ? own : `${own}; one control a page has its runs`;
  }

  for (const figure of document.querySelectorAll("figure[data-view]")) {
    const { module, state, steering } = data.views[figure.dataset.view];
    const values = await unpack(state);
    const recorded = steering?.answers.map(({ value }) => value);
    values._source = data.source;
    values._controls = (values._controls ?? []).map((control) =>
      control.name === steering?.name ? { ...control, values: recorded } : control,
    );
    modules[module] ??= await load(data.modules[module]);
    const place = document.createElement("div");
    const still = [...figure.childNodes];
    figure.append(place);
    await modules[module].default.render({ model: new Model(values, steering), el: place });
    for (const node of still) node.remove();
    for (const control of values._controls) if (control.name !== steering?.name) disable(figure, control, reason(steering));
  }
  document.body.dataset.live = "";
})();
