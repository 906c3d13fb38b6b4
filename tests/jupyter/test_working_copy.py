"""The reader's copy follows the originals until the reader changes it."""

import pytest

from nano_batch.errors import LabError
from nano_batch.jupyter import working_copy
from nano_batch.jupyter.working_copy import make_working_copy


@pytest.fixture
def folders(tmp_path):
    source, target = tmp_path / "notebooks", tmp_path / "lab"
    source.mkdir()
    (source / "00.ipynb").write_text("one", encoding="utf-8")
    (source / "01.ipynb").write_text("one", encoding="utf-8")
    return source, target


def test_copies_once_and_follows_the_original(folders):
    source, target = folders
    assert make_working_copy(source, target) == []
    assert (target / "00.ipynb").read_text(encoding="utf-8") == "one"
    (source / "00.ipynb").write_text("two", encoding="utf-8")
    assert make_working_copy(source, target) == []
    assert (target / "00.ipynb").read_text(encoding="utf-8") == "two"


def test_never_overwrites_what_the_reader_changed(folders):
    source, target = folders
    make_working_copy(source, target)
    (target / "00.ipynb").write_text("mine", encoding="utf-8")
    (source / "00.ipynb").write_text("two", encoding="utf-8")
    for _ in range(2):
        assert make_working_copy(source, target) == ["00.ipynb"]
        assert (target / "00.ipynb").read_text(encoding="utf-8") == "mine"
    assert (target / "01.ipynb").read_text(encoding="utf-8") == "one"


def test_a_file_that_was_there_before_is_the_readers(folders):
    source, target = folders
    target.mkdir()
    (target / "00.ipynb").write_text("mine", encoding="utf-8")
    assert make_working_copy(source, target) == ["00.ipynb"]


def test_without_a_clone_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(working_copy, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(LabError, match="from a clone of the repository"):
        working_copy.notebooks_folder()
