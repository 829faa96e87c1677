"""Logistic regression over ranks, by Newton's method.

With p(x) = softmax(xW + b), or for two classes 1/(1 + exp(−y(xw + b))), y = ±1, and weights c_i of the rows::

    min_{W, b}  C Σ_i c_i (−log p_{y_i}(x_i)) + ½ ‖W‖²

which is the objective of scikit-learn's ``LogisticRegression`` with its penalty "l2": the intercept is not penalised. A
few passes over the data suffice; see `newton`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.models.design import designed
from hpcml.models.inputs import features
from hpcml.models.linear import Course, LinearClassifier, class_factors, warn_unfinished
from hpcml.models.logits import Logits, softmax
from hpcml.models.losses import cross_entropy
from hpcml.models.newton import Newton
from hpcml.models.rows import validation_rows
from hpcml.models.settings import number, whole
from hpcml.models.threads import own_cores
from hpcml.models.training import Monitor


class LogisticRegression(LinearClassifier):
    """Logistic regression, multinomial for more than two classes, with an L2 penalty; its problem stands above.

    ``fit`` and ``score`` are collective over ``comm``; everything else is local. Each rank passes its own rows.

    Parameters: ``C`` > 0, weight of the data against the penalty; ``tol``, the largest component of the gradient of the
    mean loss at which it stops (as scikit-learn's lbfgs); ``max_iter``; ``fit_intercept``; ``class_weight``, None, a
    mapping from labels to weights, or "balanced"; ``reproducible``, the same bits on any number of ranks and for any
    spread of the rows over them; ``verbose``, print objective, gradient and time of each iteration.

    Fitted: ``coef_`` (k, d) and ``intercept_`` (k,), k being 1 for two classes, ``classes_``, ``n_iter_``, ``history_``
    (a record of each iteration, see `linear.Course`; its gap is what ``tol`` is about).

    >>> import numpy as np
    >>> model = LogisticRegression().fit(np.array([[-2.0], [-1.0], [1.0], [3.0]]), [0, 0, 1, 1])
    >>> model.predict_proba([[0.0]]).shape
    (1, 2)
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float = 1e-5,
        max_iter: int = 100,
        fit_intercept: bool = True,
        class_weight: Any = None,
        reproducible: bool = False,
        verbose: int = 0,
        comm: Any = None,
    ) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.reproducible = reproducible
        self.verbose = verbose
        self.comm = comm

    def _check(self) -> None:
        number("C", self.C, above=0)
        number("tol", self.tol, above=0)
        whole("max_iter", self.max_iter, least=1)

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: tuple[Any, Any] | None = None,
        monitor: Monitor | None = None,
    ) -> Any:
        """Fit the rows of all ranks, and return the estimator. Collective over ``comm``.

        ``X`` (n, d), dense or sparse, ``y`` (n,) and ``sample_weight`` (n,) are this rank's, n ≥ 0. ``validation``, a
        pair (X, y), is judged after every iteration; ``monitor.epoch`` is told of each.

        Raises CollectiveError on every rank for parameters or rows that are wrong on any, or differ between ranks.
        """
        comm = self._world()
        rows = self._training_rows(X, y, sample_weight, comm)
        watched = validation_rows(validation, rows, lambda X: features(X, rows.X.dtype, sparse=True), comm)
        assert rows.classes is not None
        k = 1 if len(rows.classes) == 2 else len(rows.classes)
        scale = 1.0 if self.fit_intercept else None
        with own_cores(comm, most=1 if self.reproducible else None):
            rows, design = designed(rows, comm, scale, self.reproducible)
            heavy = 1.0 if rows.weights is None else rows.weights
            weights = float(self.C) * heavy * class_factors(rows, self.class_weight, comm)[rows.y]
            weight = float(design.total(design.by_unit(weights)))
            ridge = np.ones(design.columns)
            ridge[rows.X.shape[1] :] = 0.0
            newton = Newton(design, Logits(rows.y, weights, k), ridge)
            course = Course(design, rows, weight, watched, monitor, bool(self.verbose) and monitor is None)
            point = newton.at(np.zeros((design.columns, k)))
            for turn in range(self.max_iter + 1):
                left = float(np.abs(point.gradient).max()) / weight
                course.note(point.value, left, point.scores, point.W, lambda f, codes: cross_entropy(f.copy(), codes))
                if left <= self.tol or turn == self.max_iter:
                    break
                after = newton.step(point)
                if after is point:  # rounding leaves no lower one
                    break
                point = after
        W = point.W
        if k > 1 and self.fit_intercept:
            W = W.copy()
            W[-1] -= W[-1].mean()  # the probabilities do not change with it, and the penalty leaves it open
        self._take(W, scale, rows)
        self.n_iter_, self.history_ = turn, course.history
        if left > self.tol:
            warn_unfinished(type(self).__name__, self.n_iter_, f"a gradient of {left:.1e}")
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, classes) for the rows of ``X``, in the order of ``classes_``. Local."""
        p = softmax(self._scores(X))
        return np.hstack([1 - p, p]) if p.shape[1] == 1 else p

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of ``predict_proba``, where that is too small for a float, too."""
        scores = self._scores(X)
        if scores.shape[1] == 1:
            return -np.logaddexp(0, np.hstack([scores, -scores]))
        scores = scores - scores.max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
