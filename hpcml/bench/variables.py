"""The control variables of the MPI library, through its tool information interface (MPI 4.1, chapter 15.3).

mpi4py does not bind that interface, so its C functions are called through ctypes; they come from mpi4py's own extension
module, and so from the very library that mpi4py uses.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_void_p
from dataclasses import dataclass
from functools import lru_cache

from mpi4py import MPI

LONGEST_NAME, LONGEST_TEXT = 1 << 10, 1 << 14


@dataclass(frozen=True)
class Variable:
    """One control variable that holds an int.

    values: the names of its values, where the library gives them as an MPI_T enumeration; else empty.
    """

    name: str
    index: int
    description: str
    values: dict[str, int]

    def read(self) -> int:
        value = c_int()
        handle, _ = _handle(self.index)
        _check("MPI_T_cvar_read", handle, byref(value))
        return value.value

    def write(self, value: int) -> None:
        """Set it in this process. When the library looks at it is the library's affair.

        Raises:
            OSError: the library does not let it be changed.
        """
        handle, _ = _handle(self.index)
        _check("MPI_T_cvar_write", handle, byref(c_int(value)))


@lru_cache(maxsize=256)
def find(name: str) -> Variable | None:
    """The int variable of that name, or None where this library has none."""
    _start()
    index = c_int()
    if _library().MPI_T_cvar_get_index(name.encode(), byref(index)) != 0:
        return None
    return _described(index.value)


@lru_cache(maxsize=1)
def _start() -> None:
    """For the life of the process: MPI_T handles are kept."""
    # Open MPI takes the thread level given here for that of the whole library, from then on.
    _check("MPI_T_init_thread", c_int(MPI.Query_thread()), byref(c_int()))


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(MPI.__file__)


def _check(function: str, *arguments: object) -> None:
    status = getattr(_library(), function)(*arguments)
    if status != 0:
        raise OSError(f"{function} failed with status {status}")


def _described(index: int) -> Variable:
    name, text = ctypes.create_string_buffer(LONGEST_NAME), ctypes.create_string_buffer(LONGEST_TEXT)
    name_length, text_length = c_int(LONGEST_NAME), c_int(LONGEST_TEXT)
    verbosity, binding, scope = c_int(), c_int(), c_int()
    # Handles are pointers or ints, by library: zeroed memory of a pointer's size takes both.
    datatype, enumeration = c_void_p(), c_void_p()
    _check(
        "MPI_T_cvar_get_info",
        c_int(index),
        name,
        byref(name_length),
        byref(verbosity),
        byref(datatype),
        byref(enumeration),
        text,
        byref(text_length),
        byref(binding),
        byref(scope),
    )
    return Variable(name.value.decode(), index, text.value.decode(), _values(enumeration))


def _values(enumeration: c_void_p) -> dict[str, int]:
    if not enumeration.value:
        return {}
    count, length, name = c_int(), c_int(LONGEST_NAME), ctypes.create_string_buffer(LONGEST_NAME)
    _check("MPI_T_enum_get_info", enumeration, byref(count), name, byref(length))
    values = {}
    for item in range(count.value):
        value, length = c_int(), c_int(LONGEST_NAME)
        _check("MPI_T_enum_get_item", enumeration, c_int(item), byref(value), name, byref(length))
        values[name.value.decode()] = value.value
    return values


@lru_cache(maxsize=256)
def _handle(index: int) -> tuple[c_void_p, int]:
    handle, count = c_void_p(), c_int()
    _check("MPI_T_cvar_handle_alloc", c_int(index), c_void_p(), byref(handle), byref(count))
    if count.value != 1:
        raise OSError(f"control variable {index} holds {count.value} ints, expected 1")
    return handle, count.value
