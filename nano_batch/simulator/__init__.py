"""The simulator: the real scheduler in virtual time, and the cost models that say how long a step takes."""

from nano_batch.simulator.cards import HardwareCard, ModelCard, hardware_card, memory_tokens, model_card
from nano_batch.simulator.costs import Constant, Cost, Roofline, StepFeatures
from nano_batch.simulator.fleet import Fleet, simulate_fleet
from nano_batch.simulator.policies import OwnPolicy, PolicyColumns
from nano_batch.simulator.profiles import Profile
from nano_batch.simulator.single import simulate

__all__ = [
    "Constant",
    "Cost",
    "Fleet",
    "HardwareCard",
    "ModelCard",
    "OwnPolicy",
    "PolicyColumns",
    "Profile",
    "Roofline",
    "StepFeatures",
    "hardware_card",
    "memory_tokens",
    "model_card",
    "simulate",
    "simulate_fleet",
]
