"""Maps into few features whose products approximate a kernel, so that linear models stand for kernel machines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.estimator import Estimator
from hpcml.models.inputs import features
from hpcml.models.rows import Rows, training_rows
from hpcml.models.settings import choice, number, whole
from hpcml.models.svm.kernels import NAMES, Kernel
from hpcml.models.svm.machine import moments
from hpcml.models.svm.points import Dense

#: Rows to transform at once.
BLOCK = 1024


class KernelFeatures(Estimator):
    """A transformer of dense or sparse rows into ``n_components`` features, float64 or, of float32, float32."""

    kind = "transformer"
    takes_sparse = True

    n_components: int
    random_state: int | None

    def _rows(self, X: Any, comm: MPI.Intracomm) -> Rows:
        """This rank's rows, and what all ranks have to agree on of theirs. Collective."""
        with hc.all_or_none(comm):
            none = np.zeros(_checked(X).shape[0])
        return training_rows(X, none, _checked, comm, classify=False)

    def _check(self) -> None:
        whole("n_components", self.n_components, least=1)
        if self.random_state is not None:
            whole("random_state", self.random_state, least=0)

    def _random(self, comm: MPI.Intracomm) -> np.random.Generator:
        """The same on every rank."""
        drawn = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        return np.random.default_rng(comm.bcast(drawn) if self.random_state is None else self.random_state)

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """``fit``, then ``transform``. Collective."""
        return self.fit(X, y).transform(X)

    def fit(self, X: Any, y: Any = None) -> Any:
        raise NotImplementedError

    def transform(self, X: Any) -> np.ndarray:
        raise NotImplementedError

    def _given(self, X: Any, dtype: Any) -> Any:
        self._require_fitted()
        found = features(X, dtype, sparse=True)
        self._require_columns(X, found.shape[1])
        return found

    @property
    def _n_features_out(self) -> int:
        raise NotImplementedError

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """nystroem0, nystroem1, … or rbfsampler0, …"""
        self._require_fitted()
        prefix = type(self).__name__.lower()
        return np.array([f"{prefix}{i}" for i in range(self._n_features_out)], dtype=object)


class Nystroem(KernelFeatures):
    """The kernel with ``n_components`` rows drawn from those of all ranks: φ(x) = k(x, L) K(L, L)^(−½).

    gamma: None is 1 / columns, as in scikit-learn; coef0: None is 1. Which rows are drawn depends on random_state and
    their number alone, not on which rank has them.

    Fitted attributes: ``components_`` (the rows L), ``component_indices_`` (their global numbers),
    ``normalization_``.

    Williams, Seeger, Using the Nyström method to speed up kernel machines, NIPS 2000.

    Example::

        features = Nystroem(gamma=0.1, n_components=300).fit(X_local)
        model = LinearSVC().fit(features.transform(X_local), y_local)
    """

    components_: np.ndarray
    component_indices_: np.ndarray
    normalization_: np.ndarray
    _kernel: Kernel

    def __init__(
        self,
        kernel: str = "rbf",
        *,
        gamma: float | None = None,
        coef0: float | None = None,
        degree: int = 3,
        n_components: int = 100,
        random_state: int | None = 0,
        comm: Any = None,
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma
        self.coef0 = coef0
        self.degree = degree
        self.n_components = n_components
        self.random_state = random_state
        self.comm = comm

    def _check(self) -> None:
        super()._check()
        choice("kernel", self.kernel, NAMES)
        whole("degree", self.degree, least=0)
        for name in ("gamma", "coef0"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), **({"least": 0} if name == "gamma" else {}))

    def fit(self, X: Any, y: Any = None) -> Nystroem:
        """Draw the rows, of those of all ranks. Collective; n ≥ 0 rows on each. ``y`` is not used."""
        comm = self._world()
        self._agree(comm)
        rows = self._rows(X, comm)
        drawn = self._random(comm).permutation(rows.total)[: self.n_components]
        order = np.argsort(drawn)
        first = rows.first(comm.rank)
        mine = drawn[order]
        mine = mine[(mine >= first) & (mine < first + len(rows.y))] - first
        landmarks = hc.allgather(_dense(rows.X[mine]), comm=comm)
        self.components_ = np.empty_like(landmarks)
        self.components_[order] = landmarks  # in the order in which they were drawn
        self.component_indices_ = drawn
        gamma = 1.0 / rows.X.shape[1] if self.gamma is None else float(self.gamma)
        self._kernel = Kernel(self.kernel, gamma, 1.0 if self.coef0 is None else float(self.coef0), self.degree)
        # One rank's numbers for all: linear algebra may round differently from one processor to another.
        root = _inverse_root(self._block(self.components_)) if comm.rank == 0 else None
        self.normalization_ = comm.bcast(root).astype(self.components_.dtype)
        self._remember_columns(rows.X.shape[1], rows.names)
        return self

    def _block(self, X: np.ndarray) -> np.ndarray:
        """The kernel (n, components) of dense rows with the components."""
        centre = self.components_.mean(axis=0) if self._kernel.shift_invariant else X.dtype.type(0)
        out = np.empty((len(self.components_), len(X)), X.dtype)
        Dense(X - centre, self._kernel, False).fill(self.components_ - centre, out, np.arange(len(out)))
        return out.T

    def transform(self, X: Any) -> np.ndarray:
        """The features (n, components) of rows ``X`` (n, d). Local."""
        self._require_fitted()
        X = self._given(X, self.components_.dtype)
        out = np.empty((X.shape[0], self._n_features_out), self.components_.dtype)
        for first in range(0, X.shape[0], BLOCK):
            part = self._block(_dense(X[first : first + BLOCK]))
            np.matmul(part, self.normalization_.T, out=out[first : first + BLOCK])
        return out

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = ("components_", "component_indices_", "normalization_")
        return {"kernel": list(self._kernel)}, {name.rstrip("_"): getattr(self, name) for name in names}

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._kernel = Kernel(*facts["kernel"])
        for name, array in arrays.items():
            setattr(self, f"{name}_", array)


