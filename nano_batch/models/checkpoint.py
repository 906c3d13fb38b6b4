"""Weights for a `PagedMistral`: from the safetensors of a Hugging Face folder, or drawn from a seed.

Files are memory-mapped and copied one tensor at a time to where the model keeps it, converted on the way: no
second copy of the model is made. Pickles are never opened: loading one runs the code in it.
"""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from nano_batch._choices import check_choice
from nano_batch.errors import CheckpointError, InvalidArgumentError, MissingExtraError
from nano_batch.models.mistral import MistralConfig, MistralName, PagedMistral
from nano_batch.models.mistral_config import read_config
from nano_batch.models.parallel import WHOLE, Shard

LoadFormat = Literal["auto", "dummy"]
READ_DTYPES = ("BF16", "F16", "F32")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
INDEX = "model.safetensors.index.json"


def load_mistral(
    folder_or_name: str | Path,
    *,
    load_format: LoadFormat = "auto",
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    shard: Shard = WHOLE,
) -> PagedMistral:
    """Make a model with the weights of a checkpoint, or with random ones.

    Args:
        folder_or_name: a folder with `config.json` and `model.safetensors`, whole or in shards with
            `model.safetensors.index.json`; for `load_format="dummy"` a folder with a `config.json`, or a name
            of `nano_batch.models.mistral.SHAPES`.
        load_format: "auto" reads the weights, in bfloat16, float16 or float32; "dummy" draws them.
        seed: of "dummy"; on devices of one kind it gives the same weights again.
        dtype: of the model; None, the config's.
        device: where the weights go.
        shard: the part of the model to make: the rest is not read, and drawn weights are those of the whole.

    Raises:
        CheckpointError: lists everything that is wrong: tensors missing, unknown, of another shape or dtype,
            another architecture, files missing or damaged, or weights in pickles only.
        UnknownOptionError, InvalidArgumentError, DtypeError, DeviceError.
        MissingExtraError: the package safetensors is not installed.
    """
    config = config_for(folder_or_name, load_format)
    model = PagedMistral(config, dtype=dtype, device=device, shard=shard)
    if load_format == "auto":
        _read_weights(model, Path(folder_or_name))
    else:
        draw_weights(model, seed)
    return model


def config_for(folder_or_name: str | Path, load_format: LoadFormat) -> MistralConfig:
    """The shapes of the model that `load_mistral` makes; arguments and errors are its own."""
    check_choice("load_format", load_format, LoadFormat)
    folder = Path(folder_or_name)
    if load_format == "auto":
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is not a folder; a name has weights with load_format='dummy' only"
            )
        return read_config(folder)
    # A folder may be called like a shape: the name wins, for it means the same everywhere.
    if str(folder_or_name) in get_args(MistralName) or not folder.is_dir():
        return MistralConfig.named(str(folder_or_name))  # type: ignore[arg-type]
    return read_config(folder)


def draw_weights(model: PagedMistral, seed: int) -> None:
    """Draw normal numbers of variance 1 / columns, so that activations keep their size at any width.

    They are drawn in float32 and rounded: every dtype gets the same model, as near as it can hold it.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidArgumentError(f"seed={seed!r} is not a whole number from 0 to 2^63 - 1")
    generator = torch.Generator(model.device).manual_seed(seed)
    for name, view in model.state_dict().items():
        if view.dim() == 1:
            view.fill_(1.0)
            continue
        whole, part = model.shard.place(name, view.shape)
        drawn = torch.randn(whole, generator=generator, device=model.device, dtype=torch.float32)
        view.copy_(drawn[part].mul_(1 / math.sqrt(whole[1])))


def _read_weights(model: PagedMistral, folder: Path) -> None:
    safetensors = _safetensors()
    targets, problems = model.state_dict(), list[str]()
    with ExitStack() as stack:
        sources: dict[str, Any] = {}
        for path in weight_files(folder):
            try:
                file = stack.enter_context(safetensors.safe_open(path, framework="pt", device="cpu"))
            except (safetensors.SafetensorError, OSError) as error:
                problems.append(f"{path.name} cannot be read: {error}")
                continue
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                if name in sources:
                    problems.append(f"{name} is in two files")
                sources[name] = file
        # Buffers that old versions saved: computed from the config here.
        names = {name for name in sources if not name.endswith(".rotary_emb.inv_freq")}
        tied = {"lm_head.weight"} & names if model.config.tie_word_embeddings else set()
        problems += [f"{name} is missing" for name in sorted(targets.keys() - names)]
        problems += [f"{name} is unknown" for name in sorted(names - targets.keys() - tied)]
        for name in sorted(names & targets.keys()):
            whole, _ = model.shard.place(name, targets[name].shape)
            problems += _misfits(name, sources[name].get_slice(name), whole)
        if tied and not problems and not _same_as_embedding(sources):
            problems.append("lm_head.weight differs from the embedding, to which config.json ties it")
        if problems:
            raise CheckpointError(f"{folder} holds no weights for {model!r}: " + "; ".join(problems))
        for name, target in targets.items():
            _, part = model.shard.place(name, target.shape)
            target.copy_(sources[name].get_slice(name)[part])


def _misfits(name: str, stored: Any, needed: list[int]) -> list[str]:
    problems = []
    if list(stored.get_shape()) != needed:
        problems.append(f"{name} has shape {list(stored.get_shape())}; it needs {needed}")
    if stored.get_dtype() not in READ_DTYPES:
        problems.append(f"{name} is {stored.get_dtype()}; it needs one of {', '.join(READ_DTYPES)}")
    return problems


def _same_as_embedding(sources: dict[str, Any]) -> bool:
    head, embedding = (
        sources[name].get_tensor(name) for name in ("lm_head.weight", "model.embed_tokens.weight")
    )
    return torch.equal(head, embedding)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint's folder.

    Raises `CheckpointError` when there are none, or those that the index names are not all there.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        reason = f"; {', '.join(pickles)}: pickles are never loaded, convert them to safetensors"
        raise CheckpointError(
            f"{folder} has neither model.safetensors nor {INDEX}" + (reason if pickles else "")
        )
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX} is not an index of shards: {error!r}") from error
    # An index may come from anyone: it names files of its own folder, nothing else.
    strange = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    missing = [name for name in names if name not in strange and not (folder / name).is_file()]
    if strange or missing or not names:
        problems = [f"{name!r} is no file of this folder" for name in strange]
        problems += [f"{name} is missing" for name in missing] + ["it names no file"] * (not names)
        raise CheckpointError(f"{folder / INDEX}: " + "; ".join(problems))
    return [folder / name for name in names]


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise MissingExtraError(
            "checkpoints are read by safetensors: install the extra 'engine' "
            "(pip install 'nano-batch[engine]')"
        ) from error
    return safetensors
