"""Kernels of a step's begin and end in CUDA C++, compiled at first use. Needs the extra `cuda`."""

from pathlib import Path

SOURCES = Path(__file__).parent
"""The folder of their sources."""
