"""The metrics of docs/metrics.md: each is defined there once, in symbols, and computed here once.

Functions take the columns of a run's records and give NumPy arrays or plain numbers; NaN where a metric is
not defined for a request.
"""

from nano_batch.metrics.latency import (
    TokenTimes,
    end_to_end_s,
    inter_token_latency_s,
    normalized_latency_s,
    token_times,
    tpot_s,
    ttft_s,
)
from nano_batch.metrics.rates import (
    SLO,
    Throughput,
    block_utilisation,
    completed,
    fairness,
    goodput_per_s,
    saturation_knee,
    throughput,
)
from nano_batch.metrics.schedule import (
    PrefillCosts,
    SlotTime,
    batch_slots,
    features,
    idle_share,
    longest_gap_s,
    prefill_costs,
    slot_time,
)
from nano_batch.metrics.slots import Waste, external_slots, final_stored_tokens, waste, waste_over_time
from nano_batch.metrics.steady import (
    Quantile,
    backlog_grows,
    in_system,
    quantile,
    quantiles,
    steady_window,
    step_means,
)
from nano_batch.metrics.summary import slot_shares, summary

__all__ = [
    "SLO",
    "PrefillCosts",
    "Quantile",
    "SlotTime",
    "Throughput",
    "TokenTimes",
    "Waste",
    "backlog_grows",
    "batch_slots",
    "block_utilisation",
    "completed",
    "end_to_end_s",
    "external_slots",
    "fairness",
    "features",
    "final_stored_tokens",
    "goodput_per_s",
    "idle_share",
    "in_system",
    "inter_token_latency_s",
    "longest_gap_s",
    "normalized_latency_s",
    "prefill_costs",
    "quantile",
    "quantiles",
    "saturation_knee",
    "slot_shares",
    "slot_time",
    "steady_window",
    "step_means",
    "summary",
    "throughput",
    "token_times",
    "tpot_s",
    "ttft_s",
    "waste",
    "waste_over_time",
]
