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
    from hpcml.models.estimator import NotFittedError as NotFittedError
    from hpcml.models.files import load as load
    from hpcml.models.files import read as read
    from hpcml.models.files import save as save
    from hpcml.models.kernel_features import Nystroem as Nystroem
    from hpcml.models.kernel_features import RBFSampler as RBFSampler
    from hpcml.models.linear_svm import LinearSVC as LinearSVC
    from hpcml.models.linear_svm import LinearSVR as LinearSVR
    from hpcml.models.logistic import LogisticRegression as LogisticRegression
    from hpcml.models.mlp import MLPClassifier as MLPClassifier
    from hpcml.models.resuming import Checkpoints as Checkpoints
    from hpcml.models.ridge import Ridge as Ridge
    from hpcml.models.sgd import SGDClassifier as SGDClassifier
    from hpcml.models.svc import SVC as SVC
    from hpcml.models.svr import SVR as SVR
    from hpcml.models.trees.boosting import GradientBoostingClassifier as GradientBoostingClassifier
    from hpcml.models.trees.boosting import GradientBoostingRegressor as GradientBoostingRegressor
    from hpcml.models.trees.forest import DecisionTreeClassifier as DecisionTreeClassifier
    from hpcml.models.trees.forest import DecisionTreeRegressor as DecisionTreeRegressor
    from hpcml.models.trees.forest import RandomForestClassifier as RandomForestClassifier
    from hpcml.models.trees.forest import RandomForestRegressor as RandomForestRegressor
    from hpcml.models.trees.lightgbm_text import export_lightgbm as export_lightgbm

#: Where each estimator is defined.
ESTIMATORS = {
    "DecisionTreeClassifier": "trees.forest",
    "DecisionTreeRegressor": "trees.forest",
    "GradientBoostingClassifier": "trees.boosting",
    "GradientBoostingRegressor": "trees.boosting",
    "LinearSVC": "linear_svm",
    "LinearSVR": "linear_svm",
    "LogisticRegression": "logistic",
    "MLPClassifier": "mlp",
    "Nystroem": "kernel_features",
    "RBFSampler": "kernel_features",
    "RandomForestClassifier": "trees.forest",
    "RandomForestRegressor": "trees.forest",
    "Ridge": "ridge",
    "SGDClassifier": "sgd",
    "SVC": "svc",
    "SVR": "svr",
}
_MODULES = {
    **ESTIMATORS,
    "Checkpoints": "resuming",
    "NotFittedError": "estimator",
    "export_lightgbm": "trees.lightgbm_text",
    "load": "files",
    "read": "files",
    "save": "files",
}
__all__ = list(_MODULES)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"hpcml.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hpcml.models' has no attribute {name!r}")
