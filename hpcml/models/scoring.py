"""How well a model predicts, over the rows of all ranks: accuracy of classifiers, R² of regressors."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml import collectives as hc
from hpcml.models.estimator import Estimator
from hpcml.models.inputs import labels, same_length, targets, weights


class Classifier(Estimator):
    """What predicts one of ``classes_`` (sorted; the union over the ranks)."""

    kind = "classifier"
    classes_: np.ndarray

    def predict(self, X: Any) -> np.ndarray:
        """The class (n,) of each row of ``X`` (n, d), from ``classes_``. Local."""
        raise NotImplementedError

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of rows, by weight and over all ranks, that are predicted correctly. Collective over ``comm``.

        Raises CollectiveError on every rank for rows that are wrong on any, and where no rank has any.
        """
        comm = self._world()
        counted = np.zeros(2)
        with hc.all_or_none(comm):
            named = labels(y)
            self._require_fitted()
            heavy = weights(sample_weight, len(named))
            if len(named):
                predicted = self.predict(X)
                same_length(predicted, named)
                hits = predicted == named
                counted[:] = (np.count_nonzero(hits), len(hits)) if heavy is None else (heavy @ hits, heavy.sum())
        hit, rows = hc.allreduce(counted, op="sum", comm=comm).tolist()
        if not rows:
            raise hc.ArgumentError("no rank has any rows to score")
        return hit / rows


class Regressor(Estimator):
    """What predicts a number."""

    kind = "regressor"

    def predict(self, X: Any) -> np.ndarray:
        """The number (n,), float64, for each row of ``X`` (n, d). Local."""
        raise NotImplementedError

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R² over the rows of all ranks: 1 − Σ w(y − predicted)² / Σ w(y − mean)².

        Collective over ``comm``. 1 is best; 0 is what the mean would get. Where all targets are equal it is 1 if all
        are predicted exactly, else 0.

        Raises CollectiveError on every rank for rows that are wrong on any, and where no rank has any.
        """
        comm = self._world()
        sums, missed = np.zeros(2), 0.0
        with hc.all_or_none(comm):
            wanted = targets(y)
            self._require_fitted()
            heavy = weights(sample_weight, len(wanted))
            heavy = np.ones(len(wanted)) if heavy is None else heavy
            if len(wanted):
                predicted = self.predict(X)
                same_length(predicted, wanted)
                missed = float(heavy @ (wanted - predicted) ** 2)
                sums[:] = heavy @ wanted, heavy.sum()
        total, weight = hc.allreduce(sums, op="sum", comm=comm).tolist()
        if not weight:
            raise hc.ArgumentError("no rank has any rows to score")
        spread = float(heavy @ (wanted - total / weight) ** 2)
        missed, spread = hc.allreduce(np.array([missed, spread]), op="sum", comm=comm).tolist()
        if spread == 0:
            return float(missed == 0)
        return 1 - missed / spread
