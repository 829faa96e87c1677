"""Copies that go around the caches, for results that are too large to stay in them.

An ordinary store to memory that is in no cache fetches its line first, which is half of the traffic.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hpcml.collectives.native_call import call

LINE = 64
_LINE = ir.VectorType(ir.IntType(64), 8)


@intrinsic
def _stream_line(typingctx, dst, src):
    """Copy a line from any address to one that is a multiple of a line's length."""

    def codegen(context, builder, signature, values):
        to, source = (builder.inttoptr(address, _LINE.as_pointer()) for address in values)
        store = builder.store(builder.load(source, align=1), to, align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _fence(typingctx):
    """What was streamed comes before all that is stored from now on."""

    def codegen(context, builder, signature, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@njit
def stream(dst, src, nbytes, memmove):
    """As ``memmove`` (an address) for memory that does not overlap."""
    head = min(-dst & (LINE - 1), nbytes)
    lines = (nbytes - head) // LINE * LINE
    call(memmove, (dst, src, head))
    for at in range(head, head + lines, LINE):
        _stream_line(dst + at, src + at)
    call(memmove, (dst + head + lines, src + head + lines, nbytes - head - lines))
    _fence()
