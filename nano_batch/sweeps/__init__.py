"""Sweeps: many simulations side by side, each kept on disk as soon as it is done (docs/sweeps.md)."""

from nano_batch.sweeps.config import read_config
from nano_batch.sweeps.sweep import sweep

__all__ = ["read_config", "sweep"]
