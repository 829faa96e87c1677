"""Sequential minimal optimisation of a small quadratic programme, the same steps on every rank.

    minimise ½ vᵀKv + cᵀv   subject to   Σ v = 0,   lo ≤ v ≤ hi

With F = Kv + c, a pair (i, j) with v_i < hi, v_j > lo and F_j > F_i can be improved: v_i up and v_j down. i has the
least F; j promises most, (F_j − F_i)² / (K_ii + K_jj − 2 K_ij): working set selection 2 of Fan, Chen and Lin, Working
set selection using second order information for training support vector machines, JMLR 6 (2005). Ties go to the
first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: LIBSVM's, for kernels that are not positive definite.
TINY = 1e-12


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def solve(
    K: np.ndarray, F: np.ndarray, v: np.ndarray, lo: np.ndarray, hi: np.ndarray, share: float, least: float, most: int
) -> int:
    """Improve ``v`` and with it ``F``, in place, until max F_j − min F_i ≤ max(least, share · what it was).

    K (q, q), float32 or float64; the others float64. Returns the steps taken, ``most`` at most.
    """
    q = len(v)
    up, down = np.empty(q), np.empty(q)  # added to F: what cannot go up, or down, loses
    gains, diagonal = np.empty(q, np.float32), np.empty(q, np.float32)
    for k in range(q):
        up[k] = 0.0 if v[k] < hi[k] else np.inf
        down[k] = 0.0 if v[k] > lo[k] else -np.inf
        diagonal[k] = K[k, k]
    lowest = np.inf
    for k in range(q):
        f = F[k] + up[k]
        lowest = f if f < lowest else lowest
    goal = -1.0
    for step in range(most):
        if lowest == np.inf:
            return step
        i = 0
        while F[i] + up[i] != lowest:
            i += 1
        row, own, highest = K[i], diagonal[i], -np.inf
        best = np.float32(0)
        for k in range(q):
            f = F[k] + down[k]
            highest = f if f > highest else highest
            rise = np.float32(max(f - lowest, 0.0))
            curve = max(own + diagonal[k] - np.float32(2) * np.float32(row[k]), np.float32(TINY))
            gain = rise * rise / curve
            gains[k] = gain
            best = gain if gain > best else best
        if goal < 0:
            goal = max(least, share * (highest - lowest))
        if not highest - lowest > goal or not best > 0:
            return step
        j = 0
        while gains[j] != best:
            j += 1
        curve = max(np.float64(K[i, i]) + np.float64(K[j, j]) - 2.0 * np.float64(K[i, j]), TINY)
        length = (F[j] - lowest) / curve
        if length >= hi[i] - v[i] and hi[i] - v[i] <= v[j] - lo[j]:
            length = hi[i] - v[i]
            v[j] -= length
            v[i] = hi[i]
            if not v[j] > lo[j]:
                v[j] = lo[j]
        elif length >= v[j] - lo[j]:
            length = v[j] - lo[j]
            v[i] += length
            v[j] = lo[j]
            if not v[i] < hi[i]:
                v[i] = hi[i]
        else:
            v[i] += length
            v[j] -= length
        up[i], up[j] = 0.0 if v[i] < hi[i] else np.inf, 0.0 if v[j] < hi[j] else np.inf
        down[i], down[j] = 0.0 if v[i] > lo[i] else -np.inf, 0.0 if v[j] > lo[j] else -np.inf
        other = K[j]
        lowest = np.inf
        for k in range(q):
            f = F[k] + length * (np.float64(row[k]) - np.float64(other[k]))
            F[k] = f
            f += up[k]
            lowest = f if f < lowest else lowest
    return most
