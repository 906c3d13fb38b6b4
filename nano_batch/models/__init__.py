"""Transformers that compute over a paged KV cache."""

from nano_batch.models.base import PagedInputs
from nano_batch.models.checkpoint import load_mistral
from nano_batch.models.mistral import MistralConfig, PagedMistral
from nano_batch.models.rope_scaling import RopeScaling
from nano_batch.models.runner import PagedRunner
from nano_batch.models.tiny import TinyConfig, TinyTransformer

__all__ = [
    "MistralConfig",
    "PagedInputs",
    "PagedMistral",
    "PagedRunner",
    "RopeScaling",
    "TinyConfig",
    "TinyTransformer",
    "load_mistral",
]
