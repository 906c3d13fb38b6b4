"""From a CUDA source to a binary that is kept on disk. Needs no GPU.

A source is compiled by NVRTC, NVIDIA's compiler as a library, with its configuration as macros: one small
binary for each combination that is really used, and no compiler on the user's machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nano_batch.cache_folder import cache_folder
from nano_batch.cuda.entries import read_entry, write_entry
from nano_batch.errors import InvalidArgumentError, KernelCompileError, MissingExtraError

SHARED = Path(__file__).parent
"""Headers of all sources; those of one room lie beside its sources."""
FORMAT = 2
"""Counts the forms of an entry on disk."""
INSTALL = "install the extra 'cuda' (pip install 'nano-batch[cuda]')"
BROUGHT = "CUDA's compiler and headers come with a PyTorch that is built for CUDA 13"

Macro = int | str


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a multiprocessor."""

    registers: int  # 32-bit registers of a thread
    spill_bytes: int  # bytes of a thread's registers that were stored to memory and loaded again
    stack_bytes: int  # bytes of local memory of a thread
    shared_bytes: int  # bytes of shared memory of a block that are known at compile time
    serialized: bool  # the assembler awaits each of Hopper's products at once: it sees ways around the wait


@dataclass(frozen=True)
class Compiled:
    """The binary of one source, configuration and architecture."""

    cubin: bytes
    resources: Mapping[str, Resources]  # by the kernel's name

    def registers(self, kernel: str) -> int:
        """32-bit registers that a thread of the kernel takes."""
        return self.resources[kernel].registers

    @property
    def spills(self) -> int:
        """Bytes spilled by all kernels together."""
        return sum(one.spill_bytes for one in self.resources.values())


def compiled(source: Path, defines: Mapping[str, Macro], arch: str) -> Compiled:
    """Compile a source, or take what an earlier process kept.

    Args:
        source: the file, as `SOURCES / "cache.cu"` of `nano_batch.attention.cuda`.
        defines: the macros of the configuration.
        arch: the architecture, as `sm_80` or `sm_90a`.

    Raises:
        MissingExtraError: the extra `cuda` is not installed.
        KernelCompileError: the source does not compile; with the compiler's log.
        InvalidArgumentError: there is no such source.
    """
    text = _text(source)
    options: dict[str, Any] = {
        "std": "c++17",
        "arch": arch,
        "define_macro": [(name, str(value)) for name, value in sorted(defines.items())] or None,
        "ptxas_options": ["-v"],
    }
    path = cache_folder("kernels") / f"{source.stem}-{_key(source, options)}.bin"
    if (kept := read_entry(path)) is not None:
        described, _, cubin = kept.partition(b"\n")
        kernels = {name: Resources(**values) for name, values in json.loads(described).items()}
        return Compiled(cubin, kernels)
    made = _compile(source, text, options)
    described = json.dumps({name: vars(one) for name, one in made.resources.items()}).encode()
    write_entry(path, described + b"\n" + made.cubin)
    return made


def _text(source: Path) -> str:
    if source.suffix != ".cu" or not source.is_file():
        known = ", ".join(sorted(file.name for file in source.parent.glob("*.cu")))
        raise InvalidArgumentError(f"there is no CUDA source {source.name!r}; there are {known}")
    return source.read_text(encoding="utf-8")


def _includes(source: Path) -> list[Path]:
    """The folders of the source's headers, in the order in which they are searched."""
    return [source.parent, SHARED]


def _key(source: Path, options: Mapping[str, Any]) -> str:
    """A name for all that the binary depends on: sources, options, compiler."""
    headers = [file for folder in _includes(source) for file in sorted(folder.glob("*.cuh"))]
    texts = [(file.name, file.read_text(encoding="utf-8")) for file in [source, *headers]]
    depends = [FORMAT, texts, options, _toolchain()[0]]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _toolchain() -> tuple[str, list[str]]:
    """The compiler's version and the folders of NVIDIA's headers."""
    try:
        from cuda.bindings import nvrtc
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError as error:
        raise MissingExtraError(f"CUDA kernels need NVIDIA's cuda-core: {INSTALL}") from error
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:  # the loader's own error, whose class differs between versions
        raise MissingExtraError(f"NVRTC does not load ({error}); {BROUGHT}") from error
    headers = find_nvidia_header_directory("cudart")
    if headers is None:
        raise MissingExtraError(f"NVIDIA's CUDA headers are not found; {BROUGHT}")
    return f"{major}.{minor}", [headers]


def _compile(source: Path, text: str, options: Mapping[str, Any]) -> Compiled:
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise MissingExtraError(f"CUDA kernels need NVIDIA's cuda-core: {INSTALL}") from error
    log = io.StringIO()
    folders = [*map(str, _includes(source)), *_toolchain()[1]]
    try:
        program = Program(text, "c++", ProgramOptions(name=source.name, include_path=folders, **options))
        cubin = bytes(program.compile("cubin", logs=log).code)
    except Exception as error:  # cuda.core's classes of errors are not public
        macros = " ".join(f"-D{name}={value}" for name, value in options["define_macro"] or ())
        raise KernelCompileError(
            f"{source.name} for {options['arch']} with {macros or 'no macros'}: {error}"
        ) from error
    return Compiled(cubin, _resources(log.getvalue()))


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<stored>\d+) bytes spill stores, (?P<loaded>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SERIALIZED = re.compile(r"wgmma[^\n]* serialized [^\n]* function '(\w+)'")


def _resources(log: str) -> dict[str, Resources]:
    """Read what the assembler says of each kernel."""
    kernels, serialized = {}, set(_SERIALIZED.findall(log))
    for found in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        kernels[found["name"]] = Resources(
            registers=int(found["registers"]),
            spill_bytes=int(found["stored"]) + int(found["loaded"]),
            stack_bytes=int(found["stack"]),
            shared_bytes=int(shared[1]) if shared else 0,
            serialized=found["name"] in serialized,
        )
    return kernels
