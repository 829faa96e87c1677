"""Calling C functions by address from compiled code.

Addresses and handles are arguments, not constants, so compiled code does not depend on the MPI library and its disk
cache serves every process. The symbols are looked up through mpi4py's own extension module, which finds the very
library that mpi4py uses.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from mpi4py import MPI
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

HEAD = object.__basicsize__  # bytes that an object begins with


@functools.cache
def mpi_address(symbol: str) -> int:
    """The address of a function of the MPI library in this process."""
    return _address(ctypes.CDLL(MPI.__file__), symbol)


@functools.cache
def libc_address(symbol: str) -> int:
    """The address of a function of the C library."""
    return _address(ctypes.CDLL(None), symbol)


def _address(library: ctypes.CDLL, symbol: str) -> int:
    address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    if address is None:
        raise OSError(f"symbol {symbol} has no address")
    return address


def undispatched(function: Any) -> Callable[..., Any]:
    """A compiled function of one signature, without Numba's look at the types of its arguments in each call."""
    (compiled,) = function.overloads.values()
    return compiled.entry_point


@njit(inline="always")
def data_of(array):
    """The address of the items of a NumPy array that is at address ``array``, its `id`.

    They are the first field behind an object's head (PyArrayObject in NumPy's C interface), found here without the
    buffer protocol, which takes longer than a small collective waits.
    """
    return carray(int64_at(array + HEAD), 1)[0]


def _returning(bits: int) -> Callable[..., Any]:
    @intrinsic
    def call(typingctx, address, arguments):
        def codegen(context, builder, signature, values):
            function, packed = values
            operands = cgutils.unpack_tuple(builder, packed)
            kind = ir.FunctionType(ir.IntType(bits), [operand.type for operand in operands])
            return builder.call(builder.inttoptr(function, kind.as_pointer()), operands)

        return types.Integer.from_bitwidth(bits)(address, arguments), codegen

    return call


# ``call(address, arguments)``: ``function(*arguments)`` for the C function at ``address``, that returns an int, or a
# long; each argument is passed with its Numba type.
call = _returning(32)
call_long = _returning(64)


@intrinsic
def int64_at(typingctx, address):
    """The address as a pointer to int64, for `numba.carray`."""

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(address), codegen
