"""Atomic operations on int64 words in memory, for compiled code: what threads and processes tell each other.

A load with acquire sees all that was written before the store with release whose value it reads.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


def _pointer(builder, address):
    return builder.inttoptr(address, _WORD.as_pointer())


@intrinsic
def load_acquire(typingctx, address):
    """The word at ``address``; what was written before it was stored there is seen from now on."""

    def codegen(context, builder, signature, values):
        return builder.load_atomic(_pointer(builder, values[0]), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def store_release(typingctx, address, value):
    """Store ``value`` at ``address``; whoever reads it sees all that was written before."""

    def codegen(context, builder, signature, values):
        builder.store_atomic(values[1], _pointer(builder, values[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def exchange_if_equal(typingctx, address, expected, value):
    """Store ``value`` where the word is ``expected``, in one step; whether it was."""

    def codegen(context, builder, signature, values):
        place, expected, value = _pointer(builder, values[0]), values[1], values[2]
        result = builder.cmpxchg(place, expected, value, "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def add(typingctx, address, value):
    """Add ``value`` to the word, in one step, as if it was loaded and stored as above."""

    def codegen(context, builder, signature, values):
        builder.atomic_rmw("add", _pointer(builder, values[0]), values[1], "acq_rel")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
