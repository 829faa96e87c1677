"""Probabilities from decision values: Platt's sigmoid for two classes, coupled in pairs for more.

Lin, Lin, Weng, A note on Platt's probabilistic outputs for support vector machines, Machine Learning 68 (2007),
appendix; Wu, Lin, Weng, Probability estimates for multi-class classification by pairwise coupling, JMLR 5 (2004),
algorithm 2. Both as LIBSVM has them.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc

#: Newton's steps at most, the least length of one, what is added to the Hessian's diagonal, the gradient that will do.
STEPS, SHORTEST, RIDGE, STILL = 100, 1e-10, 1e-12, 1e-5


def sigmoid(values: np.ndarray, positive: np.ndarray, comm: MPI.Intracomm, reproducible: bool) -> tuple[float, float]:
    """A and B for which 1 / (1 + exp(A f + B)) is the likeliest probability of being positive, over all ranks' rows.

    values (n,): this rank's decision values f; positive (n,): booleans. Collective: six sums a step.
    """

    def summed(terms: np.ndarray) -> np.ndarray:
        return hc.allreduce(terms, axis=0, reproducible=reproducible, comm=comm)

    ones, zeros = summed(np.stack([positive, ~positive], axis=1).astype(np.float64)).tolist()
    target = np.where(positive, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    A, B = 0.0, float(np.log((zeros + 1) / (ones + 1)))
    loss, *slopes = summed(_terms(values, target, A, B)).tolist()
    for _ in range(STEPS):
        gA, gB, hAA, hBB, hAB = slopes
        if abs(gA) < STILL and abs(gB) < STILL:
            break
        hAA, hBB = hAA + RIDGE, hBB + RIDGE
        determinant = hAA * hBB - hAB * hAB
        dA, dB = -(hBB * gA - hAB * gB) / determinant, -(hAA * gB - hAB * gA) / determinant
        descent, length = gA * dA + gB * dB, 1.0
        while length >= SHORTEST:
            found, *there = summed(_terms(values, target, A + length * dA, B + length * dB)).tolist()
            if found < loss + 1e-4 * length * descent:
                A, B, loss, slopes = A + length * dA, B + length * dB, found, there
                break
            length /= 2
        else:
            break
    return A, B


def _terms(values: np.ndarray, target: np.ndarray, A: float, B: float) -> np.ndarray:
    """Each row's part (n, 6) of the negative log-likelihood, its gradient (A, B) and Hessian (AA, BB, AB)."""
    z = A * values + B
    small = np.exp(-np.abs(z))
    p = np.where(z >= 0, small, 1.0) / (1 + small)
    loss = np.where(z >= 0, target * z, (target - 1) * z) + np.log1p(small)
    d1, d2 = target - p, p * (1 - p)
    return np.stack([loss, values * d1, d1, values * values * d2, d2, values * d2], axis=1)


def pair_probabilities(values: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The sigmoid of each pair (n, pairs), kept from 0 and 1 as LIBSVM does it."""
    z = values * A + B
    small = np.exp(-np.abs(z))
    return np.clip(np.where(z >= 0, small, 1.0) / (1 + small), 1e-7, 1 - 1e-7)


@njit(cache=True, nogil=True)
def coupled(pairs: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities (n, classes) that agree best with those of each pair i < j, in order, of being i (n, pairs)."""
    n = len(pairs)
    out = np.empty((n, classes))
    Q, r, Qp = np.empty((classes, classes)), np.zeros((classes, classes)), np.empty(classes)
    for row in range(n):
        at = 0
        for i in range(classes):
            for j in range(i + 1, classes):
                r[i, j], r[j, i] = pairs[row, at], 1 - pairs[row, at]
                at += 1
        p = out[row]
        for t in range(classes):
            p[t] = 1.0 / classes
            Q[t, t] = 0.0
            for j in range(classes):
                if j != t:
                    Q[t, t] += r[j, t] * r[j, t]
                    Q[t, j] = -r[j, t] * r[t, j]
        for _ in range(max(100, classes)):
            pQp = 0.0
            for t in range(classes):
                Qp[t] = 0.0
                for j in range(classes):
                    Qp[t] += Q[t, j] * p[j]
                pQp += p[t] * Qp[t]
            worst = 0.0
            for t in range(classes):
                worst = max(worst, abs(Qp[t] - pQp))
            if worst < 0.005 / classes:
                break
            for t in range(classes):
                diff = (pQp - Qp[t]) / Q[t, t]
                p[t] += diff
                pQp = (pQp + diff * (diff * Q[t, t] + 2 * Qp[t])) / (1 + diff) / (1 + diff)
                for j in range(classes):
                    Qp[j] = (Qp[j] + diff * Q[t, j]) / (1 + diff)
                    p[j] /= 1 + diff
    return out
