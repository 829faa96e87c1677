"""Decision trees and random forests, for classes and for numbers.

A tree splits where the impurity of its rows decreases most: Gini's or the entropy of the weights of classes, or the
variance (Breiman, Friedman, Olshen, Stone 1984). A forest's trees each draw rows with replacement and, at every node,
features, and predict their mean (Breiman 2001). Which rows a tree draws, and how often, is a hash of the rows' global
numbers: each comes a Poisson(1) number of times, as a drawing of n from n rows has it in the limit.

Histograms over all ranks split nodes of many rows (`grower`). A node of few is finished on one rank (`subtree`), to
which its rows are sent; so the ranks finish many nodes at a time. If all rows are few, every rank gets them, and its
share of the trees.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.rows import Rows, training_rows, validation_rows, without_weightless
from hpcml.models.scoring import Classifier, Regressor
from hpcml.models.settings import choice, number, whole
from hpcml.models.threads import own_cores
from hpcml.models.trees import losses, quantisation
from hpcml.models.trees.binning import Binned, binned, find_edges
from hpcml.models.trees.estimator import TreeEstimator, whole_or_none
from hpcml.models.trees.finishing import Finisher, subtree
from hpcml.models.trees.grower import Grower, Growth
from hpcml.models.trees.splitter import Limits
from hpcml.models.trees.tree import Trees

FEW = 20_000  # rows, of all ranks, that one rank finishes
WEIGHT_STEPS = 1 << 16  # of the largest weight, where weights are no small whole numbers


class Forest(TreeEstimator):
    """What trees and forests share: growing trees whose predictions are averaged.

    Fitted: ``trees_`` (see `tree.Trees`), their values being the shares of classes, or means.
    """

    criterion: str
    max_depth: int | None
    min_samples_split: int
    min_samples_leaf: int
    max_features: Any
    max_leaf_nodes: int | None
    min_impurity_decrease: float
    max_bins: int

    history_: list[dict[str, Any]]

    CRITERIA: tuple[str, ...] = ()

    def _check(self) -> None:
        choice("criterion", self.criterion, self.CRITERIA)
        whole_or_none("max_depth", self.max_depth, least=1)
        whole("min_samples_split", self.min_samples_split, least=2)
        whole("min_samples_leaf", self.min_samples_leaf, least=1)
        whole_or_none("max_leaf_nodes", self.max_leaf_nodes, least=2)
        number("min_impurity_decrease", self.min_impurity_decrease, least=0)
        whole("max_bins", self.max_bins, least=2)
        if self.max_bins > 255:
            raise ValueError(f"max_bins={self.max_bins}; expected at most 255")
        if self.random_state is not None:
            whole("random_state", self.random_state, least=0)
        self._drawn(1)

    def _drawn(self, features: int) -> int:
        """Of how many features a node chooses."""
        given = self.max_features
        if given is None:
            return features
        if given in ("sqrt", "log2"):
            return max(1, int(np.sqrt(features) if given == "sqrt" else np.log2(features)))
        if isinstance(given, (int, np.integer)) and not isinstance(given, bool) and given >= 1:
            return min(int(given), features)
        if isinstance(given, (float, np.floating)) and 0 < given <= 1:
            return max(1, int(given * features))
        raise ValueError(f"max_features={given!r}; expected a whole number, a share up to 1.0, 'sqrt', 'log2' or None")

    def _draws(self) -> tuple[int, bool]:
        """How many trees, and whether they draw rows."""
        return 1, False

    def _class_weights(self, rows: Rows, comm: MPI.Intracomm) -> np.ndarray | None:
        """The weights of the rows, with those of their classes. Collective."""
        return rows.weights

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

        ``X`` (n, d), numbers with NaN for what is missing, or a data frame, and ``y`` (n,) are this rank's rows, n ≥ 0;
        ``sample_weight`` (n,), 0 or more. The model is the same, bit for bit, however the rows are spread over ranks,
        as long as their global order (rank 0's first) is. ``monitor`` is called once, at the end, with the only record
        of ``history_``, which has loss and accuracy if there is a monitor, also of ``validation``, a pair (X, y) of
        this rank's rows. The loss is half the mean squared error; of classes, of their probabilities (Brier's score).

        Raises CollectiveError on every rank for parameters or rows that are wrong on any, or differ between ranks.
        """
        comm, began = self._world(), perf_counter()
        self._agree(comm)
        columns = self._columns_for(X, comm)
        classify = self.kind == "classifier"
        rows = training_rows(X, y, columns.array, comm, classify=classify, sample_weight=sample_weight)
        watched = validation_rows(validation, rows, columns.array, comm)
        rows = without_weightless(rows._replace(weights=self._class_weights(rows, comm)), comm)
        with own_cores(comm):
            edges = find_edges(
                rows.X, rows.first(comm.rank), rows.total, comm, self.max_bins, columns.counts(rows.X.shape[1])
            )
            grown = _Growing(self, rows, binned(rows.X, edges), self._seed(comm), comm).trees()
        self.trees_, self.edges_, self.columns_ = grown, edges, columns
        self._fitted(rows)
        record = {
            "epoch": 1,
            "step": len(grown),
            "nodes": len(grown.feature),
            "seconds": perf_counter() - began,
            "samples_per_second": rows.total / (perf_counter() - began),
        }
        if monitor is not None:
            record.update(self._judged("", rows, comm))
            if watched is not None:
                record.update(self._judged("validation_", watched, comm))
            monitor.epoch(dict(record))
        self.history_ = [record]
        return self

    def _judged(self, prefix: str, rows: Rows, comm: MPI.Intracomm) -> dict[str, float]:
        """Loss and, of classes, accuracy over the rows of all ranks. Collective."""
        start = np.zeros(self.trees_.value.shape[1])
        means = self._predictor.sums(rows.X, start) / len(self.trees_)
        if rows.classes is None:
            return {prefix + "loss": losses.mean((means[:, 0] - rows.y) ** 2 / 2, rows.weights, comm)}
        hits = (means.argmax(axis=1) == rows.y).astype(np.float64)
        means[np.arange(len(means)), rows.y] -= 1
        return {
            prefix + "loss": losses.mean((means**2).sum(axis=1) / 2, rows.weights, comm),
            prefix + "accuracy": losses.mean(hits, rows.weights, comm),
        }

    def _means(self, X: Any) -> np.ndarray:
        """The mean of the trees' values (n, outputs)."""
        X = self._checked(X)
        start = np.zeros(self.trees_.value.shape[1])
        return self._predictor.sums(X, start) / len(self.trees_)


