"""How many output tokens a second a cost model allows at most, at a load."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nano_batch.saturation.configuration import Configuration
from nano_batch.simulator import Constant
from nano_batch.workloads import Workload


def output_bound_per_s(configuration: Configuration, workload: Workload) -> float:
    """No schedule of the whole workload gives more output tokens a second, from first arrival to last end.

    A step gives a sequence at most one token, and there are at most as many sequences as `max_num_seqs` and
    the users of a closed loop: that is the fewest steps, each of which reads the weights once. All tokens
    are computed at the peak rate at best (without the logits), and each decode reads its context. In an open
    loop the last arrival bounds it as well.
    """
    outputs = workload.output_tokens
    at_once = min(configuration.max_num_seqs, workload.users or len(workload))
    steps = max(float(outputs.max()), float(outputs.sum()) / at_once)
    seconds = _seconds(configuration, workload, steps)
    if workload.users is None:
        seconds = max(seconds, workload.span_s)
    return float(outputs.sum()) / seconds


def _seconds(configuration: Configuration, workload: Workload, steps: float) -> float:
    cost = configuration.cost
    if isinstance(cost, Constant):
        in_turn = dict(configuration.options).get("steps_in_flight", 0) == 0
        return steps * (cost.device_s + cost.host_s if in_turn else max(cost.device_s, cost.host_s))
    flops = cost.weight_bytes if cost.flops_per_token is None else cost.flops_per_token
    prompts, outputs = workload.prompt_tokens, workload.output_tokens
    cached = (
        dict(configuration.options).get("enable_prefix_caching", True) and workload.block_size is not None
    )
    tokens = float((outputs - 1).sum()) + (0.0 if cached else float(prompts.sum()))
    linear = max(tokens * flops / cost.flops_per_s, steps * cost.weight_bytes / cost.bytes_per_s)
    window = dict(configuration.options).get("sliding_window")
    context = float(_decode_context(prompts, outputs, window).sum())
    return linear + steps * cost.overhead_s + context * cost.kv_bytes_per_token / cost.bytes_per_s


def _decode_context(
    prompts: NDArray[np.int64], outputs: NDArray[np.int64], window: int | None
) -> NDArray[np.float64]:
    """Keys that a request's decodes read: of p + 1, p + 2, … p + m − 1, each at most the window."""

    def up_to(last: NDArray[np.int64]) -> NDArray[np.float64]:
        inside = last if window is None else np.minimum(last, window)
        beyond = 0 if window is None else (last - inside) * window
        return inside * (inside + 1) / 2.0 + beyond

    return up_to(prompts + outputs - 1) - up_to(prompts)
