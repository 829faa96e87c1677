"""The C functions that fold and finish, by address: compiled ones, or NumPy and MPI behind a C function's face.

The second kind serves the data types that the compiler does not know, and a user's own `MPI.Op`.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from hpcml.collectives import fold as compiled
from hpcml.collectives.ops import Op, divide, fold


class Kernels(NamedTuple):
    """Addresses as the protocol wants them; finish: 0 where there is nothing to finish. Keep it while they are in use.

    failed: exceptions raised in a kernel that is Python, which could not come through.
    """

    fold: int
    finish: int
    failed: list[BaseException]
    kept: tuple = ()


def kernels(op: Op, dtype: np.dtype) -> Kernels:
    if compiled.has_kernel(op, dtype):
        finish = compiled.finish_kernel(dtype).address if op.finishes else 0
        return Kernels(compiled.fold_kernel(op.name, dtype).address, finish, [])
    return _python_kernels(op, dtype)


def _python_kernels(op: Op, dtype: np.dtype) -> Kernels:
    failed: list[BaseException] = []

    def fold_kernel(dst: int, a: int, b: int, count: int, in_place: int) -> None:
        try:
            fold(op, _items(a, count, dtype), _items(b, count, dtype), _items(dst, count, dtype))
        except BaseException as error:
            failed.append(error)

    def finish_kernel(dst: int, a: int, count: int, ranks: int) -> None:
        divide(_items(a, count, dtype), ranks, _items(dst, count, dtype))

    c_fold = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)(fold_kernel)
    c_finish = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(finish_kernel)
    finish = _address(c_finish) if op.finishes else 0
    return Kernels(_address(c_fold), finish, failed, (c_fold, c_finish))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _items(address: int, count: int, dtype: np.dtype) -> np.ndarray:
    memory: Any = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return np.ndarray(count, dtype, memory)
