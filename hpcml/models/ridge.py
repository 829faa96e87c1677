"""Ridge regression over ranks, by the normal equations.

With weights c_i of the rows, and an intercept that is not penalised::

    min_{w, b}  Σ_i c_i (y_i − x_i w − b)² + α ‖w‖²

which is the objective of scikit-learn's ``Ridge``. b = ȳ − x̄w for the weighted means; what is left is solved for the
centred rows, (X_cᵀ C X_c + α) w = X_cᵀ C y_c. One all-reduce for the means, and one for the matrix of d + 1 columns;
beyond 1,200 columns conjugate gradients, with one for each product. Sparse rows are centred in the products only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.models.design import Design, designed
from hpcml.models.linear import LinearRegressor, warn_unfinished
from hpcml.models.newton import DIRECT, solved_with_ridge
from hpcml.models.rows import Rows
from hpcml.models.settings import number, whole
from hpcml.models.threads import own_cores


class Ridge(LinearRegressor):
    """Linear least squares with an L2 penalty; its problem stands above.

    ``fit`` and ``score`` are collective over ``comm``; everything else is local. Each rank passes its own rows.

    Parameters: ``alpha`` ≥ 0, the penalty; ``fit_intercept``; ``tol`` and ``max_iter`` of conjugate gradients, which many
    columns want: the residual, relative to the right-hand side, and the products at most; ``reproducible``, the same bits on
    any number of ranks and for any spread of the rows over them.

    Fitted: ``coef_`` (d,), ``intercept_``, ``n_iter_``.

    >>> import numpy as np
    >>> model = Ridge(alpha=1e-9).fit(np.arange(5.0)[:, None], 2 * np.arange(5.0) + 1)
    >>> model.coef_.round(6).tolist()
    [2.0]
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 1000,
        reproducible: bool = False,
        comm: Any = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.reproducible = reproducible
        self.comm = comm

    def _check(self) -> None:
        number("alpha", self.alpha, least=0)
        number("tol", self.tol, above=0)
        whole("max_iter", self.max_iter, least=1)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit the numbers ``y`` (n,) of the rows of all ranks, and return the estimator. Collective over ``comm``.

        ``X`` (n, d), dense or sparse, ``y`` (n,) and ``sample_weight`` (n,) are this rank's, n ≥ 0.

        Raises CollectiveError on every rank for parameters or rows that are wrong on any, or differ between ranks.
        """
        comm = self._world()
        rows = self._training_rows(X, y, sample_weight, comm)
        with own_cores(comm, most=1 if self.reproducible else None):
            rows, design = designed(rows, comm, None, self.reproducible)
            weights = np.ones(len(rows.y)) if rows.weights is None else rows.weights
            middle, mean = self._means(design, rows, weights) if self.fit_intercept else (np.zeros(design.columns), 0.0)
            y = rows.y - mean
            direct = design.columns <= DIRECT
            w = self._solved(design, weights, y, middle) if direct else self._iterated(design, weights, y, middle)
        self._take(w[:, None], None, rows)
        self.intercept_ = float(mean - middle @ w) if self.fit_intercept else 0.0
        return self

    def _means(self, design: Design, rows: Rows, weights: np.ndarray) -> tuple[np.ndarray, float]:
        """Of the columns of X, and of y."""
        values, sums = design.again(
            np.zeros((design.rows, 1)),
            lambda scores, at: (
                weights[at : at + len(scores), None],
                _sums(weights[at : at + len(scores)], rows.y[at : at + len(scores)]),
            ),
            2,
        )
        return sums[:, 0] / values[0], float(values[1] / values[0])

    def _solved(self, design: Design, weights: np.ndarray, y: np.ndarray, middle: np.ndarray) -> np.ndarray:
        gram, product = design.normal(weights, y, middle)
        self.n_iter_ = 1
        return solved_with_ridge(gram, np.full(len(gram), float(self.alpha)), product)

    def _iterated(self, design: Design, weights: np.ndarray, y: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """Conjugate gradients with the centred matrix, X_c v = X v − (x̄v)."""
        total = float(design.total(design.by_unit(weights)))
        times = design.product(np.arange(design.rows), lambda along, here: weights[here, None] * along)

        def hessian(v: np.ndarray) -> np.ndarray:
            # X_cᵀ C X_c = Xᵀ C X − (Σ c) x̄ x̄ᵀ
            return times(v[:, None])[:, 0] - total * middle * float(middle @ v) + float(self.alpha) * v

        _, right = design.again(
            np.zeros((design.rows, 1)),
            lambda scores, at: ((weights * y)[at : at + len(scores), None], np.zeros(0)),
            0,
        )
        residual = right[:, 0].copy()
        w, ahead, size = np.zeros_like(residual), residual.copy(), float(residual @ residual)
        enough = self.tol**2 * size
        for turn in range(self.max_iter):
            if size <= enough:
                break
            bent = hessian(ahead)
            curvature = float(ahead @ bent)
            if curvature <= 0:
                break
            length = size / curvature
            w, residual = w + length * ahead, residual - length * bent
            before, size = size, float(residual @ residual)
            ahead = residual + size / before * ahead
        self.n_iter_ = turn
        if size > enough:
            warn_unfinished(type(self).__name__, turn, f"a residual of {np.sqrt(size):.1e}")
        return w


def _sums(weights: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([weights.sum(), weights @ y])