class _Growing:
    """One training: rows as bins and integers."""

    def __init__(self, model: Forest, rows: Rows, bins: Binned, seed: int, comm: MPI.Intracomm) -> None:
        self.model, self.binned, self.seed, self.comm = model, bins, seed, comm
        self.first = rows.first(comm.rank)
        few = rows.total <= FEW
        if few and comm.size > 1:
            rows, self.binned, self.first = _everywhere(rows, bins, comm)
        self.alone = few
        self.classes = rows.classes is not None
        self.outputs = len(rows.classes) if rows.classes is not None else 1
        self.weights, unit = whole_weights(rows.weights, len(rows.y), MPI.COMM_SELF if few else comm)
        if self.classes:
            self.codes, self.targets = rows.y.astype(np.int64), np.zeros(0, np.int64)
            per_gradient, self.offset = -unit, 0.0
        else:
            self.codes = np.zeros(0, np.int64)
            self.targets, per_gradient, self.offset = whole_targets(rows, MPI.COMM_SELF if few else comm)
            per_gradient = -per_gradient * unit
        self.limits = Limits(
            per_gradient,
            unit,
            0.0,
            model.min_samples_leaf,
            0.0,
            self._least_gain(rows, comm),
            model.criterion in ("entropy", "log_loss"),
        )
        self.allowed = np.flatnonzero(self.binned.edges.bins + self.binned.edges.missing > 1)
        self.wanted = min(model._drawn(self.binned.edges.features), max(1, len(self.allowed)))

    def _least_gain(self, rows: Rows, comm: MPI.Intracomm) -> float:
        """Splits of a node that is not pure may gain nothing, of classes: what comes below may gain.

        min_impurity_decrease is a share of the weight of all rows.
        """
        tiny = -1e-9 if self.classes else 0.0
        if not self.model.min_impurity_decrease:
            return tiny
        weight = float(len(rows.y)) if rows.weights is None else float(rows.weights.sum())
        total = weight if self.alone else losses.mean(np.array([weight]), None, comm) * comm.size
        return self.model.min_impurity_decrease * total

    def trees(self) -> Trees:
        """All that are grown, on every rank. Collective."""
        grown = self._grown(*self.model._draws())
        grown.value += self.offset
        return grown

    def _grown(self, many: int, drawing: bool) -> Trees:
        if self.alone:
            return self._alone(many, drawing)
        kind = "classes" if self.classes else "channels"
        grower = Grower(self.binned, self.comm, kind, self.outputs)
        try:
            return Trees.joined([self._over_ranks(grower, tree, drawing) for tree in range(many)])
        finally:
            grower.close()

    def _integers(self, tree: int, drawing: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """The weight of each row in a tree (n,) int64, the rows that have any, and the tree's key."""
        key = quantisation.key_of(self.seed, tree)
        weights = self.weights
        if drawing:
            weights = weights * quantisation.poisson(self.first, key, len(weights))
        return weights, np.flatnonzero(weights).astype(np.int32), key

    def _alone(self, many: int, drawing: bool) -> Trees:
        """All rows are here, on every rank: it grows its share of the trees, and gets the others'."""
        share = np.array_split(np.arange(many), self.comm.size)
        mine = [self._whole_tree(int(tree), drawing) for tree in share[self.comm.rank]]
        parts = self.comm.allgather(Trees.joined(mine) if mine else None)
        return Trees.joined([part for part in parts if part is not None])

    def _whole_tree(self, tree: int, drawing: bool) -> Trees:
        weights, selected, key = self._integers(tree, drawing)
        model = self.model
        if model.max_leaf_nodes is not None:
            kind = "classes" if self.classes else "channels"
            grower = Grower(self.binned, MPI.COMM_SELF, kind, self.outputs)
            return self._grow(grower, weights, selected, key, None)
        return subtree(
            self.binned, selected, self._values(weights), self.codes, self.outputs, self.allowed, self.wanted, model,
            key, self.limits,
        ).finished(self.binned.edges)  # fmt: skip

    def _over_ranks(self, grower: Grower, tree: int, drawing: bool) -> Trees:
        weights, selected, key = self._integers(tree, drawing)
        finisher = None
        if self.model.max_leaf_nodes is None:
            finisher = Finisher(
                self.binned, self._values(weights), self.codes, self.outputs, self.allowed, self.wanted, self.model,
                self.limits, self.comm, FEW,
            )  # fmt: skip
        return self._grow(grower, weights, selected, key, finisher)

    def _grow(
        self, grower: Grower, weights: np.ndarray, selected: np.ndarray, key: int, finisher: Finisher | None
    ) -> Trees:
        values = self._values(weights)
        if self.classes:
            sums = np.bincount(self.codes[selected], weights[selected], self.outputs).astype(np.int64)
            totals = np.array([*sums, sums.sum(), len(selected)], np.int64)
            arguments: tuple[np.ndarray, ...] = self.codes, np.ascontiguousarray(values[:, 0])
        else:
            totals, arguments = values[selected].sum(axis=0), (values,)
        totals = hc.allreduce(totals, op="sum", comm=grower.comm)
        model = self.model
        growth = Growth(self.limits, model.max_leaf_nodes, model.max_depth, self.wanted, model.min_samples_split)
        allowed = np.zeros(self.binned.edges.features, np.bool_)
        allowed[self.allowed] = True
        return grower.grow(arguments, selected, totals, growth, allowed, key, finisher).tree

    def _values(self, weights: np.ndarray) -> np.ndarray:
        """Of each row: its weight and 1, for classes; gradient, hessian and 1, for numbers."""
        ones = np.ones(len(weights), np.int64)
        if self.classes:
            return np.stack([weights, ones], axis=1)
        return np.stack([self.targets * weights, weights, ones], axis=1)


def _everywhere(rows: Rows, bins: Binned, comm: MPI.Intracomm) -> tuple[Rows, Binned, int]:
    """The rows of all ranks, on every rank. Collective."""
    whole = hc.allgather(bins.rows, comm=comm)
    y = hc.allgather(rows.y, comm=comm)
    weights = None if rows.weights is None else hc.allgather(rows.weights, comm=comm)
    gathered = rows._replace(X=whole, y=y, weights=weights)
    return gathered, Binned(bins.edges, whole, np.ascontiguousarray(whole.T)), 0


def whole_weights(weights: np.ndarray | None, rows: int, comm: MPI.Intracomm) -> tuple[np.ndarray, float]:
    """Weights as integers (n,) and what 1 stands for; those that are whole on all ranks are kept. Collective."""
    if weights is None:
        return np.ones(rows, np.int64), 1.0
    odd = float((weights != np.rint(weights)).any())
    broken, top = hc.allreduce(np.array([odd, weights.max(initial=0.0)]), op="max", comm=comm)
    if not broken and top <= WEIGHT_STEPS:
        return weights.astype(np.int64), 1.0
    unit = top / WEIGHT_STEPS
    return np.rint(weights / unit).astype(np.int64), float(unit)


def whole_targets(rows: Rows, comm: MPI.Intracomm) -> tuple[np.ndarray, float, float]:
    """Targets less their mean as integers (n,), what 1 stands for, and the mean. Collective."""
    mean = losses.mean(rows.y, rows.weights, comm)
    left = rows.y - mean
    steps = float((1 << min(30, quantisation.channel_bits(sum(rows.counts)) - 4)) - 1)
    top = hc.allreduce(np.array([np.abs(left).max(initial=0.0)]), op="max", comm=comm)[0]
    unit = top / steps or 1.0
    return np.rint(left / unit).astype(np.int64), float(unit), mean


class _ClassForest(Forest, Classifier):
    CRITERIA = ("gini", "entropy", "log_loss")
    class_weight: Any

    def _class_weights(self, rows: Rows, comm: MPI.Intracomm) -> np.ndarray | None:
        given = self.class_weight
        if given is None:
            return rows.weights
        assert rows.classes is not None
        weights = np.ones(len(rows.y)) if rows.weights is None else rows.weights
        classes = rows.classes.tolist()
        if given == "balanced":
            here = np.bincount(rows.y, weights, len(classes)).astype(np.float64)
            totals = hc.allreduce(here[None], op="sum", comm=comm, reproducible=True, axis=0)
            of_class = totals.sum() / (len(classes) * np.maximum(totals, np.finfo(float).tiny))
        elif isinstance(given, dict):
            if unknown := [label for label in given if label not in classes]:
                raise hc.ArgumentError(f"class_weight has {unknown[0]!r}, which is no class; there are {classes}")
            of_class = np.array([float(given.get(label, 1.0)) for label in classes])
        else:
            raise hc.ArgumentError(f"class_weight={given!r}; expected 'balanced', a dict by class or None")
        return weights * of_class[rows.y]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Shares of the classes (n, classes) where the rows of ``X`` end, mean over the trees. Local."""
        return self._means(X)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of ``predict_proba``."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        means = self._means(X)
        return self.classes_[means.argmax(axis=1)]


class _NumberForest(Forest, Regressor):
    CRITERIA = ("squared_error",)

    def predict(self, X: Any) -> np.ndarray:
        return self._means(X)[:, 0]


class DecisionTreeClassifier(_ClassForest):
    """One tree for two or more classes.

    Parameters, as scikit-learn's: ``criterion``, "gini" or "entropy"; ``max_depth`` and ``max_leaf_nodes`` (None: no
    limit; with the latter the leaf that gains most is split first); ``min_samples_split`` and ``min_samples_leaf``,
    numbers of rows; ``max_features``, of how many a node chooses: a number, a share, "sqrt", "log2" or None for all;
    ``min_impurity_decrease``, times the weight of all rows; ``max_bins`` of a feature, at most 255: a feature with more
    distinct values is split at quantiles; ``class_weight``, "balanced", or a dict by class; ``categorical_features``,
    "from_dtype" (of data frames), or names, numbers or a mask; ``random_state``; ``comm``.
    """

    def __init__(
        self,
        criterion: str = "gini",
        *,
        max_depth: int | None = None,
        min_samples_split: int = 2,
        min_samples_leaf: int = 1,
        max_features: Any = None,
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        max_bins: int = 255,
        class_weight: Any = None,
        categorical_features: Any = "from_dtype",
        random_state: int | None = 0,
        comm: Any = None,
    ) -> None:
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.max_bins = max_bins
        self.class_weight = class_weight
        self.categorical_features = categorical_features
        self.random_state = random_state
        self.comm = comm


class DecisionTreeRegressor(_NumberForest):
    """One tree for numbers, by the decrease of their variance. Parameters as `DecisionTreeClassifier`'s."""

    def __init__(
        self,
        criterion: str = "squared_error",
        *,
        max_depth: int | None = None,
        min_samples_split: int = 2,
        min_samples_leaf: int = 1,
        max_features: Any = None,
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        max_bins: int = 255,
        categorical_features: Any = "from_dtype",
        random_state: int | None = 0,
        comm: Any = None,
    ) -> None:
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.max_bins = max_bins
        self.categorical_features = categorical_features
        self.random_state = random_state
        self.comm = comm


