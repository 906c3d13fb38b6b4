"""The one way to choose a workload in a notebook: built in, by path, or uploaded."""

from nano_batch.picker.widget import WorkloadPicker, pick_workload

__all__ = ["WorkloadPicker", "pick_workload"]
