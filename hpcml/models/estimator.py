"""scikit-learn's conventions for estimators: parameters are the constructor's arguments, tags say what one takes."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.communicator import Lent, lent
from hpcml.models.inputs import names_of


class NotFittedError(ValueError, AttributeError):
    """An estimator was asked for what only ``fit`` gives it."""


def _not_fitted(message: str) -> NotFittedError:
    """scikit-learn's own error too, where it is there: its tools look for that."""
    try:
        from sklearn.exceptions import NotFittedError as Theirs
    except ImportError:
        return NotFittedError(message)
    return type("NotFittedError", (NotFittedError, Theirs), {})(message)


class Estimator:
    """Keeps the constructor's arguments as attributes of their names, unchecked until ``fit``.

    ``comm`` is held so that ``sklearn.base.clone`` can copy it: the clone has the same communicator.

    Every estimator sets ``n_features_in_`` when it is fitted, and ``feature_names_in_`` where X had names of columns.
    For model files it says what it has learnt by `_saved`, and takes that back by `_restore`.
    """

    n_features_in_: int
    feature_names_in_: np.ndarray

    #: "classifier", "regressor" or "transformer"; and what X may be.
    kind: ClassVar[str] = ""
    takes_sparse: ClassVar[bool] = False
    takes_missing: ClassVar[bool] = False
    takes_categories: ClassVar[bool] = False

    @property
    def comm(self) -> Lent | None:
        return self._comm

    @comm.setter
    def comm(self, comm: Any) -> None:
        self._comm = lent(comm)

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls).parameters]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name. ``deep`` is there for scikit-learn; no parameter is an estimator."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name and return the estimator. Raises ValueError for a name that is none."""
        unknown = sorted(set(params) - set(self._names()))
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no parameter {', '.join(map(repr, unknown))}; "
                f"it has {', '.join(self._names())}"
            )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({shown})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's tools want to know; only they call it."""
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=self.kind if self.kind != "transformer" else None,
            target_tags=TargetTags(required=self.kind != "transformer"),
            classifier_tags=ClassifierTags() if self.kind == "classifier" else None,
            regressor_tags=RegressorTags() if self.kind == "regressor" else None,
            transformer_tags=TransformerTags() if self.kind == "transformer" else None,
            input_tags=InputTags(
                sparse=self.takes_sparse, allow_nan=self.takes_missing, categorical=self.takes_categories
            ),
        )

    def _world(self) -> MPI.Intracomm:
        comm = MPI.COMM_WORLD if self.comm is None else self.comm
        if not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm is a {type(comm).__name__}; expected an mpi4py communicator, or None for all ranks")
        return comm

    def _agree(self, comm: MPI.Intracomm) -> None:
        """Raise on every rank where parameters differ from those of rank 0, or `_check` finds one wrong. Collective."""
        mine = {name: repr(value) for name, value in self.get_params().items() if name != "comm"}
        expected = comm.bcast(mine)
        with hc.all_or_none(comm):
            for name, value in mine.items():
                if value != expected.get(name):
                    raise ValueError(f"{name}={value}, on rank 0 it is {expected.get(name)}; expected the same")
            self._check()

    def _check(self) -> None:
        """Raise ValueError or TypeError for a parameter that is out of range. Local."""

    def _require_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise _not_fitted(f"this {type(self).__name__} is not fitted yet: call fit(X, y), or load a model")

    def _remember_columns(self, columns: int, names: list[str] | None) -> None:
        """Set ``n_features_in_`` and, where X had names, ``feature_names_in_``: the model is fitted."""
        self.n_features_in_ = columns
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _require_columns(self, X: Any, columns: int) -> None:
        """Raise ValueError unless X, of that many columns, has those that the model was trained on."""
        trained, given = getattr(self, "feature_names_in_", None), names_of(X)
        if trained is not None and given is not None and list(trained) != given:
            raise ValueError(
                "The feature names should match those that were passed during fit: "
                + (_difference(list(trained), given) or "Feature names must be in the same order as they were in fit.")
            )
        if columns != self.n_features_in_:
            raise ValueError(
                f"X has {columns} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input"
            )

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What the model has learnt: facts that JSON holds, and arrays by name."""
        raise NotImplementedError

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take over what `_saved` gave."""
        raise NotImplementedError


def _difference(trained: list[str], given: list[str]) -> str:
    lines = []
    for what, names in (
        ("Feature names unseen at fit time", [name for name in given if name not in trained]),
        ("Feature names seen at fit time, yet now missing", [name for name in trained if name not in given]),
    ):
        if names:
            lines.append(f"{what}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else ""))
    return "; ".join(lines)
