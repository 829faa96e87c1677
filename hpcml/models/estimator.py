"""scikit-learn's conventions for estimators: parameters are the constructor's arguments."""

from __future__ import annotations

import inspect
from typing import Any

from hpcml.models.communicator import Lent, lent


class NotFittedError(ValueError, AttributeError):
    """An estimator was asked for what only ``fit`` gives it."""


class Estimator:
    """Keeps the constructor's arguments as attributes of their names, unchecked until ``fit``.

    ``comm`` is held so that ``sklearn.base.clone`` can copy it: the clone has the same communicator.
    """

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