class RandomForestClassifier(_ClassForest):
    """A forest for two or more classes: the mean of the trees' shares of classes.

    Parameters: ``n_estimators``, trees; ``bootstrap``, whether each draws rows; the others as
    `DecisionTreeClassifier`'s.
    """

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        criterion: str = "gini",
        max_depth: int | None = None,
        min_samples_split: int = 2,
        min_samples_leaf: int = 1,
        max_features: Any = "sqrt",
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        max_bins: int = 255,
        bootstrap: bool = True,
        class_weight: Any = None,
        categorical_features: Any = "from_dtype",
        random_state: int | None = 0,
        comm: Any = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.max_bins = max_bins
        self.bootstrap = bootstrap
        self.class_weight = class_weight
        self.categorical_features = categorical_features
        self.random_state = random_state
        self.comm = comm

    def _check(self) -> None:
        super()._check()
        whole("n_estimators", self.n_estimators, least=1)

    def _draws(self) -> tuple[int, bool]:
        return self.n_estimators, self.bootstrap


class RandomForestRegressor(_NumberForest):
    """A forest for numbers: the mean of its trees. Parameters as `RandomForestClassifier`'s."""

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        criterion: str = "squared_error",
        max_depth: int | None = None,
        min_samples_split: int = 2,
        min_samples_leaf: int = 1,
        max_features: Any = 1.0,
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        max_bins: int = 255,
        bootstrap: bool = True,
        categorical_features: Any = "from_dtype",
        random_state: int | None = 0,
        comm: Any = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.max_bins = max_bins
        self.bootstrap = bootstrap
        self.categorical_features = categorical_features
        self.random_state = random_state
        self.comm = comm

    def _check(self) -> None:
        super()._check()
        whole("n_estimators", self.n_estimators, least=1)

    def _draws(self) -> tuple[int, bool]:
        return self.n_estimators, self.bootstrap
