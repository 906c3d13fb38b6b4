"""The simulator: the real scheduler in virtual time, and the cost models that say how long a step takes."""

from nano_batch.simulator.costs import Constant, Cost, Roofline, StepFeatures
from nano_batch.simulator.fleet import Fleet, simulate_fleet
from nano_batch.simulator.policies import OwnPolicy, PolicyColumns
from nano_batch.simulator.single import simulate

__all__ = [
    "Constant",
    "Cost",
    "Fleet",
    "OwnPolicy",
    "PolicyColumns",
    "Roofline",
    "StepFeatures",
    "simulate",
    "simulate_fleet",
]
