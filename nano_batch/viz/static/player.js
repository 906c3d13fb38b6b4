// Step, play and keys: the clock of a view. It knows steps only; what a step looks like is the view's.
import { SHORTEST } from "./calm.js";
import { element, iconButton, setIcon } from "./dom.js";

export class Player {
  constructor(onStep) {
    this.onStep = onStep;
    this.first = this.last = this.step = 0;
    this.playing = false;
    this.held = false; // a key or the pointer goes on from step to step
    this.speed = 8;
    this.playButton = iconButton("play", "Play (Space)", () => this.toggle());
    this.readout = element("span", { class: "nb-step" });
    this.node = element("div", { class: "nb-player", role: "group", "aria-label": "Playback" }, [
      iconButton("first", "First step (Home)", () => this.seek(this.first)),
      iconButton("back", "One step back (Left arrow)", () => this.seek(this.step - 1)),
      this.playButton,
      iconButton("forward", "One step forward (Right arrow)", () => this.seek(this.step + 1)),
      iconButton("last", "Last step (End)", () => this.seek(this.last)),
      this.readout,
      this.speedControl(),
    ]);
    this.playButton.className = "nb-play";
  }

  speedControl() {
    const options = [2, 8, 32, 128].map((speed) => element("option", { value: speed, text: `${speed} steps/s` }));
    options[1].selected = true;
    const select = element("select", { "aria-label": "Speed" }, options);
    select.addEventListener("change", () => (this.speed = Number(select.value)));
    return select;
  }

  range(first, last) {
    this.first = first;
    this.last = last;
  }

  seek(step, playing = false) {
    if (!playing) this.pause();
    this.step = Math.min(this.last, Math.max(this.first, Math.round(step)));
    if (!this.moving) this.tell();
    this.onStep(this.step);
  }

  get moving() {
    return this.playing || this.held;
  }

  tell() {
    this.readout.textContent = `step ${this.step} of ${this.last}`;
  }

  // What was held is let go.
  rest() {
    if (!this.held) return;
    this.held = false;
    this.onStep(this.step);
  }

  toggle() {
    if (this.playing) return this.pause();
    this.playing = true;
    setIcon(this.playButton, "pause", "Pause (Space)");
    let from = this.step === this.last ? this.first : this.step;
    let start = performance.now(), speed = this.speed;
    const frame = (now) => {
      if (!this.playing) return;
      if (speed !== this.speed) [from, start, speed] = [this.step, now, this.speed];
      const step = Math.min(this.last, from + Math.floor(((now - start) * speed) / 1000));
      if (step !== this.step) this.seek(step, true);
      if (step < this.last) requestAnimationFrame(frame);
      else setTimeout(() => this.step === this.last && this.pause(), SHORTEST); // the last picture, no sooner than any other
    };
    requestAnimationFrame(frame);
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    setIcon(this.playButton, "play", "Play (Space)");
    this.onStep(this.step);
  }

  // The keys of every view and those of this one (`more`). True when the key was used.
  key(event, more) {
    const stride = event.shiftKey ? 10 : 1;
    const actions = {
      " ": () => this.toggle(),
      ArrowRight: () => this.seek(this.step + stride),
      ArrowLeft: () => this.seek(this.step - stride),
      Home: () => this.seek(this.first),
      End: () => this.seek(this.last),
      ...more,
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return false;
    this.held = event.repeat;
    actions[event.key]();
    return true;
  }
}
