"""Rows like those of HIGGS (Baldi, Sadowski, Whiteson 2014): 28 float32 columns, a label that is hard to tell.

Every row depends on its global number only, so ranks can make their own, and any sharding is of the same rows. The
first 21 columns are noisy measurements, some of one sign and skewed; the last 7 are functions of the others.
"""

from __future__ import annotations

import numpy as np

COLUMNS = 28
CHUNK = 50_000  # rows that are drawn from one stream


def rows(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """X (last − first, 28) float32 and labels (last − first,) int64 of the rows with these global numbers."""
    chunks = [_chunk(c) for c in range(first // CHUNK, -(-last // CHUNK))]
    X, y = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    start = first - first // CHUNK * CHUNK
    return np.ascontiguousarray(X[start : start + last - first]), y[start : start + last - first]


def _chunk(number: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng((28, number))
    low = random.normal(size=(CHUNK, 21)).astype(np.float32)
    low[:, ::3] = np.exp(0.6 * low[:, ::3])
    low[:, 5:21:5] = np.rint(2 * low[:, 5:21:5]) / 2  # few distinct values
    high = np.empty((CHUNK, 7), np.float32)
    for k in range(7):
        a, b, c = low[:, 3 * k], low[:, 3 * k + 1], low[:, 3 * k + 2]
        high[:, k] = np.sqrt(a * a + (b - 0.4 * c) ** 2) + random.normal(0, 0.3, CHUNK)
    score = 1.1 * np.sin(1.5 * high[:, 0]) + 0.8 * (high[:, 1] > 1.4) * high[:, 2] - 0.7 * high[:, 3] * (low[:, 4] > 0)
    score += 0.5 * low[:, 1] * low[:, 7] - 0.4 * np.abs(low[:, 10]) + 0.6 * np.tanh(high[:, 5] - high[:, 6])
    y = random.random(CHUNK) < 1 / (1 + np.exp(0.35 - 1.2 * score))
    return np.concatenate([low, high], axis=1), y.astype(np.int64)
