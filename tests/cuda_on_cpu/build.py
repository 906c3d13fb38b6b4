"""Kernels of the package compiled for the CPU with g++ (cpu_cuda.h), launched as on a device."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "nano_batch" / "cuda"
# Shared memory in an inline function is a symbol that all libraries would share, with the first one's size.
FLAGS = ("-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-w", "-fno-gnu-unique", "-DNANO_BATCH_ON_CPU")
SANITIZE = ("-fsanitize=address", "-fno-omit-frame-pointer")


class CpuKernel:
    """A kernel that runs on the CPU; `backwards` runs its threads and blocks in the opposite order."""

    def __init__(self, source: Path, defines: Mapping[str, int | str], entry: str, *,
                 folder: Path | None = None, backwards: bool = False,
                 sanitize: bool = False) -> None:  # fmt: skip
        library = build(source, defines, entry, folder or Path(tempfile.gettempdir()), sanitize)
        self._launch = ctypes.CDLL(str(library)).launch
        self._backwards = backwards

    def launch(
        self, grid: tuple[int, ...], block: int, smem: int, args: Sequence[object], pdl: bool = False
    ) -> None:
        """As `nano_batch.cuda.launch.Kernel.launch`."""
        values = [
            _address(value) if value is None or isinstance(value, torch.Tensor) else value for value in args
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = (ctypes.c_uint * 3)(*grid)
        self._launch(sizes, ctypes.c_uint(block), ctypes.c_ulong(smem), pointers, int(self._backwards))


def build(
    source: Path, defines: Mapping[str, int | str], entry: str, folder: Path, sanitize: bool = False
) -> Path:
    """The library of one entry, made unless `folder` has it."""
    text = (
        f'#include "cpu_cuda.h"\n#include "{source.name}"\n'
        'extern "C" void launch(const unsigned* grid, unsigned block, size_t shared, void** values, int b)\n'
        f"{{ cpu::backwards = b; cpu::launch({entry}, grid, block, shared, values); }}\n"
    )
    flags = [*FLAGS, *(f"-D{name}={value}" for name, value in defines.items()),
             *(f"-I{path}" for path in (HERE, source.parent, SHARED, _headers()))]  # fmt: skip
    flags += SANITIZE if sanitize else ()
    ours = (*HERE.glob("*.h"), *source.parent.glob("*.cu*"), *SHARED.glob("*.cuh"))
    content = [path.read_bytes() for path in sorted(ours)]
    key = hashlib.sha256(repr((text, flags)).encode() + b"".join(content)).hexdigest()[:24]
    library = folder / f"nano_batch_{key}.so"
    if not library.exists():
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
            command = ["g++", *flags, "-x", "c++", "-", "-o", part.name]
            subprocess.run(command, input=text.encode(), check=True)
        os.replace(part.name, library)
    return library


@cache
def _headers() -> str:
    from cuda.pathfinder import find_nvidia_header_directory

    return find_nvidia_header_directory("cudart")


def _address(tensor: torch.Tensor | None) -> ctypes.c_uint64:
    return ctypes.c_uint64(0 if tensor is None else tensor.data_ptr())
