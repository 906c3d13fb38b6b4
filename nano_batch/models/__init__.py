"""Transformers that compute over a paged KV cache."""

from nano_batch.models.base import PagedInputs
from nano_batch.models.runner import PagedRunner
from nano_batch.models.tiny import TinyConfig, TinyTransformer

__all__ = ["PagedInputs", "PagedRunner", "TinyConfig", "TinyTransformer"]
