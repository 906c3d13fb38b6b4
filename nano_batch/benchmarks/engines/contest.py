"""One model on one device, and the engines that serve it."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from nano_batch.benchmarks.engines.base import EngineUnderTest
from nano_batch.benchmarks.engines.limit import Limit, card_of
from nano_batch.benchmarks.engines.ours import NanoBatch
from nano_batch.benchmarks.engines.rates import Rates, measure_rates, sustained_rates
from nano_batch.benchmarks.engines.rows import LIMIT, SUSTAINED, TWO_DEVICES
from nano_batch.benchmarks.engines.transformers_batch import TransformersBatch
from nano_batch.benchmarks.engines.transformers_generate import (
    TransformersGenerate,
    TransformersGenerateSingle,
)
from nano_batch.benchmarks.engines.two_devices import NanoBatchOnTwo
from nano_batch.benchmarks.engines.work import CPU_CASES, CUDA_CASES, Case
from nano_batch.benchmarks.report import machine, torch_versions
from nano_batch.models import load_mistral

KINDS: tuple[Any, ...] = (NanoBatch, TransformersBatch, TransformersGenerate, TransformersGenerateSingle)
ENGINES: tuple[str, ...] = (LIMIT, SUSTAINED, *(kind.name for kind in KINDS), TWO_DEVICES)
DEFAULT_MODEL = {"cuda": "mistral-7b-v0.1", "cpu": "tiny"}


class Contest:
    """Random weights of a named shape, which all engines share: in bf16 on a CUDA device, in fp32 on a CPU.

    Args:
        model: a name of `nano_batch.models.mistral.SHAPES`; None, Mistral 7B on CUDA and "tiny" on a CPU.

    Raises:
        UnknownOptionError: there is no such shape; the nearest is named.
    """

    def __init__(self, model: str | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model_name = model or DEFAULT_MODEL[self.device.type]
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.model = load_mistral(self.model_name, load_format="dummy", dtype=dtype, device=self.device)

    @property
    def cases(self) -> list[Case]:
        """All that are measured on such a device."""
        return CUDA_CASES if self.device.type == "cuda" else CPU_CASES

    @property
    def vocab_size(self) -> int:
        """Words of the model."""
        return self.model.config.vocab_size

    @property
    def file_name(self) -> str:
        """Of what is measured: with the model's name where it is not the one that a GPU serves by default."""
        named = "" if self.model_name == DEFAULT_MODEL["cuda"] else f"_{self.model_name}"
        device = self.about()["device"] if self.device.type == "cuda" else "cpu"
        return f"engine_{'_'.join(device.lower().removeprefix('nvidia ').split())}{named}.json"

    def about(self) -> dict[str, Any]:
        """What all rows of a file have in common: device, model and dtype."""
        on_cuda = self.device.type == "cuda"
        device = torch.cuda.get_device_name(self.device) if on_cuda else machine()["processor"]
        return {
            "device": device,
            "model": self.model_name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def session(self) -> dict[str, Any]:
        """What the rows of one run have in common: versions, threads, and the measured rates."""
        found: dict[str, Any] = {
            "versions": {**torch_versions(), "transformers": _version("transformers")},
            "threads": torch.get_num_threads(),
        }
        # Only what was measured: the limit may not be among the engines of this run.
        for name in ("rates", "sustained_rates"):
            if name in vars(self):
                found[name] = getattr(self, name).as_json()
        return found

    @cached_property
    def rates(self) -> Rates:
        """Of short runs."""
        return measure_rates(self.model)

    @cached_property
    def sustained_rates(self) -> Rates:
        """Of seconds: a processor's are no others."""
        return sustained_rates(self.model, self.rates) if self.device.type == "cuda" else self.rates

    def engine(self, name: str) -> EngineUnderTest:
        """One of `ENGINES`, over this model."""
        if name == LIMIT:
            return Limit(card_of(self.model), self.rates)
        if name == SUSTAINED:
            return Limit(card_of(self.model), self.sustained_rates, SUSTAINED)
        if name == TWO_DEVICES:
            return NanoBatchOnTwo(self.model_name, self.model.dtype)
        made: EngineUnderTest = next(kind for kind in KINDS if kind.name == name)(self.model)
        return made


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
