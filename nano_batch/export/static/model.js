// What a view takes for its kernel in a page that has none: the values of its traits, and the recorded answers.

// A recorded state: length of the JSON text, JSON text, buffers; gzip in base64.
export async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const start = 4 + new DataView(buffer).getUint32(0, true);
  const revive = (_, value) => (value?.$buffer ? new DataView(buffer, start + value.$buffer[0], value.$buffer[1]) : value);
  return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, start - 4)), revive);
}

// anywidget's model, as far as a view uses it. `steering` is the one control with recorded runs, or null.
export class Model {
  constructor(values, steering) {
    this.values = values;
    this.steering = steering;
    this.listeners = new Map();
    this.unsaved = new Set();
    this.newest = 0;
    this.shown = Object.fromEntries(this.controls().map(({ name }) => [name, values[name]]));
  }

  controls() {
    return this.values._controls ?? [];
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    this.take({ [name]: value });
    this.unsaved.add(name);
  }

  on(event, callback) {
    for (const name of event.split(" ")) {
      if (!this.listeners.has(name)) this.listeners.set(name, new Set());
      this.listeners.get(name).add(callback);
    }
  }

  off(event, callback) {
    for (const name of event ? event.split(" ") : this.listeners.keys()) {
      if (callback) this.listeners.get(name)?.delete(callback);
      else this.listeners.delete(name);
    }
  }

  save_changes() {
    const asked = this.controls().map(({ name }) => name).filter((name) => this.unsaved.has(name));
    this.unsaved.clear();
    if (asked.length) this.answer(asked);
  }

  // All values first, then the events: a listener finds one state.
  take(values) {
    const changed = Object.keys(values).filter((name) => values[name] !== this.values[name]);
    Object.assign(this.values, values);
    for (const name of changed) for (const call of this.listeners.get(`change:${name}`) ?? []) call(this, values[name]);
    if (changed.length) for (const call of this.listeners.get("change") ?? []) call(this);
  }

  async answer(asked) {
    const number = ++this.newest;
    const only = asked.length === 1 && asked[0] === this.steering?.name;
    const found = only && this.steering.answers.find(({ value }) => value === this.values[asked[0]]);
    const refusal = { error: found?.error ?? this.missing(asked) };
    const patch = await (found?.patch ? unpack(found.patch) : refusal); // never before save_changes returns
    if (number !== this.newest) return; // a newer question was asked meanwhile
    if (found?.patch) this.shown[asked[0]] = found.value;
    this.take({ error: "", ...this.shown, ...patch, _answers: (this.values._answers ?? 0) + 1 });
  }

  missing(asked) {
    const names = this.controls().filter(({ name }) => asked.includes(name)).map(({ label }) => label);
    const steering = this.controls().find(({ name }) => name === this.steering?.name);
    const values = this.steering?.answers.map(({ value }) => value).join(", ");
    const has = steering ? `${steering.label} was recorded at ${values}` : "no other run was recorded";
    return `${names.join(", ")}: this page has no kernel; ${has}. Run the notebook for any other.`;
  }
}
