"""Benchmarks: each module `NAME` has `run() -> dict`, printed by `nano-batch bench NAME --json`."""
