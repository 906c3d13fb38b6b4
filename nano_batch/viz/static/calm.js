// While a run plays, no block changes its colour more than three times a second; at rest every block is as it is.
const SHORTEST = 340; // ms between two changes of one block

export class Calm {
  show(state, playing, now) {
    if (!playing || this.shown?.length !== state.length) {
      this.shown = state.slice();
      this.since = new Float64Array(state.length).fill(now);
      return state;
    }
    const { shown, since } = this;
    for (let b = 0; b < state.length; b++) {
      if (shown[b] !== state[b] && now - since[b] >= SHORTEST) {
        shown[b] = state[b];
        since[b] = now;
      }
    }
    return shown;
  }
}
