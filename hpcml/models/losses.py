"""Losses of classifiers: values, and gradients with respect to the scores.

A loss takes ``scores`` (n, k), float, and ``codes`` (n,), the class numbers, and returns the sum of the
loss over the rows, added up in float64; it overwrites ``scores`` with the gradient of that sum. k is the
number of classes, or 1 for two classes: then a positive score speaks for class 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpcml.models.device import module_of

Loss = Callable[[np.ndarray, np.ndarray], float]


def outputs(classes: int) -> int:
    """How many scores a row has: one per class, but a single one for two classes."""
    return 1 if classes == 2 else classes


def cross_entropy(scores: np.ndarray, codes: np.ndarray) -> float:
    """−log of the probability of the true class: softmax over k scores, logistic function of a single one."""
    return _logistic(scores, codes) if scores.shape[1] == 1 else _softmax(scores, codes)


def hinge(scores: np.ndarray, codes: np.ndarray) -> float:
    """Σ_k max(0, 1 − y_k f_k), one against the rest: y is +1 for the true class and −1 for the others."""
    margins = _margins(scores, codes)
    loss = float(margins.sum(dtype=np.float64))
    np.sign(margins, out=margins)
    _negate_true(margins, codes)
    return loss


def squared_hinge(scores: np.ndarray, codes: np.ndarray) -> float:
    """Σ_k max(0, 1 − y_k f_k)², with y as in ``hinge``."""
    margins = _margins(scores, codes)
    loss = float(np.einsum("nk,nk->", margins, margins, dtype=np.float64))
    margins *= 2
    _negate_true(margins, codes)
    return loss


def correct(scores: np.ndarray, codes: np.ndarray) -> int:
    """How many rows have their highest score (a positive one, if single) at the true class."""
    return int(np.count_nonzero(decided(scores) == codes))


def decided(scores: np.ndarray) -> np.ndarray:
    """The class numbers (n,) that the scores speak for."""
    return (scores[:, 0] > 0).astype(np.intp) if scores.shape[1] == 1 else scores.argmax(axis=1)


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Class probabilities (n, classes) under ``cross_entropy``; ``scores`` is overwritten."""
    if scores.shape[1] == 1:
        return np.exp(-np.logaddexp(0, np.hstack([scores, -scores])))
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def _softmax(scores: np.ndarray, codes: np.ndarray) -> float:
    rows = module_of(codes).arange(len(codes))
    # Less the greatest of its row no exponent is above 0, so nothing overflows.
    scores -= scores.max(axis=1, keepdims=True)
    true = scores[rows, codes].sum(dtype=np.float64)
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    scores /= total
    scores[rows, codes] -= 1
    return float(np.log(total).sum(dtype=np.float64) - true)


def _logistic(scores: np.ndarray, codes: np.ndarray) -> float:
    _negate_true(scores, codes)  # now −yf
    loss = float(np.logaddexp(0, scores).sum(dtype=np.float64))
    np.exp(-np.logaddexp(0, -scores), out=scores)
    _negate_true(scores, codes)
    return loss


def _margins(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """``scores`` turned into max(0, 1 − yf), in place."""
    _negate_true(scores, codes)
    scores += 1
    return np.maximum(scores, 0, out=scores)


def _negate_true(scores: np.ndarray, codes: np.ndarray) -> None:
    """Multiply by −y in place: the scores of true classes change their sign, the others (y = −1) stay."""
    if scores.shape[1] == 1:
        scores[codes == 1] *= -1
    else:
        scores[module_of(codes).arange(len(codes)), codes] *= -1
