"""Workloads: the requests an engine or a simulator is given, drawn from a seed or read from a trace."""

from nano_batch.workloads.lengths import Families, Fixed, LogNormal, Quantiles, Uniform
from nano_batch.workloads.tables import TraceName, table
from nano_batch.workloads.workload import Workload

__all__ = ["Families", "Fixed", "LogNormal", "Quantiles", "TraceName", "Uniform", "Workload", "table"]
