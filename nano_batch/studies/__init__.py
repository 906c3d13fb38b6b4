"""What the notebooks compare: the same requests under several schemes and policies of the scheduler."""

from nano_batch.studies.batching import SCHEMES, Mix, gantt, serve_schemes
from nano_batch.studies.race import Board, first_difference, race

__all__ = ["SCHEMES", "Board", "Mix", "first_difference", "gantt", "race", "serve_schemes"]
