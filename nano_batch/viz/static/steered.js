// What a view with controls shows while the kernel is asked, and when it refuses; and when it draws. It has a root, a
// stage, an error line, and a way to draw.
export class Steered {
  // Draws again when the root's size changes. The width is what the observer saw: a host that is switching its theme
  // hides or widens the page for a moment, and a frame of that moment would keep a width that nobody hears the end of.
  watchSize() {
    this.sizes = new ResizeObserver(() => {
      this.outer = this.root.clientWidth || this.outer;
      this.redraw();
    });
    this.sizes.observe(this.root);
  }

  redraw() {
    this.pending ??= requestAnimationFrame((now) => this.frame(now));
  }

  frame(now) {
    cancelAnimationFrame(this.pending);
    this.pending = null;
    if (!this.outer && this.root.isConnected) this.outer = this.root.clientWidth;
    if (this.outer) this.draw(now);
  }

  // A rerun is asked of the kernel; the last picture stays, dimmed when it takes longer than 150 ms.
  busy() {
    this.root.dataset.asking = "";
    clearTimeout(this.dimming);
    this.dimming = setTimeout(() => this.stage.classList.add("nb-busy"), 150);
  }

  ready() {
    delete this.root.dataset.asking;
    clearTimeout(this.dimming);
    this.stage.classList.remove("nb-busy");
    this.failed(this.model.get("error"));
  }

  failed(message) {
    this.error.textContent = message;
    this.error.hidden = !message;
  }

  // Of a view with a player: the kernel learns the step when it rests, twice a second at most while it moves.
  sync() {
    if (this.model.get("step") === this.player.step) return;
    clearTimeout(this.syncing);
    const send = () => {
      this.model.set("step", this.player.step);
      this.model.save_changes();
      this.sent = performance.now();
    };
    if (!this.player.moving) this.syncing = setTimeout(send, 60);
    else if (performance.now() - (this.sent ?? 0) > 500) send();
  }
}
