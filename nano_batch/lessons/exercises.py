"""Exercises: a prediction first, then the run and the reader's error, said in words for the likely mistakes.

The right number is read off a run of the real scheduler, made when it is first needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from nano_batch._choices import unknown_option
from nano_batch.display import html_table, number
from nano_batch.errors import InvalidArgumentError, LabError
from nano_batch.lessons.truth import Exercise, Truth

if TYPE_CHECKING:
    from nano_batch.viz import BlockTableView


@dataclass(frozen=True, eq=False, repr=False)
class Verdict:
    """What `check` says; a cell that ends with it shows it.

    Attributes:
        exercise: its name, such as "01-1".
        answer: the prediction as a number, or None where there is none yet.
        right: None without an answer.
        text: at most 3 lines.
    """

    exercise: str
    answer: float | None
    right: bool | None
    text: str

    @property
    def error(self) -> float | None:
        """Prediction minus run, in the exercise's unit; None without an answer, or where it is a click."""
        if self.answer is None or _exercise(self.exercise).shows:
            return None
        return self.answer - _truth(self.exercise).value

    def view(self) -> BlockTableView:
        """The block table of the run that the prediction was about.

        Raises:
            LabError: before there is an answer, or where the exercise is not about a schedule.
        """
        from nano_batch.viz import BlockTableView

        if self.answer is None:
            raise LabError(f"exercise {self.exercise}: first a prediction, then the run")
        run = _truth(self.exercise).run
        if run is None:
            raise LabError(f"exercise {self.exercise} is about no schedule: there is no block table to show")
        return BlockTableView(run, about=f"exercise {self.exercise}")

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        head, *rest = self.text.splitlines()
        if self.answer is None:
            return _lines(head, rest)
        table = _truth(self.exercise).table
        return _lines(head, rest) + html_table(f"the run: {table.title}", table.columns, table.rows)


@dataclass(frozen=True, eq=False, repr=False)
class Hint:
    """One step of an exercise's hints; a cell that ends with it shows it."""

    exercise: str
    step: int
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        head, *rest = self.text.splitlines()
        return _lines(head, rest)


def check(exercise: str, answer: object = None) -> Verdict:
    """Compare a prediction with the run. An answer that is missing or no number is said, not raised.

    Args:
        exercise: its name, such as "01-1".
        answer: the prediction, a number; None or `...` while there is none. Where a click is asked for, the
            view of `question`, in which a block is selected.

    Raises:
        UnknownOptionError: there is no such exercise; the nearest is named.
    """
    asked = _exercise(exercise)
    head, helps = f"Exercise {asked.name}", f'lab.hint("{asked.name}") helps.'
    answer, objection = _clicked(asked, answer)
    if objection:
        return Verdict(asked.name, None, None, f"{head}: {objection}.\n{helps}")
    if answer is None or answer is ...:
        return Verdict(asked.name, None, None, f"{head}: not answered yet ({asked.asks}).\n{helps}")
    given = _as_number(answer)
    if given is None:
        said = repr(answer) if len(repr(answer)) <= 40 else f"{repr(answer)[:39]}…"
        return Verdict(asked.name, None, None, f"{head}: {said} is not a number ({asked.asks}).\n{helps}")
    truth = _truth(asked.name)
    if given == truth.value:
        text = f"{head}: right, the run says {_value(asked, truth.value)}.\n{truth.why}"
        return Verdict(asked.name, given, True, text)
    run = f"the run says {number(truth.value)}"
    if not asked.shows:
        off, direction = abs(given - truth.value), "many" if given > truth.value else "few"
        run += f": {number(off)} too {direction}"
    why = truth.mistakes.get(given, "Follow the steps of the run below.")
    text = f"{head}: you predicted {_value(asked, given)}, {run}.\n{why}\n{helps}"
    return Verdict(asked.name, given, False, text)


def question(exercise: str) -> BlockTableView:
    """The picture in which a block is clicked as the answer; its run has come no further than the question.

    Raises:
        UnknownOptionError: there is no such exercise; the nearest is named.
        LabError: the exercise asks for a number.
    """
    from nano_batch.viz import BlockTableView

    asked = _exercise(exercise)
    if asked.shows is None:
        raise LabError(f"exercise {asked.name} asks for a number, not for a click")
    view = BlockTableView(asked.shows(), about=f"exercise {asked.name}")
    view.step = view._usage.steps  # as it stands now
    return view


def _clicked(asked: Exercise, answer: object) -> tuple[object, str]:
    """The answer, of a view the block selected in it; and what is wrong with the view."""
    from nano_batch.viz import BlockTableView
    from nano_batch.viz.run_view import event_log

    if not isinstance(answer, BlockTableView):
        return answer, ""
    if asked.shows is None:
        return None, f"a view is not a number ({asked.asks})"
    if answer._log != event_log(asked.shows()):
        return None, f'that view shows another run; click in that of lab.question("{asked.name}")'
    return (answer.selected.block if answer.selected.block >= 0 else None), ""


def _value(asked: Exercise, value: float) -> str:
    return f"{asked.unit} {number(value)}" if asked.shows else f"{number(value)} {asked.unit}"


_given_hints: dict[str, int] = {}


def hint(exercise: str, step: int | None = None) -> Hint:
    """The next hint of an exercise, or a given one (from 1). After the last one the last is repeated.

    Raises:
        UnknownOptionError: there is no such exercise; the nearest is named.
        InvalidArgumentError: there is no such step.
    """
    asked = _exercise(exercise)
    count = len(asked.hints)
    if step is None:
        step = min(_given_hints.get(asked.name, 0) + 1, count)
        _given_hints[asked.name] = step
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= count:
        raise InvalidArgumentError(f"step is {step!r}; exercise {asked.name} has hints 1 to {count}")
    text = f"Hint {step} of {count} for exercise {asked.name}:\n{asked.hints[step - 1]}"
    return Hint(asked.name, step, text)


def exercises() -> dict[str, Exercise]:
    """Every exercise by its name."""
    from nano_batch.lessons import (
        batching_exercises,
        block_tables,
        cache_exercises,
        engine_exercises,
        kernel_exercises,
        load_exercises,
        memory_exercises,
    )

    rooms = (
        block_tables,
        memory_exercises,
        batching_exercises,
        load_exercises,
        cache_exercises,
        kernel_exercises,
        engine_exercises,
    )
    return {exercise.name: exercise for room in rooms for exercise in room.EXERCISES}


def _exercise(name: str) -> Exercise:
    known = exercises()
    if name not in known:
        raise unknown_option("exercise", name, tuple(known))
    return known[name]


@cache
def _truth(name: str) -> Truth:
    find: Callable[[], Truth] = _exercise(name).find
    return find()


def _as_number(answer: Any) -> float | None:
    """The answer as a float; None where it is no finite number. Text such as "33" is taken as one."""
    if isinstance(answer, bool):
        return None
    try:
        given = float(answer)
    except (TypeError, ValueError, OverflowError):
        return None
    return given if math.isfinite(given) else None


def _lines(head: str, rest: list[str]) -> str:
    return f"<p><b>{escape(head)}</b>" + "".join(f"<br>{escape(line)}" for line in rest) + "</p>"
