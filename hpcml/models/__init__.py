"""Estimators with scikit-learn's conventions that train on the rows of all MPI ranks.

from hpcml.models import MLPClassifier
model = MLPClassifier().fit(X_local, y_local)     # each rank passes its own rows; the model is the same on
all model.predict(X)                                  # local model.score(X_local, y_local)
# over the rows of all ranks
"""

from hpcml.models.estimator import NotFittedError
from hpcml.models.files import load, read, save
from hpcml.models.linear import LinearSVC, LogisticRegression
from hpcml.models.mlp import MLPClassifier

__all__ = ["LinearSVC", "LogisticRegression", "MLPClassifier", "NotFittedError", "load", "read", "save"]
