"""Classifiers that are trained by mini-batches: fit and predict, on top of one training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.device import settle, to_host
from hpcml.models.inputs import features
from hpcml.models.losses import Loss, decided, outputs, probabilities
from hpcml.models.network import Passes, initial
from hpcml.models.resuming import Checkpoints
from hpcml.models.rows import training_rows, validation_rows
from hpcml.models.scoring import Classifier
from hpcml.models.settings import Settings
from hpcml.models.threads import own_cores
from hpcml.models.training import BLOCK, Monitor, Objective, train
from hpcml.optim.account import Trace


class MinibatchClassifier(Classifier):
    """A network of the hidden layers ``_hidden()``, trained on ``_loss()`` with ``_penalty(...)``.

    ``fit`` and ``score`` are collective over ``comm``; everything else is local.

    Fitted attributes: ``classes_`` (sorted; the union over the ranks), ``n_features_in_``, ``parameters_``
    (arrays by name, the same on every rank) and ``history_`` (the record of each epoch, see
    ``training.Monitor``).
    """

    parameters_: dict[str, np.ndarray]
    history_: list[dict[str, Any]]

    def _hidden(self) -> Sequence[int]:
        return ()

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _penalty(self, rows: int) -> dict[str, float]:
        return {}

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        validation: tuple[Any, Any] | None = None,
        monitor: Monitor | None = None,
        checkpoints: Checkpoints | None = None,
        note: Trace | None = None,
    ) -> Any:
        """Train on the rows of all ranks and return the estimator. Collective over ``comm``.

        ``X`` (n, d), any real dtype, and ``y`` (n,), whole numbers or strings, are this rank's rows, n ≥ 0.
        The result does not depend on how the rows are spread, up to rounding, as long as their global order
        (rank 0's first) is the same. ``validation``, a pair (X, y) of this rank's validation rows, is
        evaluated after every epoch; ``monitor`` is called after every step and epoch (see
        ``training.Monitor``). ``checkpoints`` says where to write, now and then, where the training is; it goes on from
        the newest that is there (see `Checkpoints`). ``note`` is told what goes on (see `hpcml.optim.account.Trace`).

        Raises CollectiveError on every rank for parameters or rows that are wrong on any, or differ between
        ranks; a model that was fitted before is then left as it was.
        """
        comm = self._world()
        self._agree(comm)
        settings = self._settings(comm)
        dtype = np.dtype(settings.dtype)

        def checked(X: Any) -> np.ndarray:
            return features(X, dtype)

        rows = training_rows(X, y, checked, comm)
        watched = validation_rows(validation, rows, checked, comm)
        assert rows.classes is not None
        # Without a seed the ranks still need one that they share.
        drawn = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        seed = settings.random_state if settings.random_state is not None else comm.bcast(drawn)
        parameters = initial([rows.X.shape[1], *self._hidden(), outputs(len(rows.classes))], dtype, seed)
        objective = Objective(self._loss(), self._penalty(rows.total))
        xp = settle(settings.placed, comm)
        classes = rows.classes
        if xp is not np:
            parameters = {name: xp.asarray(array) for name, array in parameters.items()}
            rows = rows._replace(X=xp.asarray(rows.X), y=xp.asarray(rows.y))
            watched = None if watched is None else watched._replace(X=xp.asarray(watched.X), y=xp.asarray(watched.y))
        with own_cores(comm, most=1 if settings.reproducible else None):
            history = train(parameters, objective, rows, watched, settings, seed, comm, monitor, checkpoints, note)
        parameters = {name: to_host(array) for name, array in parameters.items()}
        self.classes_, self.parameters_, self.history_ = classes, parameters, history
        self._remember_columns(rows.X.shape[1], rows.names)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The class (n,) of each row of ``X`` (n, d), from ``classes_``. Local."""
        chosen = decided(self._scores(X))
        return self.classes_[chosen]

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores (n, classes) of the rows of ``X``; for two classes (n,), positive for ``classes_[1]``."""
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def _settings(self, comm: MPI.Intracomm) -> Settings:
        """The settings, checked. Collective; all ranks have the same."""
        with hc.all_or_none(comm):
            settings = Settings.of(self.get_params())
            if settings.reproducible is not None and settings.reproducible < comm.size:
                raise ValueError(
                    f"reproducible={settings.reproducible} on {comm.size} ranks; expected one virtual shard for each"
                )
        return settings

    def _scores(self, X: Any) -> np.ndarray:
        """Scores (n, outputs), computed in blocks of rows so that the activations stay in cache."""
        self._require_fitted()
        dtype, given = self.parameters_["W0"].dtype, X
        X = features(X, dtype)
        self._require_columns(given, X.shape[1])
        passes = Passes(self.parameters_, min(BLOCK, len(X)))
        scores = np.empty((len(X), outputs(len(self.classes_))), dtype)
        for first in range(0, len(X), BLOCK):
            scores[first : first + BLOCK] = passes.forward(X[first : first + BLOCK])
        return scores

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {f"parameter/{name}": array for name, array in self.parameters_.items()}
        return {"history": self.history_}, {"classes": self.classes_, **arrays}

    def _restore(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.history_, self.classes_ = facts["history"], arrays["classes"]
        self.parameters_ = {
            name.removeprefix("parameter/"): array for name, array in arrays.items() if name.startswith("parameter/")
        }


class ProbabilisticClassifier(MinibatchClassifier):
    """A classifier whose loss is cross-entropy, so that its scores stand for probabilities."""

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, classes) for the rows of ``X``, in the order of ``classes_``. Local."""
        return probabilities(self._scores(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of ``predict_proba``."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))
