"""What the notebooks ask of runs: accounts of what happened, small experiments, exercises.

Every number comes from the real scheduler: a run's event log, or a run made for the question.
"""

from nano_batch.lessons.accounts import evictions, growth, preemptions
from nano_batch.lessons.exercises import Hint, Verdict, check, hint, question
from nano_batch.lessons.experiments import last_block, sharing

__all__ = [
    "Hint",
    "Verdict",
    "check",
    "evictions",
    "growth",
    "hint",
    "last_block",
    "preemptions",
    "question",
    "sharing",
]
