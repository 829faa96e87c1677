"""What all estimators of trees share: what X may be, the fitted trees, and how they are saved."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml.models.estimator import Estimator
from hpcml.models.rows import Rows
from hpcml.models.settings import whole
from hpcml.models.trees.binning import Edges
from hpcml.models.trees.columns import Columns
from hpcml.models.trees.tree import Predictor, Trees


class TreeEstimator(Estimator):
    """Fitted: ``trees_``, ``edges_`` of the bins, ``columns_``, ``feature_importances_`` (d,): shares of the gain."""

    takes_missing = True

    random_state: int | None
    categorical_features: Any
    trees_: Trees
    edges_: Edges
    columns_: Columns
    classes_: np.ndarray
    _predictor: Predictor

    @property
    def feature_importances_(self) -> np.ndarray:
        """The share of each feature (d,) in what all splits gain; zeros where there are no splits."""
        self._require_fitted()
        return self.trees_.importances(self.n_features_in_)

    def _seed(self, comm: MPI.Intracomm) -> int:
        """The ``random_state``, or one that is drawn for all ranks."""
        if self.random_state is not None:
            return int(self.random_state)
        return comm.bcast(int(np.random.SeedSequence().generate_state(1, np.uint64)[0]))

    def _columns_for(self, X: Any, comm: MPI.Intracomm, going_on: bool = False) -> Columns:
        return self.columns_ if going_on else Columns.learned(X, self.categorical_features, comm)

    def _outputs_in_turn(self) -> int:
        """Of how many outputs the trees serve one each, in turn; 1 where each tree serves all."""
        return 1

    def _fitted(self, rows: Rows) -> None:
        self._predictor = Predictor(self.trees_, self.edges_, self._outputs_in_turn())
        if rows.classes is not None:
            self.classes_ = rows.classes
        self._remember_columns(rows.X.shape[1], rows.names)

    def _checked(self, X: Any) -> np.ndarray:
        self._require_fitted()
        if hasattr(X, "columns"):  # before categories are looked for where they are not
            self._require_columns(X, X.shape[1])
        found = self.columns_.array(X)
        self._require_columns(X, found.shape[1])
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_predictor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.__sklearn_is_fitted__():
            self._predictor = Predictor(self.trees_, self.edges_, self._outputs_in_turn())

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        edges = self.edges_
        arrays = {f"tree/{name}": array for name, array in self.trees_.arrays().items()}
        arrays |= {"cuts": edges.cuts, "starts": edges.starts, "categories": edges.categories, "missing": edges.missing}
        if hasattr(self, "classes_"):
            arrays["classes"] = self.classes_
        return {"columns": self.columns_.as_json()}, arrays

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        of_trees = {name: array for name, array in arrays.items() if name.startswith("tree/")}
        self.trees_ = Trees.of({name.removeprefix("tree/"): array for name, array in of_trees.items()})
        self.edges_ = Edges(*(arrays[name] for name in ("cuts", "starts", "categories", "missing")))
        self.columns_ = Columns.from_json(facts["columns"])
        if "classes" in arrays:
            self.classes_ = arrays["classes"]
        self._predictor = Predictor(self.trees_, self.edges_, self._outputs_in_turn())


def whole_or_none(name: str, value: Any, least: int) -> None:
    if value is not None:
        whole(name, value, least)
