"""Exercises: the run decides; likely mistakes are named; nothing a reader types stops a notebook."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest

from nano_batch import lab
from nano_batch.display import number
from nano_batch.errors import InvalidArgumentError, LabError, UnknownOptionError
from nano_batch.lessons import exercises as module
from nano_batch.lessons.exercises import exercises

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(exercises())
# For each exercise, worked out by hand: the answer and two likely wrong ones with a word of what is said.
BY_HAND = {
    # 2 blocks of 16 hold 32 tokens; the third is taken by the step that stores the 33rd.
    "01-1": (33, {32: "before the step", 34: "samples"}),
    # Each batch of two runs as long as its longer answer: (8 - 2) + (5 - 1).
    "03-1": (10, {6: "first batch", 0: "not refilled"}),
    # 64 - 4 tokens of the prompt a step: 250 / 60, rounded up.
    "03-2": (5, {4: "four decodes", 1: "is cut"}),
    # Each holds 7 of the 14 blocks of 4; the one that asks next takes the other's 28 tokens.
    "05-1": (28, {20: "since as well", 8: "its prompt"}),
    # Its 7 blocks go to the host and come back.
    "05-2": (14, {7: "come back", 28: "in tokens"}),
    # 100 // 32 = 3 full blocks, spared by 5 - 1 requests.
    "01-2": (12, {15: "One copy", 16: "not full"}),
    # Both store 28 when 14 blocks are full; x ends with 20 + 24 - 1 = 43 tokens in 11 blocks: 3 of y's stay.
    "01-3": (28 - 3 * 4, {28: "all it had stored", 12: "came back"}),
    # a has 0 to 2, b 3 and 4 from the first step; in the second a takes 5: 12 + 5 - 1 tokens fill it.
    "01-4": (5, {0: "not its last", 7: "ended after a", 9: "holds nothing"}),
    # 300 + 200 - 1 = 499 tokens are stored, in 8 blocks of 64 = 512 slots.
    "02-1": (13, {12: "never stored", 51: "the others"}),
    # 16,384 / 2,048.
    "02-2": (8, {81: "only what it will need", 163: "answer has to be stored"}),
    # a's 300 and b's 200 lie side by side, then c, then d's 200.
    "02-3": (500, {700: "free in all", 300: "side by side"}),
    # 8 users get a token each in every one of 50 steps a second.
    "04-1": (8 * 50, {50: "one user", 392: "a token too", 8: "requests per second"}),
    # 1, 2, 4, 8, 8, 8 sequences run.
    "04-2": (8, {16: "neither does", 4: "doubles"}),
    # A whole request of 50 steps before it, then the step that reads its prompt: 51 of 20 ms.
    "04-3": (51 * 20, {20: "without a queue", 1000: "So long it waits", 2000: "last token"}),
    # 7 full blocks of 32 in 240 tokens.
    "06-1": (224, {240: "not full", 7: "how many blocks"}),
    # Four of five are kept: four found in each round but the first.
    "06-2": (12, {0: "LRU finds", 15: "one block less"}),
    # 352 tokens of 2 heads, 64 numbers of 2 bytes in each key and each value.
    "07-1": (352 * 2 * 64 * 2 * 2, {188_416: "no token", 720_896: "share its reads", 90_112: "both"}),
    # 13 + 3 + 6 + 1 tiles, twice: 46 / 4 = 11.5.
    "07-2": (12, {26: "whole pairs", 13: "is cut, too", 11: "evenly"}),
    # Cuts at 9, 18, 27 and 36; row 1 of head 1 begins at 36.
    "07-3": (3, {4: "between two pairs", 8: "written at once"}),
    # 20 + 29 - 1 = 48 tokens in blocks of 16.
    "08-1": (3, {4: "No step reads", 2: "stored, too", 48: "how many blocks"}),
    # 32 + 16 - 1 = 47 stored: two full blocks.
    "08-2": (32, {48: "never stored", 47: "Whole blocks", 0: "still there"}),
    # 44 tokens, of which two blocks of 16 are a's.
    "08-3": (12, {4: "inside a block", 44: "they are shared", 32: "are computed"}),
    # 6 + 4 blocks in 8: p's last two go, its prefix of 4 stays.
    "06-3": (4, {2: "the last go first", 6: "own blocks are new"}),
}


@pytest.fixture(autouse=True)
def fresh_hints(monkeypatch):
    monkeypatch.setattr(module, "_given_hints", {})


def test_every_exercise_is_worked_out_here():
    assert sorted(BY_HAND) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_run_gives_what_was_worked_out_by_hand(name):
    verdict = lab.check(name, BY_HAND[name][0])
    assert verdict.right is True
    assert verdict.error == (None if exercises()[name].shows else 0)
    assert "right" in repr(verdict)


@pytest.mark.parametrize("name", NAMES)
def test_likely_mistakes_are_named(name):
    right, wrong = BY_HAND[name]
    assert len(wrong) >= 2
    for answer, word in wrong.items():
        verdict = lab.check(name, answer)
        assert verdict.right is False
        assert verdict.error == (None if exercises()[name].shows else answer - right)
        assert word in verdict.text
        assert f"the run says {number(right)}" in verdict.text
        assert "<table>" in verdict._repr_html_()


@pytest.mark.parametrize("name", NAMES)
def test_no_mistake_is_the_right_answer_and_each_says_something_else(name):
    truth = module._truth(name)
    assert truth.value not in truth.mistakes
    assert len(set(truth.mistakes.values())) == len(truth.mistakes)


@pytest.mark.parametrize("name", NAMES)
def test_the_folded_solution_in_the_notebook_is_right(name):
    (path,) = NOTEBOOKS.glob(f"{name.split('-')[0]}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [
        cell
        for cell in notebook.cells
        if cell.metadata.get("jupyter", {}).get("source_hidden") and f'"{name}"' in cell.source
    ]
    body, last = cell.source.rstrip().rsplit("\n", 1)
    assert last.startswith(f'lab.check("{name}", ')
    names = {"lab": lab}
    exec(f"{body}\nverdict = {last}", names)
    assert names["verdict"].right is True


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answer", [None, ...])
def test_an_unanswered_cell_says_so_and_gives_nothing_away(name, answer):
    verdict = lab.check(name, answer)
    assert "not answered yet" in repr(verdict)
    assert verdict.right is None
    assert verdict.error is None
    assert str(BY_HAND[name][0]) not in repr(verdict).replace(name, "")
    assert "<table>" not in verdict._repr_html_()
    with pytest.raises(LabError, match="first a prediction"):
        verdict.view()


@pytest.mark.parametrize("answer", ["many", [1, 2], True, math.nan, math.inf, object, "x" * 500, 10**400])
def test_what_is_no_number_is_said_not_raised(answer):
    verdict = lab.check("01-1", answer)
    assert verdict.right is None
    assert "is not a number" in repr(verdict)
    assert len(repr(verdict)) < 300


@pytest.mark.parametrize("answer", [33, 33.0, np.int64(33), "33", np.float32(33)])
def test_any_kind_of_number_is_taken(answer):
    assert lab.check("01-1", answer).right is True


@pytest.mark.parametrize("answer", [32.999, -33, 1e9])
def test_other_numbers_are_wrong(answer):
    assert lab.check("01-1", answer).right is False


def test_the_view_of_an_answered_exercise_is_its_run():
    view = lab.check("01-3", 0).view()
    assert "14 blocks of 4 tokens" in view.caption()
    assert "1 preemptions" in view.caption()


def test_an_exercise_about_no_schedule_has_no_block_table():
    with pytest.raises(LabError, match="about no schedule"):
        lab.check("07-3", 0).view()


def test_a_click_is_an_answer():
    view = lab.question("01-4")
    assert "not answered yet" in lab.check("01-4", view).text
    right, wrong = BY_HAND["01-4"]
    for block, word in {right: "right", **wrong}.items():
        view.selected.block = block
        verdict = lab.check("01-4", view)
        assert (verdict.answer, verdict.right) == (block, block == right)
        assert word in verdict.text
        assert repr(verdict) == repr(lab.check("01-4", block))
    assert not (view._log.kind == 9).any()  # nothing is evicted yet: the picture gives nothing away


def test_a_view_of_another_run_is_no_answer():
    view = lab.check("01-4", 0).view()
    view.selected.block = 5
    assert "another run" in lab.check("01-4", view).text
    assert lab.check("01-4", view).right is None
    assert "a view is not a number" in lab.check("01-1", view).text
    with pytest.raises(LabError, match="asks for a number"):
        lab.question("01-1")


def test_hints_come_in_steps():
    asked = exercises()["01-1"]
    given = [lab.hint("01-1") for _ in range(len(asked.hints) + 1)]
    assert [one.step for one in given] == [1, 2, 3, 3]
    assert [one.text.split("\n")[1] for one in given[:3]] == list(asked.hints)
    assert lab.hint("01-1", 1).step == 1
    assert lab.hint("01-2").step == 1


@pytest.mark.parametrize("name", NAMES)
def test_hints_do_not_say_the_number(name):
    right = str(BY_HAND[name][0])
    for hint in exercises()[name].hints:
        assert right not in hint.replace(".", " ").replace(",", " ").split()


@pytest.mark.parametrize("step", [0, 4, 1.5, True])
def test_a_hint_that_is_not_there(step):
    with pytest.raises(InvalidArgumentError, match="hints 1 to 3"):
        lab.hint("01-1", step)


@pytest.mark.parametrize("call", [lab.check, lab.hint])
def test_a_misspelt_exercise_names_the_nearest(call):
    with pytest.raises(UnknownOptionError, match="did you mean '01-2'"):
        call("01_2")


@pytest.mark.parametrize("name", NAMES)
def test_shown_forms_are_short_and_the_same_every_time(name):
    right = BY_HAND[name][0]
    shown = [lab.check(name, answer) for answer in (None, "x", right, *BY_HAND[name][1], -1)]
    shown.append(lab.hint(name, 1))
    again = [lab.check(name, answer) for answer in (None, "x", right, *BY_HAND[name][1], -1)]
    again.append(lab.hint(name, 1))
    for one, other in zip(shown, again, strict=True):
        assert repr(one) == repr(other)
        assert len(repr(one).splitlines()) <= 3
        assert "0x" not in repr(one)
        assert "<script" not in one._repr_html_()
