"""Attention and cache kernels in CUDA C++, compiled at first use. Needs the extra `cuda` and a device."""

from pathlib import Path

SOURCES = Path(__file__).parent
"""The folder of their sources."""
