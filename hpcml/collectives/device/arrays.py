"""Arrays in GPU memory, of any library, as this one works on them: a pointer, a shape and strides."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from hpcml.collectives.device import kernels
from hpcml.collectives.device.runtime import Runtime, runtime_of

CUPY, NUMBA, TORCH = "cupy", "numba", "torch"


class Flags(NamedTuple):
    """As `numpy.ndarray.flags`."""

    c_contiguous: bool
    writeable: bool


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """Where an array lies on a device.

    owner: what keeps the memory alive, the caller's array or ours. kind: of array its results are. strides: in bytes.
    stream: on which the caller works with it; None: on whatever is current when it is asked for.
    """

    runtime: Runtime
    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype
    kind: str
    owner: Any
    writeable: bool = True
    stream: int | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def flags(self) -> Flags:
        return Flags(self.size == 0 or self._straight(), self.writeable)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def _straight(self) -> bool:
        wanted = straight_strides(self.shape, self.dtype.itemsize)
        return all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, wanted, strict=True))

    def callers_stream(self) -> int:
        """The stream on which the caller works."""
        return self.runtime.current_stream(self.kind) if self.stream is None else self.stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
            "data": (self.pointer, not self.writeable),
            "stream": None,
            "version": 3,
        }

    def on(self, stream: int | None) -> DeviceArray:
        return self if stream is None else replace(self, stream=stream)

    def reshaped(self, shape: tuple[int, ...]) -> DeviceArray:
        """The same items, which lie side by side, in another shape of as many."""
        return replace(self, shape=shape, strides=straight_strides(shape, self.dtype.itemsize))

    def part(self, start: int, shape: tuple[int, ...]) -> DeviceArray:
        """Of items that lie side by side, those from item ``start`` on, as an array of that shape."""
        return replace(self.reshaped(shape), pointer=self.pointer + start * self.dtype.itemsize)

    def with_an_axis(self) -> DeviceArray:
        """As `numpy.atleast_1d`."""
        return self if self.shape else self.reshaped((1,))

    def packed(self) -> DeviceArray:
        """Itself where its items lie side by side in C order, else a copy in which they do, on the caller's stream."""
        if self.flags.c_contiguous:
            return self
        copy = new_like(self, self.shape, self.dtype)
        copy.fill_from(self)
        return copy

    def fill_from(self, source: DeviceArray) -> None:
        """Copy the items of an array of the same shape and dtype, on the caller's stream."""
        kernels.assign(self.runtime, self, source, self.callers_stream())

    def as_double(self) -> DeviceArray:
        """Integers as float64."""
        source = self.packed()
        copy = new_like(self, self.shape, np.dtype(np.float64))
        kernels.widen(self.runtime, source.dtype, copy.pointer, source.pointer, self.size, self.callers_stream())
        return copy

    def given(self) -> Any:
        """Memory of ours as the caller gets it: an array of the kind in question."""
        return self.runtime.array(self.kind, self.owner, self.pointer, self.shape, self.dtype)

    def to_host(self) -> np.ndarray:
        """A copy in host memory, once all that the caller has put on the stream is done."""
        source, stream = self.packed(), self.callers_stream()
        host = self.runtime.pinned(max(self.nbytes, 1))[: self.nbytes]
        if self.nbytes:
            self.runtime.copy(host.ctypes.data, source.pointer, self.nbytes, stream)
        self.runtime.record(stream).synchronize()
        return host.copy().view(self.dtype).reshape(self.shape)

    def fill_from_host(self, array: np.ndarray) -> None:
        """Copy the items of a NumPy array of the same shape; complete at return."""
        host = self.runtime.pinned(max(self.nbytes, 1))[: self.nbytes]
        host.view(self.dtype).reshape(self.shape)[...] = array
        landing = self if self.flags.c_contiguous else new_like(self, self.shape, self.dtype)
        stream = self.callers_stream()
        if self.nbytes:
            self.runtime.copy(landing.pointer, host.ctypes.data, self.nbytes, stream)
        if landing is not self:
            self.fill_from(landing)
        self.runtime.record(stream).synchronize()


def taken(x: Any, name: str = "the array") -> DeviceArray:
    """What has ``__cuda_array_interface__``, or a PyTorch tensor on a GPU; TypeError for what cannot be worked on."""
    if isinstance(x, DeviceArray):
        return x
    kind = kind_of_array(x)
    if kind == TORCH:
        x = x.detach()
    said = x.__cuda_array_interface__
    if said.get("mask") is not None:
        raise TypeError(f"{name} is a masked array, and its mask would be lost: pass the data alone")
    typestr = said["typestr"]
    dtype = _bfloat16() if typestr == "<V2" else np.dtype(typestr)
    if dtype.hasobject or not dtype.isnative:
        raise TypeError(f"{name} has dtype {dtype}, for which there are no kernels: expected numbers of this machine")
    shape = tuple(said["shape"])
    strides = said.get("strides") or straight_strides(shape, dtype.itemsize)
    pointer, read_only = said["data"]
    stream = said.get("stream") if type(x).__module__.partition(".")[0] != CUPY else None
    return DeviceArray(
        runtime_of(pointer), pointer, shape, tuple(strides), dtype, kind, x, not read_only, stream or None
    )


def kind_of_array(x: Any) -> str:
    """The library that its results come back from: PyTorch, Numba, or CuPy for its own arrays and all others."""
    module = type(x).__module__.partition(".")[0]
    return module if module in (NUMBA, TORCH) and module in sys.modules else CUPY


def new(runtime: Runtime, shape: tuple[int, ...], dtype: np.dtype, kind: str, stream: int | None) -> DeviceArray:
    """An array that is not initialised."""
    itemsize = np.dtype(dtype).itemsize
    on = runtime.current_stream(kind) if stream is None else stream
    memory = runtime.empty(prod(shape) * itemsize, on)
    strides = straight_strides(shape, itemsize)
    return DeviceArray(runtime, memory.pointer, shape, strides, np.dtype(dtype), kind, memory, stream=stream)


def new_like(x: DeviceArray, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
    """One for the same caller."""
    return new(x.runtime, shape, dtype, x.kind, x.stream)


def straight_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Of items that lie side by side in C order."""
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * shape[axis]
    return tuple(strides)


def overlap(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether they may have memory in common."""
    (a_first, a_last), (b_first, b_last) = _extent(a), _extent(b)
    return a_first < b_last and b_first < a_last


def _extent(x: DeviceArray) -> tuple[int, int]:
    if not x.size:
        return 0, 0
    reach = [(n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)]
    below, above = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    return x.pointer + below, x.pointer + above + x.dtype.itemsize


def _bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
