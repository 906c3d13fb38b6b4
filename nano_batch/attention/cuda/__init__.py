"""Attention and cache kernels in CUDA C++, compiled at first use. Needs the extra `cuda` and a device."""
