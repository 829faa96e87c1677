"""Estimators with scikit-learn's conventions that train on the rows of all MPI ranks.

    from hpcml.models import MLPClassifier
    model = MLPClassifier().fit(X_local, y_local)     # each rank passes its own rows; the model is the same on all
    model.predict(X)                                  # local
    model.score(X_local, y_local)                     # over the rows of all ranks

What needs no MPI (losses, networks, settings) can be imported without starting it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcml.models.estimator import NotFittedError
    from hpcml.models.files import load, read, save
    from hpcml.models.kernel_features import Nystroem, RBFSampler
    from hpcml.models.linear import LinearSVC, LogisticRegression
    from hpcml.models.mlp import MLPClassifier
    from hpcml.models.resuming import Checkpoints
    from hpcml.models.svc import SVC
    from hpcml.models.svr import SVR

#: Where each estimator is defined.
ESTIMATORS = {
    "LinearSVC": "linear",
    "LogisticRegression": "linear",
    "MLPClassifier": "mlp",
    "Nystroem": "kernel_features",
    "RBFSampler": "kernel_features",
    "SVC": "svc",
    "SVR": "svr",
}
_MODULES = {
    **ESTIMATORS,
    "Checkpoints": "resuming",
    "NotFittedError": "estimator",
    "load": "files",
    "read": "files",
    "save": "files",
}
__all__ = [
    "Checkpoints",
    "LinearSVC",
    "LogisticRegression",
    "MLPClassifier",
    "NotFittedError",
    "Nystroem",
    "RBFSampler",
    "SVC",
    "SVR",
    "load",
    "read",
    "save",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"hpcml.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hpcml.models' has no attribute {name!r}")
