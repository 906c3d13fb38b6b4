"""The inference engine: a model served through the Rust scheduler and the paged KV cache."""

from nano_batch.engine.async_engine import AsyncInferenceEngine
from nano_batch.engine.inference_engine import InferenceEngine
from nano_batch.engine.outputs import RequestMetrics, RequestOutput, SequenceOutput, TokenLogprobs
from nano_batch.engine.sampling_params import SamplingParams

__all__ = [
    "AsyncInferenceEngine",
    "InferenceEngine",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "SequenceOutput",
    "TokenLogprobs",
]
