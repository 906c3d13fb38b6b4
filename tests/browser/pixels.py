"""The picture in a page against what Python says is drawn: sampled pixels and the legend's swatches."""

from nano_batch.viz.palette import STATES

READ = """(canvas, points) => {
  const ratio = canvas.width / canvas.clientWidth, context = canvas.getContext("2d");
  const pixel = ([x, y]) => Array.from(context.getImageData(x * ratio, y * ratio, 1, 1).data.slice(0, 3));
  return points.map(pixel);
}"""


def check_pixels(view, frame, theme):
    """Five blocks of every state have its colour in `theme`, and the legend shows the same."""
    points, wanted = _samples(view.locator(".nb-blocks"), frame, theme)
    seen = view.locator(".nb-blocks").evaluate(READ, points)
    assert ["#{:02X}{:02X}{:02X}".format(*pixel) for pixel in seen] == wanted
    for state in STATES:
        swatch = view.locator(f".nb-legend [data-state={state.key}] .nb-swatch")
        style = swatch.first.evaluate("node => getComputedStyle(node).background")
        red, green, blue = (int(getattr(state, theme)[i : i + 2], 16) for i in (1, 3, 5))
        assert f"rgb({red}, {green}, {blue})" in style


def _samples(canvas, frame, theme):
    grid = {name: int(canvas.get_attribute(f"data-{name}")) for name in ("columns", "cell", "left", "top")}
    points, wanted = [], []
    for state in STATES:
        blocks = (frame.state == state.number).nonzero()[0]
        assert len(blocks), state.key
        for block in blocks[:5].tolist():
            # Near the bottom, where a block's first slots are in medium cells, at the top left in large ones.
            down = 3 if grid["cell"] >= 24 else grid["cell"] - 2
            x = grid["left"] + block % grid["columns"] * grid["cell"] + 3
            y = grid["top"] + block // grid["columns"] * grid["cell"] + down
            points.append((x, y))
            wanted.append(getattr(state, theme))
    return points, wanted
