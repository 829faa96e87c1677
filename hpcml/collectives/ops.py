"""The reduction operations: their names, and which data types each is defined for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI


@dataclass(frozen=True)
class Op:
    """An operation. ``ufunc`` is None for a user's own `MPI.Op`, which only MPI can apply.

    kinds: the NumPy kinds of data type it is defined for. finishes: it has a last step, done once the fold is complete.
    """

    name: str
    mpi: MPI.Op
    ufunc: np.ufunc | None
    kinds: str
    commutes: bool = True
    finishes: bool = False


REDUCTIONS = ("allreduce", "reduce", "reduce_scatter", "scan", "exscan")  # the collectives that have an op
USERS_OWN = "an MPI.Op of the user's own"

# "V" is how NumPy classes bfloat16.
_NUMBERS, _ORDERED, _LOGICAL = "iufcV", "biufV", "biu"

OPS = {
    op.name: op
    for op in (
        Op("sum", MPI.SUM, np.add, _NUMBERS),
        Op("prod", MPI.PROD, np.multiply, _NUMBERS),
        Op("min", MPI.MIN, np.minimum, _ORDERED),
        Op("max", MPI.MAX, np.maximum, _ORDERED),
        Op("mean", MPI.SUM, np.add, "fcV", finishes=True),
        Op("land", MPI.LAND, np.logical_and, _LOGICAL),
        Op("lor", MPI.LOR, np.logical_or, _LOGICAL),
        Op("lxor", MPI.LXOR, np.logical_xor, _LOGICAL),
        Op("band", MPI.BAND, np.bitwise_and, _LOGICAL),
        Op("bor", MPI.BOR, np.bitwise_or, _LOGICAL),
        Op("bxor", MPI.BXOR, np.bitwise_xor, _LOGICAL),
    )
}


def find(op: str | MPI.Op) -> Op:
    """The operation of that name, or that MPI handle; ValueError with the known names otherwise."""
    if isinstance(op, str) and op in OPS:
        return OPS[op]
    if isinstance(op, MPI.Op):
        for known in OPS.values():
            if known.mpi == op and not known.finishes:
                return known
        return Op(USERS_OWN, op, None, "", commutes=op.Is_commutative())
    raise ValueError(f"unknown op {op!r}: expected one of {', '.join(OPS)}, or an mpi4py.MPI.Op")


def check_dtype(op: Op, dtype: np.dtype) -> None:
    """TypeError where ``op`` is not defined for ``dtype``."""
    if op.ufunc is None:
        return
    if dtype.kind in op.kinds and not (dtype.kind == "V" and dtype.type is np.void):  # structured, or raw bytes
        return
    hint = {"b": "; for a count pass x.astype(int), for any/all use op='lor'/'land'"}.get(dtype.kind, "")
    raise TypeError(f"op {op.name!r} is not defined for {dtype}{hint}")


def fold(op: Op, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``out[i] = a[i] ∘ b[i]``, by NumPy, or by MPI where the op is a user's own; ``out`` may be ``a`` or ``b``."""
    if op.ufunc is not None:
        op.ufunc(a, b, out=out, casting="unsafe")  # logical ufuncs give booleans
        return
    result = b.copy()  # MPI reduces into its right operand
    op.mpi.Reduce_local(a, result)
    out[:] = result


def divide(total: np.ndarray, ranks: int, out: np.ndarray) -> None:
    """The last step of a mean. Complex numbers are divided part by part: a complex division would round twice."""
    real = np.empty(0, total.dtype).real.dtype
    parts = (a.reshape(-1).view(real) if total.dtype.kind == "c" else a for a in (total, out))
    np.divide(next(parts), real.type(ranks), out=next(parts))
