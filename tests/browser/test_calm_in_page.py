"""While a run plays nothing in a view changes more than three times a second: read off what is drawn."""

import pytest

from nano_batch import lab

# Reads every canvas once a frame, every third pixel both ways, and the page's texts as they change.
WATCH = """async (view, milliseconds) => {
  const APART = 3, SECOND = 1000;
  const read = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const watched = [".nb-blocks", ".nb-logical-picture", ".nb-strip", ".nb-events"].map((name) => {
    return { name, canvas: view.querySelector(name), before: null, times: new Map() };
  });
  const texts = new Map(), frames = [];
  const seen = new MutationObserver((changes) => {
    for (const { target } of changes) {
      const node = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
      const now = performance.now();
      const last = texts.get(node)?.at(-1);
      if (!texts.has(node)) texts.set(node, []);
      if (last !== now) texts.get(node).push(now);
    }
  });
  seen.observe(view, { subtree: true, childList: true, characterData: true });
  const start = performance.now();
  for (let now = start; now - start < milliseconds; ) {
    now = await new Promise(requestAnimationFrame);
    frames.push(now);
    for (const each of watched) {
      if (!each.canvas.width || !each.canvas.height) continue;
      const image = read(each.canvas), pixels = new Uint32Array(image.data.buffer);
      for (let y = 0; each.before && y < image.height; y += APART) {
        for (let x = 0; x < image.width; x += APART) {
          const i = y * image.width + x;
          if (pixels[i] === each.before[i]) continue;
          if (!each.times.has(i)) each.times.set(i, []);
          each.times.get(i).push(now);
        }
      }
      each.before = pixels;
    }
  }
  seen.disconnect();
  const most = (lists) => {
    let found = 0;
    for (const times of lists) times.forEach((from, i) => {
      found = Math.max(found, times.slice(i).filter((time) => time - from < SECOND).length);
    });
    return found;
  };
  const result = { frames: frames.length, texts: [texts.size, most(texts.values())] };
  for (const { name, times } of watched) result[name] = [times.size, most(times.values())];
  return result;
}"""


def played(table, speed, milliseconds=2200):
    table.node.get_by_label("Speed").select_option(str(speed))
    table.press("Home")
    table.node.get_by_label("Play (Space)").click()
    table.page.mouse.move(1, 1)
    return table.node.evaluate(WATCH, milliseconds)


@pytest.mark.parametrize("speed", [8, 32])
def test_slots_and_panels_change_at_most_three_times_a_second(opened, speed):
    view = lab.opening()
    view.selected.requests = ["r0", "r2"]
    table = opened(view)
    assert int(table.node.locator(".nb-blocks").get_attribute("data-cell")) >= 24
    seen = played(table, speed)
    for part in (".nb-blocks", ".nb-logical-picture", ".nb-strip", "texts"):
        changed, most = seen[part]
        assert changed > 5, part
        assert 1 <= most <= 3, (part, seen)


@pytest.mark.parametrize(("blocks", "smallest", "largest"), [(512, 6, 23), (4096, 2, 6)])
def test_fills_change_at_most_three_times_a_second(opened, blocks, smallest, largest):
    workload = lab.Workload.synthetic(60, like="azure_conv", seed=1, arrivals="at_once")
    run = lab.serve(workload, memory_tokens=16 * blocks, max_num_seqs=32, max_num_batched_tokens=512)
    table = opened(lab.BlockTableView(run), width=700)
    cell = int(table.node.locator(".nb-blocks").get_attribute("data-cell"))
    assert smallest <= cell <= largest
    seen = played(table, 128)
    changed, most = seen[".nb-blocks"]
    assert changed > 100
    assert 1 <= most <= 3, seen


def test_a_key_held_down_is_calm_and_what_it_ends_with_is_drawn(opened):
    view = lab.opening()
    table = opened(view)
    table.press("Home")
    table.page.evaluate(f"() => {{ window.seen = ({WATCH})(document.querySelector('.nb-view'), 1600); }}")
    for _ in range(40):  # the second and later are repeats
        table.page.keyboard.down("ArrowRight")
        table.page.wait_for_timeout(33)
    table.page.keyboard.up("ArrowRight")
    table.settle()
    seen = table.page.evaluate("window.seen")
    assert view.step >= 40
    assert seen[".nb-blocks"][0] > 20
    assert seen[".nb-blocks"][1] <= 4  # the last one when the key is let go
    canvas = table.node.locator(".nb-blocks")
    rested = canvas.evaluate("node => node.toDataURL()")
    table.press("ArrowLeft", "ArrowRight")
    assert canvas.evaluate("node => node.toDataURL()") == rested
    shown = [tuple(row.locator("th, td").all_text_contents()) for row in table.node.locator("tbody tr").all()]
    assert shown == list(view.table().rows)
