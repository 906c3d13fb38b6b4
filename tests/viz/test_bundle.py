"""The browser's modules are joined without loss, and nothing in them asks the network."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from nano_batch.viz.bundle import DRAWS, bundle, static_text, view_code_hash

STATIC = [file.name for file in files("nano_batch.viz").joinpath("static").iterdir()]


ENTRIES = ("block_table.js", "chart.js", "gantt.js")  # one a widget


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_bundle_has_each_module_once_and_no_import_is_left(entry):
    text = bundle(entry)
    held = [name for name in STATIC if name.endswith(".js") and static_text(name).splitlines()[0] in text]
    assert len(held) >= 8
    for name in held:
        first = static_text(name).splitlines()[0]
        assert first.startswith("//")
        assert text.count(first) == 1
    assert not re.search(r"^\s*(import|export (?!default))", text, re.MULTILINE)
    assert text.count("export default") == 1


def test_every_module_is_in_a_bundle():
    texts = [bundle(entry) for entry in ENTRIES]
    for name in STATIC:
        if name.endswith(".js"):
            assert any(static_text(name).splitlines()[0] in text for text in texts), name


@pytest.mark.parametrize("entry", ENTRIES)
def test_modules_declare_no_name_twice(entry):
    names = re.findall(r"^(?:const|let|function|class) (\w+)", bundle(entry), re.MULTILINE)
    assert len(names) > 30
    assert len(names) == len(set(names))


def test_no_module_asks_the_network():
    for name in STATIC:
        text = static_text(name).replace("http://www.w3.org/2000/svg", "")  # the name of SVG, no address
        assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|https?://|@import", text), name


def test_the_hash_follows_every_file(tmp_path, monkeypatch):
    import nano_batch.viz.bundle as module

    for name in DRAWS:
        (tmp_path / name).touch() if name.endswith(".py") else (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    seen = {view_code_hash()}
    room_files = [f"{name}/new.py" for name in DRAWS if not name.endswith(".py")]
    names = [*room_files, "lab.py", "viz/static/b.js", "viz/static/b.js", "viz/static/c.css"]
    for i, name in enumerate(names):
        (tmp_path / name).write_text(str(i), encoding="utf-8")
        seen.add(view_code_hash())
    assert len(seen) == len(names) + 1
    (tmp_path / "viz/static/b.js").write_bytes(b"2\r\n")
    windows = view_code_hash()
    (tmp_path / "viz/static/b.js").write_bytes(b"2\n")
    assert view_code_hash() == windows


def test_all_that_draws_is_in_the_hash():
    """Exports and refreshes take pictures of what is drawn; whoever else uses the views draws."""
    package = Path(str(files("nano_batch")))
    using = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if "nano_batch.viz" in path.read_text(encoding="utf-8")
    }
    assert {"lessons", "studies", "saturation", "lab.py"} < using
    assert using - {"export", "jupyter"} <= set(DRAWS)
