// Makes every view of the page live, from the modules and states that the page brings along.
(async () => {
  const data = JSON.parse(document.getElementById("nb-data").textContent);
  // A page opened from a disk may import no file beside it, but a module from its own text.
  const load = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  const { Model, unpack } = await load(data.model);
  const modules = {};

  const REASON =
    "What is disabled was not recorded: this page has no kernel, and one control a page has its runs. Run the notebook to move it.";

  // Every part that only a kernel could answer is disabled, and one line says why.
  function disable(place, steering) {
    const others = [...place.querySelectorAll("[data-control]")].filter((node) => node.dataset.control !== steering?.name);
    const parts = others.flatMap((node) => [...node.querySelectorAll("input, select, button")]);
    parts.push(...place.querySelectorAll("button.nb-pin"));
    if (!parts.length) return;
    const note = document.createElement("p");
    note.className = "nb-fixed";
    note.id = `nb-fixed-${document.querySelectorAll(".nb-fixed").length}`;
    note.textContent = REASON;
    for (const part of parts) {
      part.disabled = true;
      part.title = REASON;
      part.setAttribute("aria-describedby", note.id);
    }
    (place.querySelector(".nb-controls") ?? place.firstChild).append(note);
  }

  // Views of one run share the step and what is selected, as they do through a kernel.
  const groups = {};
  function share(model, group) {
    group.push(model);
    for (const name of ["step", "_requests", "_block"]) {
      model.on(`change:${name}`, () => group.forEach((other) => other.take({ [name]: model.get(name) })));
    }
  }

  for (const figure of document.querySelectorAll("figure[data-view]")) {
    const { module, state, steering, clock } = data.views[figure.dataset.view];
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
    const model = new Model(values, steering);
    share(model, (groups[clock] ??= []));
    await modules[module].default.render({ model, el: place });
    for (const node of still) node.remove();
    disable(place, steering);
  }
  document.body.dataset.live = "";
})();
