"""Kernels of the package compiled for the CPU with g++ (cpu_cuda.h), launched as on a device."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cuda.pathfinder
import torch

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "nano_batch" / "attention" / "cuda"
FLAGS = ("-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-w", "-DNANO_BATCH_ON_CPU")


class CpuKernel:
    """A kernel that runs on the CPU; `backwards` runs its threads in the opposite order."""

    def __init__(self, source: str, defines: Mapping[str, int | str], entry: str, *, backwards: bool = False,
                 sanitize: bool = False, folder: Path | None = None) -> None:  # fmt: skip
        folder = folder or Path(tempfile.gettempdir())
        text = (
            f'#include "cpu_cuda.h"\n#include "{source}"\n'
            'extern "C" void launch(unsigned grid, unsigned block, size_t shared, void** arguments, int b)\n'
            f"{{ cpu::backwards = b; cpu::launch({entry}, grid, block, shared, arguments); }}\n"
        )
        headers = cuda.pathfinder.find_nvidia_header_directory("cudart")
        flags = [*FLAGS, *(f"-D{name}={value}" for name, value in defines.items()),
                 *(f"-I{path}" for path in (HERE, SOURCES, headers))]  # fmt: skip
        if sanitize:
            flags += ["-fsanitize=address"]
        content = [path.read_bytes() for path in sorted((*HERE.glob("*.h"), *SOURCES.glob("*.cu*")))]
        key = hashlib.sha256(repr((text, flags)).encode() + b"".join(content)).hexdigest()[:24]
        library = folder / f"nano_batch_{key}.so"
        if not library.exists():
            part = folder / f"{library.name}.{id(self)}.part"
            command = ["g++", *flags, "-x", "c++", "-", "-o", str(part)]
            subprocess.run(command, input=text.encode(), check=True)
            part.rename(library)
        self._launch = ctypes.CDLL(str(library)).launch
        self._backwards = backwards

    def launch(
        self, grid: tuple[int, ...], block: int, smem: int, args: Sequence[object], pdl: bool = False
    ) -> None:
        """As `nano_batch.attention.cuda.program.Kernel.launch`."""
        values = [
            _address(value) if value is None or isinstance(value, torch.Tensor) else value for value in args
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        count = 1
        for size in grid:
            count *= size
        self._launch(
            ctypes.c_uint(count), ctypes.c_uint(block), ctypes.c_ulong(smem), pointers, int(self._backwards)
        )


def _address(tensor: torch.Tensor | None) -> ctypes.c_uint64:
    return ctypes.c_uint64(0 if tensor is None else tensor.data_ptr())