class RBFSampler(KernelFeatures):
    """Random Fourier features of the RBF kernel: φ(x) = √(2/D) cos(xW + b), W ~ N(0, 2γ), b uniform on a circle.

    gamma: a number, or "scale", 1 / (columns × variance of X), over all ranks. All ranks draw the same W and b.

    Fitted attributes: ``random_weights_`` (d, components), ``random_offset_`` (components,).

    Rahimi, Recht, Random features for large-scale kernel machines, NIPS 2007.

    Example::

        features = RBFSampler(gamma=0.1, n_components=500).fit(X_local)
        model = LinearSVC().fit(features.transform(X_local), y_local)
    """

    random_weights_: np.ndarray
    random_offset_: np.ndarray

    def __init__(
        self, *, gamma: float | str = 1.0, n_components: int = 100, random_state: int | None = 0, comm: Any = None
    ) -> None:
        self.gamma = gamma
        self.n_components = n_components
        self.random_state = random_state
        self.comm = comm

    def _check(self) -> None:
        super()._check()
        if isinstance(self.gamma, str):
            choice("gamma", self.gamma, ("scale",))
        else:
            number("gamma", self.gamma, above=0)

    def fit(self, X: Any, y: Any = None) -> RBFSampler:
        """Draw the directions. Collective; n ≥ 0 rows on each. ``y`` is not used."""
        comm = self._world()
        self._agree(comm)
        rows = self._rows(X, comm)
        columns = rows.X.shape[1]
        gamma = self.gamma
        if isinstance(gamma, str):
            spread = columns * moments(rows.X, np.ones(len(rows.y)), comm, True)[1]
            gamma = 1.0 / spread if spread > 0 else 1.0
        random = self._random(comm)
        weights = math.sqrt(2 * gamma) * random.standard_normal((columns, self.n_components))
        offset = random.uniform(0, 2 * math.pi, self.n_components)
        self.random_weights_, self.random_offset_ = weights.astype(rows.X.dtype), offset.astype(rows.X.dtype)
        self._remember_columns(columns, rows.names)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The features (n, components) of rows ``X`` (n, d). Local."""
        self._require_fitted()
        X = self._given(X, self.random_weights_.dtype)
        out = np.ascontiguousarray(X @ self.random_weights_)
        out += self.random_offset_
        np.cos(out, out=out)
        out *= math.sqrt(2.0 / self.n_components)
        return out

    @property
    def _n_features_out(self) -> int:
        return self.random_weights_.shape[1]

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {"random_weights": self.random_weights_, "random_offset": self.random_offset_}

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.random_weights_, self.random_offset_ = arrays["random_weights"], arrays["random_offset"]


def _checked(X: Any) -> Any:
    return features(X, sparse=True)


def _dense(X: Any) -> np.ndarray:
    return np.ascontiguousarray(X.toarray() if hasattr(X, "toarray") else X)


def _inverse_root(gram: np.ndarray) -> np.ndarray:
    """K^(−½), as scikit-learn: small singular values are raised to 1e-12."""
    left, values, right = np.linalg.svd(gram.astype(np.float64))
    return (left / np.sqrt(np.maximum(values, 1e-12))) @ right
