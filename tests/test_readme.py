"""The README's examples run as they stand, and what it points to exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_examples_run(capsys):
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        exec(example, {})
    printed = capsys.readouterr().out
    assert "1 ['demo_1'] [[0]] [0, 1, 2, 3, 4]" in printed
    assert "[('demo_1', 'length')]" in printed
    assert "just computed" in printed
    assert "10,000 finished" in printed


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README + CONTRIBUTING)
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_notebook_is_in_the_table():
    names = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert names
    for name in names:
        assert f"| [{name}](notebooks/{name}.ipynb) |" in README
