// While a run plays, or a key is held, no mark changes more than three times a second; at rest all is as it is.
export const SHORTEST = 340; // ms between two changes of one mark

export class Calm {
  constructor() {
    this.changed = new Float64Array(0);
    this.told = -Infinity;
  }

  // Begin a frame of `count` marks.
  begin(count, moving, now) {
    if (this.changed.length !== count) this.changed = new Float64Array(count).fill(-Infinity);
    Object.assign(this, { moving, now });
  }

  // Whether a mark that differs may be drawn anew; if not, it is as it was until a later frame.
  may(mark) {
    if (this.moving && this.now - this.changed[mark] < SHORTEST) return false;
    this.changed[mark] = this.now;
    return true;
  }

  // The same for what is drawn or written as a whole: panels and numbers.
  due() {
    if (this.moving && this.now - this.told < SHORTEST) return false;
    this.told = this.now;
    return true;
  }
}
