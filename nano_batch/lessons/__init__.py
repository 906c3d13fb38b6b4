"""What the notebooks ask of runs: accounts of what happened, small experiments, exercises.

Every number comes from the real scheduler: a run's event log, or a run made for the question.
"""

from nano_batch.lessons.accounts import evictions, growth, preemptions
from nano_batch.lessons.block_sizes import block_sizes, gpu_memory
from nano_batch.lessons.decode_step import DecodeStep
from nano_batch.lessons.engine_speed import engine_latency, engine_scaling, engine_throughput
from nano_batch.lessons.exercises import Hint, Verdict, check, hint, question
from nano_batch.lessons.experiments import last_block, sharing
from nano_batch.lessons.fragmentation import allocators, holes, memory_split
from nano_batch.lessons.kernel_speed import kernel_speed
from nano_batch.lessons.prefix_cache import hit_rates, prefix_hits
from nano_batch.lessons.reads_view import blocks_read
from nano_batch.lessons.shares_view import tile_shares
from nano_batch.lessons.warp_view import warp_reads

__all__ = [
    "DecodeStep",
    "Hint",
    "Verdict",
    "allocators",
    "block_sizes",
    "blocks_read",
    "check",
    "engine_latency",
    "engine_scaling",
    "engine_throughput",
    "evictions",
    "gpu_memory",
    "growth",
    "hint",
    "hit_rates",
    "holes",
    "kernel_speed",
    "last_block",
    "memory_split",
    "preemptions",
    "prefix_hits",
    "question",
    "sharing",
    "tile_shares",
    "warp_reads",
]
