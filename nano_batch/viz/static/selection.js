// The requests and the block selected: ids that survive a rerun, a hue and a letter each, the same in every panel.
export const MOST = 8;

export class Selection {
  constructor(model, onChange) {
    this.model = model;
    this.onChange = onChange;
    for (const name of ["_requests", "_block"]) model.on(`change:${name}`, () => onChange());
  }

  get requests() {
    return this.model.get("_requests") ?? [];
  }

  get block() {
    return this.model.get("_block") ?? -1;
  }

  get empty() {
    return this.requests.length === 0 && this.block < 0;
  }

  set(requests, block = -1) {
    this.model.set("_requests", [...new Set(requests)].slice(0, MOST));
    this.model.set("_block", block);
    this.model.save_changes();
    this.onChange();
  }

  // A plain click selects one request, or none where it alone was selected; with Shift or Ctrl it adds or takes away.
  click(request, adding) {
    const { requests } = this;
    if (!adding) return this.set(requests.length === 1 && requests[0] === request ? [] : [request]);
    this.set(requests.includes(request) ? requests.filter((name) => name !== request) : [...requests, request]);
  }

  // The selected sequences of a replay by number: [place, number, sequence] of those that are there.
  present(replay) {
    const found = [];
    for (const [number, sequence] of replay.sequences) {
      const place = this.requests.indexOf(replay.name(number));
      if (place >= 0) found.push([place, number, sequence]);
    }
    return found.sort((a, b) => a[0] - b[0]);
  }

  // Per block 1 + the place of the first selected request that holds it, 255 for the selected block alone, else 0.
  lit(replay) {
    if (this.empty) return null;
    const lit = new Uint8Array(replay.run.numBlocks);
    if (this.block >= 0 && this.block < lit.length) lit[this.block] = 255;
    for (const [place, , sequence] of this.present(replay).reverse()) {
      for (const block of sequence.table) if (block >= 0) lit[block] = place + 1;
    }
    return lit;
  }
}
