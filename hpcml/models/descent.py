"""Linear support vector machines by coordinate descent on the dual, within blocks of rows, and a search along the sum.

The dual of the problem in `linear_svm`, with Q = diag(s) A Aᵀ diag(s), s = y in classification and 1 in regression::

    min_α  ½ αᵀ (Q + D) α − bᵀα + ε ‖α‖₁,    0 ≤ α ≤ U (classification), −U ≤ α ≤ U (regression)

D = 0 and U = C·weight for the hinge and the ε-insensitive loss; D = 1/(2 C·weight) and U = ∞ for the squared ones; b is 1,
or y in regression. Within a block one α after the other is minimised over, in random order, those that are likely to
stay at a bound left out (shrinking), while w = Aᵀ(s α) follows: Hsieh, Chang, Lin, Keerthi, Sundararajan 2008,
algorithm 3; Ho and Lin 2012 for regression. That is LIBLINEAR's method.

Over blocks, each starts a round from the same w and goes over its rows as if it were alone; then the sum of their changes
is taken as a direction, along which the dual is minimised exactly, for it is quadratic (Lee and Roth 2015, "Distributed
box-constrained quadratic optimization for dual linear SVM", with the block-diagonal of Q). The whole step stays within the
box, and the step 1/blocks, which CoCoA takes (Jaggi et al. 2014), decreases the dual at least as much as the mean of the
blocks' own decreases: so the search never does worse. A round sends D + 4 numbers, and D + 3 where the gap is measured.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

def row_times(X, i, w):
    """In a kernel: row i of X times w; X is an array, or (data, indices, indptr)."""
    raise NotImplementedError


def add_row(X, i, factor, w):
    """In a kernel: w += factor · row i of X."""
    raise NotImplementedError


@overload(row_times)
def _row_times(X, i, w):
    if isinstance(X, types.BaseTuple):

        def sparse(X, i, w):
            data, indices, starts = X
            total = 0.0
            for place in range(starts[i], starts[i + 1]):
                total += data[place] * w[indices[place]]
            return total

        return sparse

    def dense(X, i, w):
        row, total = X[i], 0.0
        for j in range(len(row)):
            total += row[j] * w[j]
        return total

    return dense


@overload(add_row)
def _add_row(X, i, factor, w):
    if isinstance(X, types.BaseTuple):

        def sparse(X, i, factor, w):
            data, indices, starts = X
            for place in range(starts[i], starts[i + 1]):
                w[indices[place]] += factor * data[place]

        return sparse

    def dense(X, i, factor, w):
        row = X[i]
        for j in range(len(row)):
            w[j] += factor * row[j]

    return dense


@intrinsic
def _fetch(typingctx, array, place):
    """Have the cache line with that item of a 1-D array brought in, and do not wait."""

    def generate(context, builder, signature, arguments):
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(made.data, [arguments[1]])
        pointer = builder.bitcast(address, cgutils.voidptr_t)
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [pointer, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def fetch_row(X, i):
    """In a kernel: have row i of X brought into the cache. Rows come in random order, so the hardware does not."""
    raise NotImplementedError


@overload(fetch_row)
def _fetch_row(X, i):
    if isinstance(X, types.BaseTuple):

        def sparse(X, i):
            data, indices, starts = X
            for place in range(starts[i], starts[i + 1], 8):
                _fetch(data, place)
                if place % 16 < 8:
                    _fetch(indices, place)

        return sparse

    def dense(X, i):
        row = X[i]
        for j in range(0, len(row), 8):
            _fetch(row, j)

    return dense


@njit(cache=True, nogil=True)
def squared_norms(X, rows, scale):
    """‖a_i‖² of rows 0 … rows − 1."""
    out = np.empty(rows)
    for i in range(rows):
        out[i] = scale * scale
    _add_squares(X, out)
    return out


def add_squares(X, out):
    raise NotImplementedError


@overload(add_squares)
def _add_squares_of(X, out):
    if isinstance(X, types.BaseTuple):

        def sparse(X, out):
            data, _, starts = X
            for i in range(len(out)):
                for place in range(starts[i], starts[i + 1]):
                    out[i] += np.float64(data[place]) ** 2

        return sparse

    def dense(X, out):
        for i in range(len(out)):
            for j in range(X.shape[1]):
                out[i] += np.float64(X[i, j]) ** 2

    return dense


@njit(cache=True, nogil=True)
def _add_squares(X, out):
    add_squares(X, out)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def descend(
    X, targets, upper, norms, alpha, w, scale, epsilon, squared, regression, order, begin, end, active, bounds, found,
    boost,
):
    """Rows ``begin`` to ``end`` in ``order``, of which ``active`` are to be seen; ``alpha`` and ``w`` follow.

    bounds: between which a gradient at a bound of the box keeps its row, from the pass before. found: (2,), the greatest
    and the least projected gradient so far. Returns how many rows remain; those that were shrunk come after them in
    ``order``.
    """
    last = len(w) - 1
    greatest, least = found[0], found[1]
    k = begin
    while k < min(end, active):
        i = order[k]
        if k + 2 < active:
            fetch_row(X, order[k + 2])
        u, a = upper[i], alpha[i]
        score = row_times(X, i, w)
        if scale != 0.0:
            score += scale * w[last]
        diagonal = 0.5 / u if squared and u > 0.0 else 0.0
        bound = np.inf if squared and u > 0.0 else u
        bend = boost * norms[i] + diagonal
        sign = 1.0 if regression else targets[i]
        if regression:
            # G is the derivative without ε; on both sides of 0 the derivatives are G + ε and G − ε.
            t = targets[i] - score
            G = -t + diagonal * a
            above, below = G + epsilon, G - epsilon
            violation = 0.0
            if a == 0.0:
                if above < 0.0:
                    violation = above
                elif below > 0.0:
                    violation = below
                elif above > bounds[0] and below < bounds[1]:
                    active -= 1
                    order[k], order[active] = order[active], order[k]
                    continue
            elif a >= bound:
                if above > 0.0:
                    violation = above
                elif above < bounds[1]:
                    active -= 1
                    order[k], order[active] = order[active], order[k]
                    continue
            elif a <= -bound:
                if below < 0.0:
                    violation = below
                elif below > bounds[0]:
                    active -= 1
                    order[k], order[active] = order[active], order[k]
                    continue
            else:
                violation = above if a > 0.0 else below
            greatest, least = max(greatest, abs(violation)), min(least, -abs(violation))
            if abs(violation) < 1e-12 or bend <= 0.0:
                k += 1
                continue
            if above < bend * a:
                new = a - above / bend
            elif below > bend * a:
                new = a - below / bend
            else:
                new = 0.0
            new = min(max(new, -bound), bound)
        else:
            t = 1.0 - sign * score
            G = -t + diagonal * a
            violation = G
            if a == 0.0:
                if G > bounds[0]:
                    active -= 1
                    order[k], order[active] = order[active], order[k]
                    continue
                violation = min(G, 0.0)
            elif a >= bound:
                if G < bounds[1]:
                    active -= 1
                    order[k], order[active] = order[active], order[k]
                    continue
                violation = max(G, 0.0)
            greatest, least = max(greatest, violation), min(least, violation)
            if abs(violation) < 1e-12 or u == 0.0:
                k += 1
                continue
            # A row of zeros without an intercept: its loss does not depend on w, and α goes to its bound.
            new = min(max(a - G / bend, 0.0), bound) if bend > 0.0 else (bound if G < 0.0 else 0.0)
        if new != a:
            alpha[i] = new
            change = boost * (new - a) * sign
            add_row(X, i, change, w)
            if scale != 0.0:
                w[last] += change * scale
        k += 1
    found[0], found[1] = greatest, least
    return active


@njit(cache=True, nogil=True)
def shuffle(order, rows, state):
    """Put the first ``rows`` of ``order`` in random order (Fisher and Yates); ``state`` (1,) uint64: Marsaglia's
    xorshift64."""
    for k in range(rows - 1):
        state[0] ^= state[0] << np.uint64(13)
        state[0] ^= state[0] >> np.uint64(7)
        state[0] ^= state[0] << np.uint64(17)
        other = k + np.int64((state[0] >> np.uint64(11)) % np.uint64(rows - k))
        order[k], order[other] = order[other], order[k]


@njit(cache=True, nogil=True)
def separable(alpha, targets, upper, epsilon, squared, regression):
    """Σ ½ D α² − bᵀα + ε‖α‖₁."""
    value = 0.0
    for i in range(len(alpha)):
        a = alpha[i]
        diagonal = 0.5 / upper[i] if squared and upper[i] > 0.0 else 0.0
        value += 0.5 * diagonal * a * a - (targets[i] if regression else 1.0) * a + epsilon * abs(a)
    return value


@njit(cache=True, nogil=True)
def along(alpha, before, targets, upper, epsilon, squared, regression):
    """Its derivative by the share of the way from ``before`` to ``alpha`` that is taken, at none of it, and that's; the
    kinks of ‖α‖₁ between both are replaced with a chord, which lies above."""
    slope, bend = 0.0, 0.0
    for i in range(len(alpha)):
        c = alpha[i] - before[i]
        if c != 0.0:
            diagonal = 0.5 / upper[i] if squared and upper[i] > 0.0 else 0.0
            slope += (diagonal * before[i] - (targets[i] if regression else 1.0)) * c
            slope += epsilon * (abs(alpha[i]) - abs(before[i]))
            bend += diagonal * c * c
    return slope, bend
