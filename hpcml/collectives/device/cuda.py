"""CUDA through CuPy: the runtime of real GPUs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.collectives.device.kernels import code
from hpcml.collectives.device.runtime import Event, Memory, Runtime

NUMBA, TORCH = "numba", "torch"
THREADS = 256
BLOCKS_PER_PROCESSOR = 8
HANDLE = 64  # bytes of CUDA's own
BUFFER_ID = 7  # CU_POINTER_ATTRIBUTE_BUFFER_ID
OPTIONS = ("-std=c++17", "-fmad=false")  # without fused multiply-adds the bits are NumPy's


def runtime_of_pointer(pointer: int) -> Runtime:
    """The runtime of the device that memory is on; 0: of the current one."""
    runtime = _cupy().cuda.runtime
    try:
        return _runtime(runtime.pointerGetAttributes(pointer).device if pointer else runtime.getDevice())
    except runtime.CUDARuntimeError as error:
        raise TypeError(f"an array is said to be in GPU memory, but CUDA does not find it: {error}") from error


@cache
def _runtime(device: int) -> Cuda:
    return Cuda(device)


@cache
def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise TypeError(
            "arrays in GPU memory need CuPy: pip install 'hpcml[cuda]' for CUDA 13, or cupy-cuda12x for CUDA 12"
        ) from error
    return cupy


class _Event(Event):
    def __init__(self, event: Any) -> None:
        self._event = event
        self.handle: int = event.ptr

    def done(self) -> bool:
        return self._event.done

    def synchronize(self) -> None:
        self._event.synchronize()


class _Pooled(Memory):
    """Of CuPy's pool."""

    def __init__(self, memory: Any) -> None:
        self.memory, self.pointer = memory, memory.ptr


class _Plain(Memory):
    """Of cudaMalloc itself: a pool's may be such that there is no handle of it."""

    def __init__(self, runtime: Any, nbytes: int) -> None:
        self._runtime = runtime
        self.pointer = runtime.malloc(nbytes)

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self._runtime.free(self.pointer)


class Cuda(Runtime):
    """One GPU."""

    def __init__(self, device: int) -> None:
        self._cupy, self._device = _cupy(), device
        self._cuda = self._cupy.cuda
        self._runtime = self._cuda.runtime
        properties = self._runtime.getDeviceProperties(device)
        self.name = properties["name"].decode()
        self.gpu = self._runtime.deviceGetPCIBusId(device)
        self._most_blocks = BLOCKS_PER_PROCESSOR * properties["multiProcessorCount"]
        self._streams: list[Any] = []  # kept: their handles are given away

    def use(self) -> None:
        self._runtime.setDevice(self._device)

    def current_stream(self, kind: str) -> int:
        if kind == TORCH:
            import torch

            return torch.cuda.current_stream(self._device).cuda_stream
        # Numba works on the default stream, unless an array says another (see `arrays.taken`).
        return 0 if kind == NUMBA else self._cuda.get_current_stream().ptr

    def new_stream(self) -> int:
        self.use()
        self._streams.append(self._cuda.Stream(non_blocking=True))
        return self._streams[-1].ptr

    def record(self, stream: int) -> _Event:
        event = self._cuda.Event(disable_timing=True)
        self._runtime.eventRecord(event.ptr, stream)
        return _Event(event)

    def wait(self, stream: int, event: Any) -> None:
        self._runtime.streamWaitEvent(stream, event.handle)

    def empty(self, nbytes: int, stream: int) -> Memory:
        with self._on(stream):
            return _Pooled(self._cuda.alloc(max(nbytes, 1)))

    def shareable(self, nbytes: int) -> Memory:
        self.use()
        return _Plain(self._runtime, max(nbytes, 1))

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.frombuffer(self._cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        self._runtime.memcpyAsync(to, source, nbytes, self._runtime.memcpyDefault, stream)

    def launch(
        self, source: Path, options: tuple[str, ...], kernel: str, items: int, arguments: Sequence[float], stream: int
    ) -> None:
        given = tuple(np.float64(a) if isinstance(a, float) else np.int64(a) for a in arguments)
        blocks = max(1, min(self._most_blocks, -(-items // THREADS)))
        with self._on(stream):
            _kernel(source, options, kernel)((blocks,), (THREADS,), given)

    def array(self, kind: str, owner: Any, pointer: int, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        short = kind == TORCH and dtype.name == "bfloat16"  # which does not pass from CuPy to PyTorch as what it is
        nbytes = prod(shape) * dtype.itemsize
        memory = self._cuda.MemoryPointer(self._cuda.UnownedMemory(pointer, nbytes, owner, self._device), 0)
        made = self._cupy.ndarray(shape, np.int16 if short else dtype, memory)
        if kind == TORCH:
            import torch

            tensor = torch.from_dlpack(made)
            return tensor.view(torch.bfloat16) if short else tensor
        if kind == NUMBA:
            from numba import cuda

            return cuda.as_cuda_array(made)
        return made

    def handle(self, pointer: int) -> tuple[bytes, int]:
        base = ctypes.c_uint64()
        size = ctypes.c_size_t()
        self.use()
        code = _driver().cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(pointer))
        if code:
            raise OSError(f"cuMemGetAddressRange failed with code {code}")
        try:
            handle = self._runtime.ipcGetMemHandle(base.value)
        except self._runtime.CUDARuntimeError as error:
            raise OSError(f"there is no CUDA IPC handle of this memory: {error}") from error
        serial = ctypes.c_uint64()  # CUDA does not say that a handle is not given twice; of this number it does
        code = _driver().cuPointerGetAttribute(ctypes.byref(serial), BUFFER_ID, ctypes.c_uint64(pointer))
        if code:
            raise OSError(f"cuPointerGetAttribute failed with code {code}")
        return bytes(handle) + serial.value.to_bytes(8, "little"), pointer - base.value

    def open(self, handle: bytes) -> int:
        self.use()
        try:
            return self._runtime.ipcOpenMemHandle(handle[:HANDLE])
        except self._runtime.CUDARuntimeError as error:
            raise OSError(f"another process's GPU memory cannot be mapped: {error}") from error

    def close(self, pointer: int) -> None:
        self._runtime.ipcCloseMemHandle(pointer)

    def _on(self, stream: int) -> Any:
        self.use()
        return self._cuda.ExternalStream(stream, self._device)


@cache
def _kernel(source: Path, options: tuple[str, ...], kernel: str) -> Any:
    module = _cupy().RawModule(code=code(source), options=(*OPTIONS, *options))
    return module.get_function(kernel)


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
