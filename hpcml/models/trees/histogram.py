"""Histograms: for every feature, the sums over rows by bin.

Sums are of integers (`quantisation`), so they are exact in any order: on any number of ranks the same.

A histogram of several nodes at once is an array (features, nodes, bins, channels), so that a part of the features is
one piece of memory. *Packed* sums have one channel, Σ gradient · 2³² + Σ hessian: one addition a row and feature, and
half the bytes to send. Otherwise the channels are gradient, hessian and count, or the weights of each class and the
count.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

#: Features whose histograms are filled at once: packed ones of 256 bins stay in the second-level cache.
BLOCK = 32
#: How many rows ahead are fetched into the cache: the rows of a node lie apart in memory.
AHEAD = 16


@intrinsic
def prefetch(typingctx, array, index):
    """Ask for the cache line where ``array[index]`` begins, along the first axis."""

    def codegen(context, builder, signature, values):
        made = context.make_array(signature.args[0])(context, builder, values[0])
        (stride, *_) = cgutils.unpack_tuple(builder, made.strides)
        offset = builder.mul(builder.sext(values[1], ir.IntType(64)), stride)
        base = builder.ptrtoint(made.data, ir.IntType(64))
        pointer = builder.inttoptr(builder.add(base, offset), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [pointer, *(ir.Constant(ir.IntType(32), n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


# Indices are unsigned below: Numba then leaves out the look whether they count from the end, which took as long as
# the addition.


@njit(nogil=True, cache=True)
def fill_packed(X, values, rows, begin, end, node, out):
    """``out[f, node, X[r, f], 0] += values[r]`` for the rows r in ``rows[begin:end]``.

    X (n, d) uint8; values (n,) int64; rows (n,) int32; out (d, nodes, bins, 1) int64.
    """
    last, node, zero, one = end - 1, uint64(node), uint64(0), uint64(1)
    low, features = zero, uint64(X.shape[1])
    while low < features:
        high = min(low + uint64(BLOCK), features)
        i = begin
        while i < last:  # two rows at a time: their additions do not wait for each other
            ahead = rows[min(i + AHEAD, last)]
            prefetch(X, ahead)
            prefetch(values, ahead)
            ahead = rows[min(i + AHEAD + 1, last)]
            prefetch(X, ahead)
            prefetch(values, ahead)
            r, s = uint64(rows[i]), uint64(rows[i + 1])
            value, other = values[r], values[s]
            f = low
            while f < high:
                out[f, node, X[r, f], zero] += value
                out[f, node, X[s, f], zero] += other
                f += one
            i += 2
        if i == last:
            r = uint64(rows[i])
            value = values[r]
            f = low
            while f < high:
                out[f, node, X[r, f], zero] += value
                f += one
        low = high


@njit(nogil=True, cache=True)
def fill_channels(X, values, rows, begin, end, node, out):
    """``out[f, node, X[r, f]] += values[r]``, for values (n, channels)."""
    last, node, zero, one = end - 1, uint64(node), uint64(0), uint64(1)
    features, channels = uint64(X.shape[1]), uint64(values.shape[1])
    for i in range(begin, end):
        ahead = rows[min(i + AHEAD, last)]
        prefetch(X, ahead)
        prefetch(values, ahead)
        r = uint64(rows[i])
        f = zero
        while f < features:
            b = uint64(X[r, f])
            c = zero
            while c < channels:
                out[f, node, b, c] += values[r, c]
                c += one
            f += one


@njit(nogil=True, cache=True)
def fill_classes(X, codes, weights, rows, begin, end, node, out):
    """``out[f, node, X[r, f], codes[r]] += weights[r]``, and the last channel += 1; codes, weights (n,) int64."""
    last, node, zero, one = end - 1, uint64(node), uint64(0), uint64(1)
    features, count = uint64(X.shape[1]), uint64(out.shape[3] - 1)
    for i in range(begin, end):
        ahead = rows[min(i + AHEAD, last)]
        prefetch(X, ahead)
        prefetch(codes, ahead)
        prefetch(weights, ahead)
        r = uint64(rows[i])
        code, weight = uint64(codes[r]), weights[r]
        f = zero
        while f < features:
            b = uint64(X[r, f])
            out[f, node, b, code] += weight
            out[f, node, b, count] += 1
            f += one


@njit(nogil=True, cache=True)
def share(sums, node, smaller, sibling):
    """Put one node of ``sums`` (d, nodes, bins, channels) in ``smaller`` (d, bins, channels), less in ``sibling``."""
    for f in range(sums.shape[0]):
        mine, small, rest = sums[f, node].reshape(-1), smaller[f].reshape(-1), sibling[f].reshape(-1)
        for i in range(len(mine)):
            small[i] = mine[i]
            rest[i] -= mine[i]
