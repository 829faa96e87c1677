"""The best split of a node, from its histograms.

A node with the sums G (of gradients) and H (of hessians) has the value w = −G/(H + λ), within bounds if there are any,
and the score −2Gw − (H + λ)w², without bounds G²/(H + λ); of several outputs the scores are added. The gain of a split
is the children's scores less the node's: twice the decrease of the second-order loss (Chen, Guestrin 2016, "XGBoost",
eq. 7). With weights of classes as G and their sum as H it is the decrease of Gini's impurity, times the weight.

Numbers are split at an edge. Missing values go left or right, whichever gains more. Categories are sorted by G/H, which
for one output makes the best of all subsets a prefix (Fisher 1958); rare ones are left with the right child.

Everything is computed from integers in a fixed order, so all ranks that compute a split compute the same bits. Of equal
gains the first wins: lower feature, lower bin, missing values to the right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, uint64

# Places in a record of a split (int64); the gain is a float64's bits, so that a record is one array.
GAIN, FEATURE, BIN, MISSING_LEFT, CATEGORICAL, COUNT, MASK, SUMS = 0, 1, 2, 3, 4, 5, 6, 10
RARE = 10  # rows or hessians' units below which a category is not looked at by itself
NOWHERE = -1  # as feature: no split


def record_length(outputs: int) -> int:
    """Numbers in a record: at SUMS those of the left child, its G of each output and H."""
    return SUMS + outputs + 1


class Limits(NamedTuple):
    """What a split has to keep to. Units: how much one step of G and of H is."""

    gradient_unit: float
    hessian_unit: float
    l2: float
    min_samples_leaf: int
    min_hessian: float
    min_gain: float
    entropy: bool = False


@njit(nogil=True, cache=True)
def find_split(
    sums, packed, classes, node_sums, count, bins, missing, categorical, monotone, allowed, features, bounds, limits,
    record,
):  # fmt: skip
    """Fill ``record`` with the best split of a node, or with feature `NOWHERE`.

    sums (f, bins, channels) int64: the node's histograms of these ``features`` (f,); node_sums: its G of each output,
    and H; count: its rows, exact or (packed) as estimated. bins, missing, categorical, monotone, allowed: of all
    features. bounds: the least and largest value.
    """
    outputs = len(node_sums) - 1
    width = sums.shape[1]
    g, h, n = np.empty((outputs, width)), np.empty(width), np.empty(width)
    order, ratio = np.empty(width, np.int64), np.empty(width)
    left = np.empty(outputs)
    total = np.empty(outputs)
    for k in range(outputs):
        total[k] = float(node_sums[k])
    weight = float(node_sums[outputs])
    per_h = count / weight if weight > 0 else 0.0
    best = limits.min_gain
    own = _score(total, weight, bounds, limits)
    plain = not classes and not limits.entropy and bounds[0] == -np.inf and bounds[1] == np.inf
    gains = np.empty(width)
    record[FEATURE] = NOWHERE
    record[GAIN] = 0
    if classes and node_sums[:outputs].max() == node_sums[outputs]:
        return  # of one class
    for f in range(sums.shape[0]):
        feature = features[f]
        if not allowed[feature]:
            continue
        last = bins[feature]
        used = last + (1 if missing[feature] else 0)
        if used < 2:
            continue
        if plain and monotone[feature] == 0 and not categorical[feature]:
            for turn in range(2 if missing[feature] else 1):
                seen = _prefixes(sums[f], packed, last, turn == 1, per_h, g[0], h, n)
                if turn == 1 and seen == 0:
                    continue  # nothing is missing
                # Missing values to the right: all others to the left is a split, too.
                stop = last if missing[feature] and turn == 0 else last - 1
                _fill_gains(g[0], h, n, stop, total[0], weight, count, limits, gains)
                for b in range(stop):
                    gain = gains[b] - own
                    if gain > best:
                        best = gain
                        goes_left = turn == 1 if missing[feature] else 2 * h[b] >= weight
                        left[0] = g[0, b]
                        _note(record, gain, feature, b, goes_left, False, n[b], left, h[b])
            continue
        _unpack(sums[f], packed, classes, used, per_h, g, h, n)
        if categorical[feature]:
            kept = 0
            for b in range(used):
                if n[b] >= RARE:
                    order[kept] = b
                    ratio[kept] = g[0, b] / (h[b] + RARE * weight / count)
                    kept += 1
            by_ratio = np.argsort(ratio[:kept], kind="mergesort")
            for turn in range(2):  # the left child takes a prefix from either end
                left[:] = 0.0
                lh, ln = 0.0, 0.0
                for i in range(kept):
                    b = order[by_ratio[i if turn == 0 else kept - 1 - i]]
                    for k in range(outputs):
                        left[k] += g[k, b]
                    lh += h[b]
                    ln += n[b]
                    gain = _gain(left, lh, ln, total, weight, count, 0, bounds, limits) - own
                    if gain > best:
                        best = gain
                        _note(record, gain, feature, i, False, True, ln, left, lh)
                        for word in range(4):
                            record[MASK + word] = 0
                        for j in range(i + 1):
                            b = order[by_ratio[j if turn == 0 else kept - 1 - j]]
                            record[MASK + (b >> 6)] |= np.int64(1) << np.int64(b & 63)
            continue
        for turn in range(2 if missing[feature] else 1):
            left[:] = 0.0
            lh, ln = 0.0, 0.0
            if turn == 1:
                for k in range(outputs):
                    left[k] = g[k, last]
                lh, ln = h[last], n[last]
                if ln == 0:
                    continue
            # Missing values to the right: all others to the left is a split, too.
            for b in range(last if missing[feature] and turn == 0 else last - 1):
                for k in range(outputs):
                    left[k] += g[k, b]
                if h[b] == 0:
                    continue  # as a split at the bin before
                lh += h[b]
                ln += n[b]
                if ln < limits.min_samples_leaf:
                    continue
                if count - ln < limits.min_samples_leaf:
                    break
                gain = _gain(left, lh, ln, total, weight, count, monotone[feature], bounds, limits) - own
                if gain > best:
                    best = gain
                    goes_left = turn == 1 if missing[feature] else 2 * lh >= weight
                    _note(record, gain, feature, b, goes_left, False, ln, left, lh)


@njit(nogil=True, cache=True)
def _prefixes(sums, packed, last, missing_left, per_h, g, h, n):
    """G, H and rows of all bins up to each of the first ``last``; ``missing_left``: and of the bin behind them.

    Returns H of that bin, or 0. Rows of packed sums are estimated by H.
    """
    if packed:
        total = sums[last, 0] if missing_left else np.int64(0)
        seen = total & 0xFFFFFFFF
        for b in range(last):
            total += sums[b, 0]
            g[b] = float(np.int32(total >> 32))  # within 31 bits, which are converted faster than 63
            h[b] = float(np.int32(total & 0x7FFFFFFF))
        for b in range(last):
            n[b] = np.floor(h[b] * per_h + 0.5)
        return seen
    of_g, of_h, rows = np.int64(0), np.int64(0), np.int64(0)
    if missing_left:
        of_g, of_h, rows = sums[last, 0], sums[last, 1], sums[last, 2]
    seen = rows
    for b in range(last):
        of_g += sums[b, 0]
        of_h += sums[b, 1]
        rows += sums[b, 2]
        g[b], h[b], n[b] = float(of_g), float(of_h), float(rows)
    return seen


@njit(nogil=True, cache=True, error_model="numpy")  # without a look for zeros, which are none of the bins' that count
def _fill_gains(g, h, n, stop, total, weight, count, limits, gains):
    """The children's scores (stop,) of one output without bounds, for a left child with G, H and rows up to each bin.

    As `_gain`; without branches, so that several bins are computed at once.
    """
    unit, of_h, l2, least, min_hessian = (
        limits.gradient_unit, limits.hessian_unit, limits.l2, limits.min_samples_leaf, limits.min_hessian
    )  # fmt: skip
    for b in range(stop):
        lg, rg = g[b] * unit, (total - g[b]) * unit
        lh, rh = h[b], weight - h[b]
        lw, rw = lh * of_h + l2, rh * of_h + l2
        may = (
            (n[b] >= least)
            & (count - n[b] >= least)
            & (lh * of_h >= min_hessian)
            & (rh * of_h >= min_hessian)
            & (lh > 0)
            & (rh > 0)
        )
        gain = (lg * lg * rw + rg * rg * lw) / (lw * rw)
        gains[b] = gain if may else -np.inf


@njit(inline="always")
def _unpack(sums, packed, classes, used, per_h, g, h, n):
    """G, H and rows of each bin, as float64, which holds such integers exactly; rows of packed sums by their H."""
    outputs = g.shape[0]
    if packed:
        for b in range(used):
            value = sums[b, 0]
            g[0, b] = float(value >> 32)
            h[b] = float(value & 0xFFFFFFFF)
            n[b] = np.floor(h[b] * per_h + 0.5)
    elif classes:
        for b in range(used):
            h[b] = 0.0
            for k in range(outputs):
                g[k, b] = float(sums[b, k])
                h[b] += g[k, b]
            n[b] = float(sums[b, outputs])
    else:
        for b in range(used):
            g[0, b], h[b], n[b] = float(sums[b, 0]), float(sums[b, 1]), float(sums[b, 2])


@njit(inline="always")
def _note(record, gain, feature, b, missing_left, categorical, ln, left, lh):
    record[GAIN] = np.float64(gain).view(np.int64)
    record[FEATURE], record[BIN], record[COUNT] = feature, b, np.int64(ln)
    record[MISSING_LEFT], record[CATEGORICAL] = missing_left, categorical
    for k in range(len(left)):
        record[SUMS + k] = np.int64(left[k])
    record[SUMS + len(left)] = np.int64(lh)


@njit(inline="always")
def value_of(g, h, bounds, limits):
    """A node's value for one output, from integers."""
    weight = h * limits.hessian_unit + limits.l2
    if weight <= 0:
        return 0.0
    return min(max(-g * limits.gradient_unit / weight, bounds[0]), bounds[1])


