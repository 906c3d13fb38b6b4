"""Attention over a paged KV cache, and the plain dense form that it must equal."""

from nano_batch.attention.cuda.plan import DecodePlan
from nano_batch.attention.cuda.prefill_plan import PrefillPlan
from nano_batch.attention.dense import dense_attention
from nano_batch.attention.paged import (
    paged_attention_fwd,
    paged_attention_planned,
    paged_attention_prefill,
    paged_attention_writing,
)

__all__ = [
    "DecodePlan",
    "PrefillPlan",
    "dense_attention",
    "paged_attention_fwd",
    "paged_attention_planned",
    "paged_attention_prefill",
    "paged_attention_writing",
]
