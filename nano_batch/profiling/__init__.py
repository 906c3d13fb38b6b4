"""Measuring a device: the tables of a `Profile`, with torch's own kernels."""

from nano_batch.profiling.measure import measure_profile

__all__ = ["measure_profile"]