@njit(inline="always")
def _score(g, h, bounds, limits):
    """Of the sums of a node."""
    weight = h * limits.hessian_unit + limits.l2
    if weight <= 0:
        return 0.0
    if limits.entropy:
        found = 0.0
        for k in range(len(g)):
            if g[k] > 0:
                found += g[k] * np.log2(g[k] / h)
        return found * limits.hessian_unit
    found = 0.0
    free = bounds[0] == -np.inf and bounds[1] == np.inf
    for k in range(len(g)):
        gradient = g[k] * limits.gradient_unit
        if free:
            found += gradient * gradient / weight
        else:
            w = value_of(g[k], h, bounds, limits)
            found += -2 * gradient * w - weight * w * w
    return found


@njit(inline="always")
def _gain(left, lh, ln, total, weight, count, monotone, bounds, limits):
    """Score of both children; minus infinity where they may not be."""
    rh = weight - lh
    if (
        ln < limits.min_samples_leaf
        or count - ln < limits.min_samples_leaf
        or lh * limits.hessian_unit < limits.min_hessian
        or rh * limits.hessian_unit < limits.min_hessian
        or lh <= 0
        or rh <= 0
    ):
        return -np.inf
    if monotone != 0:
        low = value_of(left[0], lh, bounds, limits)
        high = value_of(total[0] - left[0], rh, bounds, limits)
        if (high - low) * monotone < 0:
            return -np.inf
    if limits.entropy:
        return _score(left, lh, bounds, limits) + _score(total - left, rh, bounds, limits)
    found = 0.0
    lw, rw = lh * limits.hessian_unit + limits.l2, rh * limits.hessian_unit + limits.l2
    if bounds[0] == -np.inf and bounds[1] == np.inf:
        for k in range(len(left)):
            lg = left[k] * limits.gradient_unit
            rg = (total[k] - left[k]) * limits.gradient_unit
            found += (lg * lg * rw + rg * rg * lw) / (lw * rw)
        return found
    for k in range(len(left)):
        lg = left[k] * limits.gradient_unit
        rg = (total[k] - left[k]) * limits.gradient_unit
        a = value_of(left[k], lh, bounds, limits)
        b = value_of(total[k] - left[k], rh, bounds, limits)
        found += -2 * lg * a - lw * a * a - 2 * rg * b - rw * b * b
    return found


@njit(nogil=True, cache=True)
def goes_left(record, last, table):
    """Fill ``table`` (256,) uint8: for each bin, whether it goes left. last: the feature's bin of missing values."""
    for b in range(256):
        if record[CATEGORICAL]:
            table[b] = (uint64(record[MASK + (b >> 6)]) >> uint64(b & 63)) & uint64(1)
        else:
            table[b] = b <= record[BIN]
    if not record[CATEGORICAL] and last < 256:
        table[last] = record[MISSING_LEFT]
