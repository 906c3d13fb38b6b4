"""A view in a plain page in Chromium, its model joined to the Python object: live without JupyterLab."""

import json
from base64 import b64encode

from nano_batch.viz.bundle import static_text

MODEL = """
const revive = (_, value) => {
  if (!value?.$bytes && value?.$bytes !== "") return value;
  return new DataView(Uint8Array.from(atob(value.$bytes), (letter) => letter.charCodeAt(0)).buffer);
};
class Model {
  constructor() { this.values = {}; this.listeners = {}; this.unsaved = {}; }
  get(name) { return this.values[name]; }
  set(name, value) { this.take({ [name]: value }); this.unsaved[name] = value; }
  on(event, call) { (this.listeners[event] ??= new Set()).add(call); }
  off(event, call) { this.listeners[event]?.delete(call); }
  take(values) {
    const text = (value) => JSON.stringify(value);
    const differs = (name) => name === "_run" || text(values[name]) !== text(this.values[name]);
    const changed = Object.keys(values).filter(differs);
    Object.assign(this.values, values);
    for (const name of changed) for (const call of this.listeners[`change:${name}`] ?? []) call();
  }
  async ask(what) {
    const { values, messages } = JSON.parse(await window.kernel(JSON.stringify(what)), revive);
    this.take(values);
    for (const message of messages) for (const call of this.listeners["msg:custom"] ?? []) call(message);
  }
  save_changes() {
    const changes = this.unsaved;
    this.unsaved = {};
    this.ask({ changes });
  }
  send(message) { this.ask({ message }); }
}
window.push = (text) => window.model.take(JSON.parse(text, revive));
window.hear = (text) => {
  const heard = window.model.listeners["msg:custom"] ?? [];
  for (const message of JSON.parse(text, revive)) for (const call of heard) call(message);
};
window.start = async (code, state) => {
  const module = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  window.model = new Model();
  window.model.values = JSON.parse(state, revive);
  module.default.render({ model: window.model, el: document.getElementById("here") });
};
"""


class PlainPage:
    """`view` in a page of `width` CSS pixels.

    Attributes:
        page: Playwright's page.
        node: the view's element.
        errors: uncaught errors and `console.error` lines.
    """

    def __init__(self, browser, view, *, width=900, height=1000, scale=1, dark=False, calm=False):
        self.view = view
        self.messages = []
        view.send = self.messages.append
        motion = "reduce" if calm else "no-preference"
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
            color_scheme="dark" if dark else "light",
            reduced_motion=motion,
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.expose_function("kernel", self._kernel)
        colours = "background:#111;color:#eee;color-scheme:dark" if dark else "background:#fff"
        mode = ' class="vscode-dark"' if dark else ' class="vscode-light"'
        style = f"<style>{static_text('view.css')}</style>"
        body = f'<body{mode} style="margin:8px;{colours}"><div id="here"></div></body>'
        self.page.set_content(f"<!doctype html><html><head>{style}</head>{body}</html>")
        self.page.add_script_tag(content=MODEL)
        self.sent = self._state()
        self.page.evaluate("([code, state]) => window.start(code, state)", [view._esm, _text(self.sent)])
        self.node = self.page.locator("#here > div > .nb-view, #here > .nb-view")
        self.node.locator(".nb-picture[aria-label]").wait_for()

    def _state(self):
        return self.view.page_state()

    def _kernel(self, text):
        asked = json.loads(text)
        if "message" in asked:
            self.view._answer(asked["message"])
        else:
            self.view.set_state(asked["changes"])
        messages, self.messages[:] = list(self.messages), []
        return _text({"values": self._changes(), "messages": messages})

    def _changes(self):
        now, before = self._state(), self.sent
        self.sent = now
        changed = {
            name: value for name, value in now.items() if value is not before[name] and value != before[name]
        }
        # What the page itself holds may differ from what was sent: controls are always said.
        always = {*self.view._homes, "_requests", "_block", "step"} & set(now)
        return {**changed, **{name: now[name] for name in always}}

    def push(self):
        """Bring what was changed in Python to the page."""
        self.page.evaluate("text => window.push(text)", _text(self._changes()))
        self.settle()

    def push_messages(self):
        """Bring the messages that Python sent by itself to the page."""
        messages, self.messages[:] = list(self.messages), []
        self.page.evaluate("text => window.hear(text)", _text(messages))
        self.settle()

    def settle(self):
        """Wait until what was asked is answered and drawn, and the kernel knows the step."""
        self.page.wait_for_function("!document.querySelector('.nb-view[data-asking]')")
        self.page.wait_for_timeout(120)
        self.node.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def press(self, *keys):
        """Press the keys one by one, with the view in focus."""
        self.node.focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def close(self):
        """Close the page."""
        self.context.close()


def _text(value):
    def plain(item):
        if isinstance(item, (bytes, memoryview)):
            return {"$bytes": b64encode(bytes(item)).decode()}
        raise TypeError(type(item))

    return json.dumps(value, default=plain)
