// The strip under the bars: slots held by the leading scheme over the whole time, what is shown of it, and the clock.
import { DECODE, PREFILL, STALLED } from "./gantt_data.js";
import { LEFT, RIGHT } from "./gantt_layout.js";
import { FONT, prepare } from "./theme.js";

const HIGH = 56, TOP = 8, BASE = 50;

export class Overview {
  constructor(canvas) {
    this.canvas = canvas;
    this.still = document.createElement("canvas");
  }

  time(x) {
    return ((x - LEFT) / (this.canvas.clientWidth - LEFT - RIGHT)) * this.end;
  }

  draw(width, data, lead, [from, to], time, colours, ink) {
    this.end = data.end;
    const x = (at) => LEFT + (at / data.end) * (width - LEFT - RIGHT);
    const key = [width, devicePixelRatio, ink.text, ink.paper].join();
    if (key !== this.key || lead !== this.lead) {
      held(prepare(this.still, width, HIGH), lead, x, colours, ink, width);
      Object.assign(this, { key, lead });
    }
    const context = prepare(this.canvas, width, HIGH);
    context.drawImage(this.still, 0, 0, width, HIGH);
    if (from > 0 || to < data.end) {
      context.globalAlpha = 0.65;
      context.fillStyle = ink.paper;
      context.fillRect(LEFT, 0, x(from) - LEFT, HIGH);
      context.fillRect(x(to), 0, width - RIGHT - x(to), HIGH);
      context.globalAlpha = 1;
    }
    context.fillStyle = ink.text;
    context.fillRect(Math.round(x(time)) - 1, 4, 3, BASE - 3);
    context.beginPath();
    context.arc(Math.round(x(time)) + 0.5, 6, 5, 0, 7);
    context.fill();
  }
}

// A column of pixels shows the mean over its time: seconds that slots spend in each phase, of all slots' seconds.
function held(context, lead, x, colours, ink, width) {
  const columns = Math.max(1, Math.floor(width - LEFT - RIGHT)), sums = [PREFILL, DECODE, STALLED].map(() => new Float64Array(columns + 1));
  const { phase, start, end } = lead.spans;
  for (let i = 0; i < phase.length; i++) {
    const which = [PREFILL, DECODE, STALLED].indexOf(phase[i]);
    if (which < 0) continue;
    const from = x(start[i]) - LEFT, to = x(end[i]) - LEFT;
    for (let at = Math.floor(from); at < to; at++) sums[which][at] += Math.min(to, at + 1) - Math.max(from, at);
  }
  for (let at = 0; at < columns; at++) {
    let base = BASE;
    [PREFILL, DECODE, STALLED].forEach((number, which) => {
      const high = ((BASE - TOP) * sums[which][at]) / lead.slots;
      context.fillStyle = colours[number];
      context.fillRect(LEFT + at, base - high, 1, high);
      base -= high;
    });
  }
  context.font = FONT;
  context.fillStyle = ink.quiet;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const [text, y] of [["100 %", TOP], ["0 %", BASE]]) {
    context.fillText(text, LEFT - 5, y);
    context.fillRect(LEFT, y, width - LEFT - RIGHT, 1);
  }
}
