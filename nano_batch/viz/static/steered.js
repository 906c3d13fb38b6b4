// What a view with controls shows while the kernel is asked, and when it refuses. It has a root, a stage, an error line.
export class Steered {
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
}
