"""Gradient boosting on histograms: classification and regression.

Minimises Σ_i w_i loss(y_i, s(x_i)) by adding trees to the scores s, one an iteration (of K > 2 classes, K): each grows
on the gradients and hessians of the loss at the present scores, and its leaves have the value −ηG/(H + λ) (Friedman
2001; Chen, Guestrin 2016). Trees grow leaf by leaf, the one that gains most first (Ke et al. 2017, "LightGBM").
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI
from numba import njit

from hpcml import collectives as hc
from hpcml.models.rows import Rows, training_rows, validation_rows
from hpcml.models.scoring import Classifier, Regressor
from hpcml.models.settings import choice, number, whole
from hpcml.models.threads import own_cores
from hpcml.models.trees import losses, quantisation
from hpcml.models.trees.binning import binned, find_edges, with_missing
from hpcml.models.trees.columns import Columns
from hpcml.models.trees.estimator import TreeEstimator, whole_or_none
from hpcml.models.trees.grower import Grower, Grown, Growth
from hpcml.models.trees.partition import add_to_rows, chosen
from hpcml.models.trees.quantiles import quantiles
from hpcml.models.trees.splitter import Limits
from hpcml.models.trees.tree import Predictor, Trees

LEAST_HESSIAN = 1e-3  # of a child, as LightGBM's


class Boosting(TreeEstimator):
    """What boosting for classes and for numbers share.

    Fitted: ``trees_`` (see `tree.Trees`), ``start_`` (outputs,): the scores before the first, ``n_estimators_``:
    iterations that are kept, ``history_``: a record of each.
    """

    n_estimators: int
    learning_rate: float
    max_leaf_nodes: int | None
    max_depth: int | None
    min_samples_leaf: int
    l2_regularization: float
    min_gain_to_split: float
    max_bins: int
    subsample: float
    max_features: float
    monotonic_cst: Any
    categorical_features: Any
    warm_start: bool
    n_iter_no_change: int | None
    validation_fraction: float
    tol: float
    parallel: str
    top_k: int
    random_state: int | None

    start_: np.ndarray
    n_estimators_: int
    history_: list[dict[str, Any]]

    def _loss(self) -> losses.Loss:
        raise NotImplementedError

    def _check(self) -> None:
        whole("n_estimators", self.n_estimators, least=1)
        number("learning_rate", self.learning_rate, above=0)
        whole_or_none("max_leaf_nodes", self.max_leaf_nodes, least=2)
        whole_or_none("max_depth", self.max_depth, least=1)
        whole("min_samples_leaf", self.min_samples_leaf, least=1)
        number("l2_regularization", self.l2_regularization, least=0)
        number("min_gain_to_split", self.min_gain_to_split, least=0)
        whole("max_bins", self.max_bins, least=2)
        if self.max_bins > 255:
            raise ValueError(f"max_bins={self.max_bins}; expected at most 255")
        number("subsample", self.subsample, above=0)
        number("max_features", self.max_features, above=0)
        for name in ("subsample", "max_features"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected a share, at most 1")
        whole_or_none("n_iter_no_change", self.n_iter_no_change, least=1)
        number("validation_fraction", self.validation_fraction, above=0, below=1)
        number("tol", self.tol, least=0)
        choice("parallel", self.parallel, ("data", "voting", "feature"))
        whole("top_k", self.top_k, least=1)
        if self.random_state is not None:
            whole("random_state", self.random_state, least=0)

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: tuple[Any, Any] | None = None,
        monitor: Any = None,
    ) -> Any:
        """Train on the rows of all ranks and return the estimator. Collective over ``comm``.

        ``X`` (n, d), numbers with NaN for what is missing, or a data frame, and ``y`` (n,) are this rank's rows, n ≥
        0; ``sample_weight`` (n,), 0 or more. The model is the same, bit for bit, however the rows are spread over
        ranks, as long as their global order (rank 0's first) is. ``validation``, a pair (X, y) of this rank's
        validation rows, is evaluated after every iteration, and with ``n_iter_no_change`` decides when to stop.
        ``monitor`` is called after every iteration (see `hpcml.models.training.Monitor`; its records have what
        applies).

        Raises CollectiveError on every rank for parameters or rows that are wrong on any, or differ between ranks.
        """
        comm = self._world()
        self._agree(comm)
        going_on = self.warm_start and self.__sklearn_is_fitted__()
        columns = self._columns_for(X, comm, going_on)
        classify = self.kind == "classifier"
        rows = training_rows(X, y, columns.array, comm, classify=classify, sample_weight=sample_weight)
        watched = validation_rows(validation, rows, columns.array, comm)
        if going_on:
            with hc.all_or_none(comm):
                self._require_columns(X if len(rows.X) else rows.X, rows.X.shape[1])
                if rows.classes is not None and not np.array_equal(rows.classes, self.classes_):
                    raise ValueError("warm_start with other classes than before: fit a new estimator")
        with own_cores(comm):
            run = _Run(self, rows, watched, columns, self._seed(comm), comm, self if going_on else None)
            try:
                run.train(self.n_estimators, monitor)
            finally:
                run.close()
        self.trees_, self.edges_, self.columns_ = run.trees(), run.binned.edges, columns
        self.start_, self.n_estimators_, self.history_ = run.start, run.kept, run.history
        self._fitted(rows)
        return self

    def _scores(self, X: Any) -> np.ndarray:
        """The scores (n, outputs)."""
        X = self._checked(X)
        return self._predictor.sums(X, self.start_)

    def _outputs_in_turn(self) -> int:
        return len(self.start_)

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        facts, arrays = super()._saved()
        facts.update(n_estimators=self.n_estimators_, history=self.history_)
        return facts, {**arrays, "start": self.start_}

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.n_estimators_, self.history_, self.start_ = facts["n_estimators"], facts["history"], arrays["start"]
        super()._restore(facts, arrays)


class _Run:
    """One training: scores of this rank's rows, and the trees so far."""

    def __init__(
        self,
        model: Boosting,
        rows: Rows,
        watched: Rows | None,
        columns: Columns,
        seed: int,
        comm: MPI.Intracomm,
        before: Boosting | None,
    ) -> None:
        self.model, self.seed, self.comm, self.loss = model, seed, comm, model._loss()
        began = perf_counter()
        first = rows.first(comm.rank)
        if watched is None and model.n_iter_no_change is not None:
            rows, watched, first = self._set_aside(rows, first)
        self.rows, self.watched, self.first = rows, watched, first
        if before is not None:
            edges = with_missing(before.edges_, rows.X, comm)
        else:
            categories = columns.counts(rows.X.shape[1])
            edges = find_edges(rows.X, first, rows.total, comm, model.max_bins, categories)
        self.binned = binned(rows.X, edges)
        outputs = len(rows.classes) if rows.classes is not None and len(rows.classes) > 2 else 1
        self.outputs = outputs
        self.start = before.start_ if before is not None else self.loss.start(rows, outputs, comm)
        self._parts: list[Trees] = [] if before is None else [before.trees_]
        self.done = self.kept = 0 if before is None else before.n_estimators_
        self.history: list[dict[str, Any]] = [] if before is None else list(before.history_)
        self.scores = self._first_scores(rows.X)
        self.watched_scores = None if watched is None else self._first_scores(watched.X)
        self.best, self.best_at = np.inf, self.done
        n = len(rows.X)
        self.bits = quantisation.packed_bits(rows.total)
        self.kind = "packed" if self.bits else "channels"
        self.bits = self.bits or quantisation.channel_bits(rows.total)
        monotone = monotone_of(model.monotonic_cst, rows)
        self.grower = Grower(
            self.binned, comm, self.kind, monotone=monotone, parallel=model.parallel, votes=model.top_k
        )
        self.constant = self.loss.constant and rows.weights is None
        self.g = np.empty(n, np.float32)
        self.h = np.empty(0 if self.constant else n, np.float32)
        self.integers = np.empty(n if self.kind == "packed" else (n, 3), np.int64)
        self.all = np.arange(n, dtype=np.int32)
        self.setting_up = perf_counter() - began

    def close(self) -> None:
        self.grower.close()

    def trees(self) -> Trees:
        kept = self.kept * self.outputs
        return Trees.joined(self._parts).first(kept)

    def train(self, iterations: int, monitor: Any) -> None:
        model = self.model
        while self.done < iterations:
            began = perf_counter()
            grown = self._iterate()
            record = self._record(grown, perf_counter() - began, monitor is not None)
            self.history.append(record)
            if monitor is not None:
                monitor.epoch(dict(record))
            self.kept = self.done
            if model.n_iter_no_change is not None:
                if record["validation_loss"] < self.best - model.tol:
                    self.best, self.best_at = record["validation_loss"], self.done
                elif self.done - self.best_at >= model.n_iter_no_change:
                    self.kept = max(1, self.best_at)
                    break
            if all(len(one.nodes) == 1 for one in grown) and model.subsample == 1 and model.max_features == 1:
                break  # nothing is left to be split, nor will be

    def _iterate(self) -> list[Grown]:
        """One iteration: a tree for each output, on the scores before it."""
        model, loss = self.model, self.loss
        key = quantisation.key_of(self.seed, self.done)
        selected = self.all
        if model.subsample < 1:
            chances = np.empty(len(self.all))
            quantisation.uniform(self.first, np.uint64(key ^ 0xA5A5), chances)
            selected = np.empty(len(self.all), np.int32)
            selected = selected[: chosen(chances, model.subsample, selected)]
        allowed = self._allowed(key)
        scores = self.scores.copy() if self.outputs > 1 else self.scores
        grown = []
        for output in range(self.outputs):
            loss.derivatives(scores, self.rows.y, output, self.g, self.h)
            if self.rows.weights is not None:
                if loss.constant:
                    self.h[:] = 1
                weights = self.rows.weights.astype(np.float32)
                self.g *= weights
                self.h *= weights
            hessians = None if self.constant else self.h
            units = quantisation.units_of(self.g, hessians, self.bits, self.comm)
            quantisation.integers(self.g, hessians, units, self.first, key + output, self.integers)
            totals = hc.allreduce(totals_of(self.integers, selected), op="sum", comm=self.comm)
            limits = Limits(
                units.gradient,
                units.hessian,
                float(model.l2_regularization),
                model.min_samples_leaf,
                0.0 if loss.constant else LEAST_HESSIAN,
                float(model.min_gain_to_split),
            )
            growth = Growth(limits, model.max_leaf_nodes, model.max_depth)
            one = self.grower.grow((self.integers,), selected, totals, growth, allowed)
            if loss.level is not None:
                self._renew(one, loss.level)
            one.tree.value *= model.learning_rate
            self._add(one, output, selected)
            self._parts.append(one.tree)
            grown.append(one)
        self.done += 1
        return grown

    def _renew(self, one: Grown, level: float) -> None:
        """Leaves get the quantile of what is left of their rows' targets."""
        leaf = np.repeat(np.arange(len(one.nodes)), one.ends - one.begins)
        mine = np.concatenate([one.rows[a:b] for a, b in zip(one.begins, one.ends, strict=True)])
        weights = None if self.rows.weights is None else self.rows.weights[mine]
        left = self.rows.y[mine] - self.scores[0][mine]
        one.tree.value[one.nodes, 0] = quantiles(left, leaf, len(one.nodes), level, weights, self.comm)

    def _add(self, one: Grown, output: int, selected: np.ndarray) -> None:
        if len(selected) == len(self.all):
            values = one.tree.value[one.nodes, 0]
            add_to_rows(one.rows, one.begins, one.ends, values, self.scores[output])
        else:
            leaves = Predictor(one.tree, self.binned.edges).leaves(self.binned.rows)[:, 0]
            self.scores[output] += one.tree.value[leaves, 0]
        if self.watched is not None and self.watched_scores is not None:
            predictor = Predictor(one.tree, self.binned.edges)
            self.watched_scores[output] = predictor.sums(self.watched.X, self.watched_scores[output][:, None])[:, 0]

    def _allowed(self, key: int) -> np.ndarray:
        features = self.binned.edges.features
        allowed = np.ones(features, np.bool_)
        if self.model.max_features < 1:
            chances = np.empty(features)
            quantisation.uniform(0, np.uint64(key ^ 0x5A5A), chances)
            wanted = max(1, round(self.model.max_features * features))
            allowed[:] = False
            allowed[np.argsort(chances, kind="stable")[:wanted]] = True
        return allowed

    def _first_scores(self, X: np.ndarray) -> np.ndarray:
        """Scores (outputs, n) before the first iteration, or after those that went before."""
        if not self._parts:
            return np.repeat(self.start[:, None], len(X), axis=1)
        predictor = Predictor(self._parts[0], self.binned.edges, turns=len(self.start))
        return np.ascontiguousarray(predictor.sums(X, self.start).T)

    def _set_aside(self, rows: Rows, first: int) -> tuple[Rows, Rows, int]:
        """Rows to train on and rows to watch: by a hash of their global numbers."""
        chances = np.empty(len(rows.X))
        quantisation.uniform(first, np.uint64(quantisation.key_of(self.seed, -1)), chances)
        aside = chances < self.model.validation_fraction
        parts = []
        for part in (~aside, aside):
            counts = self.comm.allgather(int(part.sum()))
            weights = None if rows.weights is None else rows.weights[part]
            parts.append(rows._replace(X=rows.X[part], y=rows.y[part], counts=counts, weights=weights))
        kept, watched = parts
        if not kept.total or not watched.total:
            raise hc.ArgumentError(
                f"of {rows.total} rows, validation_fraction={self.model.validation_fraction} leaves {kept.total} to "
                f"train on and {watched.total} to watch: pass validation=(X, y), or leave n_iter_no_change out"
            )
        return kept, watched, kept.first(self.comm.rank)

    def _record(self, grown: list[Grown], seconds: float, wanted: bool) -> dict[str, Any]:
        communicating, sent = self.grower.account()
        record: dict[str, Any] = {
            "epoch": self.done,
            "step": self.done,
            "leaves": sum(len(one.nodes) for one in grown),
            "seconds": seconds,
            "compute_seconds": seconds - communicating,
            "communication_seconds": communicating,
            "sent_nbytes": sent,
            "samples_per_second": self.rows.total / seconds,
            "learning_rate": self.model.learning_rate,
        }
        if wanted:
            record.update(self._judged("", self.scores, self.rows))
        if self.watched is not None and self.watched_scores is not None:
            record.update(self._judged("validation_", self.watched_scores, self.watched))
        return record

    def _judged(self, prefix: str, scores: np.ndarray, rows: Rows) -> dict[str, float]:
        """Mean loss and, of classes, accuracy over the rows of all ranks: the same bits for any sharding."""
        found = {prefix + "loss": losses.mean(self.loss.values(scores, rows.y), rows.weights, self.comm)}
        if rows.classes is not None:
            codes = (scores[0] > 0).astype(np.int64) if len(scores) == 1 else scores.argmax(axis=0)
            hits = (codes == rows.y).astype(np.float64)
            found[prefix + "accuracy"] = losses.mean(hits, rows.weights, self.comm)
        return found


@njit(nogil=True, cache=True)
def _packed_totals(values, rows):
    total = 0
    for r in rows:
        total += values[r]
    return total


def totals_of(integers: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """G, H and the number of the selected rows of this rank (3,) int64."""
    if integers.ndim == 1:
        total = _packed_totals(integers, selected)
        return np.array([total >> 32, total & 0xFFFFFFFF, len(selected)], np.int64)
    return integers[selected].sum(axis=0)


def monotone_of(given: Any, rows: Rows) -> np.ndarray:
    """1, 0 or −1 for each column (d,) int64, from a sequence, or a dict by name or number. Raises ValueError."""
    columns = rows.X.shape[1]
    found = np.zeros(columns, np.int64)
    if given is None:
        return found
    if isinstance(given, dict):
        for key, direction in given.items():
            if isinstance(key, str) and key not in (rows.names or []):
                raise hc.ArgumentError(f"monotonic_cst has {key!r}, which is no column of X")
            found[(rows.names or []).index(key) if isinstance(key, str) else key] = direction
    elif isinstance(given, Sequence | np.ndarray) and len(given) == columns:
        found[:] = given
    else:
        raise hc.ArgumentError(f"monotonic_cst={given!r}; expected {columns} of -1, 0 and 1, or a dict by column")
    if not np.isin(found, (-1, 0, 1)).all():
        raise hc.ArgumentError(f"monotonic_cst={given!r}; expected only -1, 0 and 1")
    return found


class GradientBoostingClassifier(Boosting, Classifier):
    """Gradient-boosted trees for two or more classes, by the logistic or the multinomial loss.

    Parameters: ``n_estimators``, iterations; ``learning_rate`` η; ``max_leaf_nodes`` and ``max_depth`` of a tree
    (None: no limit); ``min_samples_leaf``, rows of a leaf at least (estimated by their hessians);
    ``l2_regularization`` λ; ``min_gain_to_split``; ``max_bins`` of a feature, at most 255; ``subsample`` and
    ``max_features``, the shares of rows and columns of each tree; ``monotonic_cst``, for each column 1 (predictions
    may only rise with it), −1 or 0, or a dict; ``categorical_features``, "from_dtype" (of data frames), or names,
    numbers or a mask; ``warm_start``, fit goes on with the trees that are there; ``n_iter_no_change``, stop after so
    many iterations without an improvement of the validation loss by ``tol``, and keep the trees up to the best, where
    the validation rows are those passed to `fit` or a ``validation_fraction`` of the others; ``parallel``, how ranks
    share the work: "data" (sums of histograms), for wide data "feature" (each rank all rows of some columns; the same
    trees, bit for bit) or "voting" (sums for 2·``top_k`` columns that most ranks name; other trees on other ranks);
    ``random_state``; ``comm``.

    Example::

        model = GradientBoostingClassifier(n_estimators=200, max_leaf_nodes=63).fit(X_local, y_local)
        model.predict_proba(X)
    """

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        learning_rate: float = 0.1,
        max_leaf_nodes: int | None = 31,
        max_depth: int | None = None,
        min_samples_leaf: int = 20,
        l2_regularization: float = 0.0,
        min_gain_to_split: float = 0.0,
        max_bins: int = 255,
        subsample: float = 1.0,
        max_features: float = 1.0,
        monotonic_cst: Any = None,
        categorical_features: Any = "from_dtype",
        warm_start: bool = False,
        n_iter_no_change: int | None = None,
        validation_fraction: float = 0.1,
        tol: float = 1e-7,
        parallel: str = "data",
        top_k: int = 20,
        random_state: int | None = 0,
        comm: Any = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.l2_regularization = l2_regularization
        self.min_gain_to_split = min_gain_to_split
        self.max_bins = max_bins
        self.subsample = subsample
        self.max_features = max_features
        self.monotonic_cst = monotonic_cst
        self.categorical_features = categorical_features
        self.warm_start = warm_start
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.tol = tol
        self.parallel = parallel
        self.top_k = top_k
        self.random_state = random_state
        self.comm = comm

    def _loss(self) -> losses.Loss:
        return losses.LogLoss()

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores (n, classes) of the rows of ``X``; for two classes (n,), positive for ``classes_[1]``. Local."""
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, classes) for the rows of ``X``, in the order of ``classes_``. Local."""
        return losses.LogLoss.probabilities(np.ascontiguousarray(self._scores(X).T))

    def predict(self, X: Any) -> np.ndarray:
        scores = self._scores(X)
        codes = (scores[:, 0] > 0).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(axis=1)
        return self.classes_[codes]


class GradientBoostingRegressor(Boosting, Regressor):
    """Gradient-boosted trees for numbers.

    ``loss``: "squared_error", "absolute_error" or "quantile", which predicts the quantile ``alpha``. The other
    parameters are those of `GradientBoostingClassifier`.
    """

    LOSSES = ("squared_error", "absolute_error", "quantile")

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        loss: str = "squared_error",
        alpha: float = 0.5,
        learning_rate: float = 0.1,
        max_leaf_nodes: int | None = 31,
        max_depth: int | None = None,
        min_samples_leaf: int = 20,
        l2_regularization: float = 0.0,
        min_gain_to_split: float = 0.0,
        max_bins: int = 255,
        subsample: float = 1.0,
        max_features: float = 1.0,
        monotonic_cst: Any = None,
        categorical_features: Any = "from_dtype",
        warm_start: bool = False,
        n_iter_no_change: int | None = None,
        validation_fraction: float = 0.1,
        tol: float = 1e-7,
        parallel: str = "data",
        top_k: int = 20,
        random_state: int | None = 0,
        comm: Any = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.loss = loss
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.l2_regularization = l2_regularization
        self.min_gain_to_split = min_gain_to_split
        self.max_bins = max_bins
        self.subsample = subsample
        self.max_features = max_features
        self.monotonic_cst = monotonic_cst
        self.categorical_features = categorical_features
        self.warm_start = warm_start
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.tol = tol
        self.parallel = parallel
        self.top_k = top_k
        self.random_state = random_state
        self.comm = comm

    def _check(self) -> None:
        super()._check()
        choice("loss", self.loss, self.LOSSES)
        number("alpha", self.alpha, above=0, below=1)

    def _loss(self) -> losses.Loss:
        if self.loss == "squared_error":
            return losses.SquaredError()
        return losses.Quantile(0.5, 2.0) if self.loss == "absolute_error" else losses.Quantile(self.alpha)

    def predict(self, X: Any) -> np.ndarray:
        return self._scores(X)[:, 0]
