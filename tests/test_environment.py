"""environment.yml gives what pyproject.toml asks for."""

from pathlib import Path

import pytest
import yaml

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib; later ones run this test")
ROOT = Path(__file__).parents[1]


def wanted():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    group = [line for line in project["dependency-groups"]["dev"] if not line.startswith("nano-batch")]
    lines = [
        *project["project"]["dependencies"],
        *(line for extra in extras.values() for line in extra),
        *group,
    ]
    return project, set(lines)


def given():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    return conda, pip


def test_the_same_packages_and_limits():
    project, lines = wanted()
    conda, pip = given()
    assert pip[-1] == "--editable ."
    assert set(pip[:-1]) == lines
    assert f"python{project['project']['requires-python']}" in conda
    assert len(lines) > 10


def test_the_rust_toolchain_is_new_enough():
    manifest = tomllib.loads((ROOT / "nano_batch_rs" / "Cargo.toml").read_text(encoding="utf-8"))
    assert f"rust>={manifest['package']['rust-version']}" in given()[0]
