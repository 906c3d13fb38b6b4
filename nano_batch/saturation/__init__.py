"""Where a configuration saturates, and which of its limits binds there (docs/saturation.md)."""

from nano_batch.saturation.bound import output_bound_per_s
from nano_batch.saturation.configuration import Configuration
from nano_batch.saturation.curve import LoadCurve, load_curve, load_workload
from nano_batch.saturation.limits import Binding, binding_limits

__all__ = [
    "Binding",
    "Configuration",
    "LoadCurve",
    "binding_limits",
    "load_curve",
    "load_workload",
    "output_bound_per_s",
]
