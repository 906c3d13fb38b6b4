"""What the notebooks compare: the same requests under several schemes and policies of the scheduler."""

from nano_batch.studies.batching import SCHEMES, Mix, gantt, serve_schemes
from nano_batch.studies.budget import budget
from nano_batch.studies.gain import gain
from nano_batch.studies.giving_way import giving_way
from nano_batch.studies.race import Board, first_difference, race

__all__ = [
    "SCHEMES",
    "Board",
    "Mix",
    "budget",
    "first_difference",
    "gain",
    "gantt",
    "giving_way",
    "race",
    "serve_schemes",
]
