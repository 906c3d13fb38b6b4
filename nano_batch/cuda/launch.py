"""A compiled kernel on a device, started on PyTorch's current stream."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nano_batch.cuda.program import INSTALL, Macro, compiled
from nano_batch.errors import DeviceError, KernelLaunchError, MissingExtraError

Argument = torch.Tensor | ctypes._SimpleCData | ctypes.Structure | None  # type: ignore[type-arg]
"""A tensor is passed as its address, None as a null pointer, all else as the C type that it is given as."""
LARGEST_INT = 2**31 - 1
"""Of a parameter of type int."""
DEFAULT_SHARED_BYTES = 48 * 1024
"""Dynamic shared memory of a block that a kernel gets without asking."""
WHOLE_SHARED_BYTES = 226 * 1024
"""Dynamic shared memory of a block that has a multiprocessor of Hopper for itself, beside its barriers."""
OVERLAP_CAPABILITY = (9, 0)
"""The first devices that have programmatic dependent launch."""
HOPPER = "sm_90a"
"""The architecture that `hopper.cuh` is written for."""
_KEPT_CONFIGURATIONS = 256


class Kernel:
    """One entry point of a program, loaded into the context that PyTorch uses on a device."""

    def __init__(self, source: Path, defines: Mapping[str, Macro], entry: str, device: int) -> None:
        """Compile or find the program, load it, and look `entry` up. Errors as in `kernel`."""
        self.name = f"{entry} of {source.name}"
        self.device = device
        self._driver = _driver()
        program = compiled(source, defines, architecture(device))
        torch.cuda.current_device()  # initialises the driver
        self._context = self._call("cuDevicePrimaryCtxRetain", self._call("cuDeviceGet", device))
        with torch.cuda.device(device):
            self._call("cuCtxSetCurrent", self._context)  # PyTorch puts it off until it calls the runtime
            self._module = self._call("cuModuleLoadData", program.cubin)
            self._function = self._call("cuModuleGetFunction", self._module, entry.encode())
        self._shared_allowed = DEFAULT_SHARED_BYTES
        self._overlaps = torch.cuda.get_device_capability(device) >= OVERLAP_CAPABILITY
        self._configurations: dict[tuple[Any, ...], Any] = {}

    def launch(
        self,
        grid: tuple[int, int, int],
        block: int,
        smem: int,
        args: Sequence[Argument],
        pdl: bool = False,
    ) -> None:
        """Start the kernel on the current stream of its device, without waiting for it.

        Args:
            grid: blocks in x, y and z.
            block: threads of a block.
            smem: bytes of dynamic shared memory of a block.
            args: the parameters in order; a number is a ctypes scalar of the parameter's own type, and a
                struct a ctypes structure.
            pdl: let the kernel begin while the one before it in the stream ends (programmatic dependent
                launch, where the device has it); the kernel itself waits where it needs the other's results.

        Raises:
            KernelLaunchError: the driver refuses; the message has its reason.
        """
        if smem > self._shared_allowed:
            self._allow_shared(smem)
        # The driver copies what the addresses point to before the call returns.
        values = (ctypes.c_uint64 * len(args))()
        addresses = (ctypes.c_void_p * len(args))()
        place = ctypes.addressof(values)
        for index, arg in enumerate(args):
            if isinstance(arg, torch.Tensor):
                values[index] = arg.data_ptr()
            elif arg is not None:
                addresses[index] = ctypes.addressof(arg)
                continue
            addresses[index] = place + 8 * index
        if torch.cuda.current_device() == self.device:
            self._start(grid, block, smem, ctypes.addressof(addresses), pdl)
        else:
            with torch.cuda.device(self.device):
                self._start(grid, block, smem, ctypes.addressof(addresses), pdl)

    def _start(self, grid: tuple[int, int, int], block: int, smem: int, addresses: int, pdl: bool) -> None:
        # The raw handle: a `torch.cuda.Stream` object costs more than the launch.
        stream = torch._C._cuda_getCurrentRawStream(self.device)
        key = (grid, block, smem, pdl, stream)
        configuration = self._configurations.get(key)
        if configuration is None:
            configuration = self._configure(*key)
        launch = self._driver.cuLaunchKernelEx
        (status,) = launch(configuration, self._function, addresses, 0)
        if status == self._driver.CUresult.CUDA_ERROR_INVALID_CONTEXT:
            # This thread's first CUDA call.
            self._call("cuCtxSetCurrent", self._context)
            (status,) = launch(configuration, self._function, addresses, 0)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise KernelLaunchError(f"{self.name}, grid {grid}, {block} threads, {smem} B: {status.name}")

    def _configure(self, grid: tuple[int, int, int], block: int, smem: int, pdl: bool, stream: int) -> Any:
        driver = self._driver
        configuration = driver.CUlaunchConfig()
        configuration.gridDimX, configuration.gridDimY, configuration.gridDimZ = grid
        configuration.blockDimX, configuration.blockDimY, configuration.blockDimZ = block, 1, 1
        configuration.sharedMemBytes = smem
        configuration.hStream = driver.CUstream(stream)
        if pdl and self._overlaps:
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            configuration.attrs = [attribute]
            configuration.numAttrs = 1
        if len(self._configurations) >= _KEPT_CONFIGURATIONS:
            self._configurations = {}
        self._configurations[grid, block, smem, pdl, stream] = configuration
        return configuration

    def _allow_shared(self, smem: int) -> None:
        most = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._call("cuFuncSetAttribute", self._function, most, smem)
        self._shared_allowed = smem

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._driver, name)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise KernelLaunchError(f"{self.name}: {name} says {status.name}")
        return results[0] if results else None


def kernel(source: Path, defines: Mapping[str, Macro], entry: str, device: torch.device | int) -> Kernel:
    """The entry point of a program on a device; made at the first call, the same object afterwards.

    Args:
        source, defines: as in `compiled`.
        entry: the name of an `extern "C" __global__` function of the source.
        device: a CUDA device; without an index, the current one.

    Raises:
        DeviceError: it is no CUDA device, or there is none.
        MissingExtraError, KernelCompileError, KernelLaunchError, InvalidArgumentError.
    """
    return _kernel(source, frozenset(defines.items()), entry, device_index(device))


@cache
def _kernel(source: Path, defines: frozenset[tuple[str, Macro]], entry: str, device: int) -> Kernel:
    return Kernel(source, dict(defines), entry, device)


def device_index(device: torch.device | int) -> int:
    """The index of a CUDA device. Raises `DeviceError` where there is none."""
    if isinstance(device, int):
        return device
    if device.type != "cuda":
        raise DeviceError(f"device='{device}' runs no CUDA kernel; backend='torch' needs no CUDA device")
    if device.index is not None:
        return device.index
    if not torch.cuda.is_available():
        raise DeviceError(f"device='{device}': there is no CUDA device here; backend='torch' needs none")
    return torch.cuda.current_device()


@cache
def architecture(device: int) -> str:
    """The name of a device's architecture for the compiler: `sm_80`; `sm_90a` has what only Hopper has."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}" + ("a" if major == 9 else "")


@cache
def is_hopper(device: torch.device) -> bool:
    """Whether a device has what `hopper.cuh` is written for."""
    return device.type == "cuda" and architecture(device_index(device)) == HOPPER


@cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise MissingExtraError(f"CUDA kernels need NVIDIA's cuda-bindings: {INSTALL}") from error
    return driver
