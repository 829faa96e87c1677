"""What the classifiers share: fit, predict and score, on top of one training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.models.estimator import Estimator, NotFittedError
from hpcml.models.inputs import check_columns, features, labels, same_length, training_shard, validation_shard
from hpcml.models.losses import Loss, decided, outputs, probabilities
from hpcml.models.network import Passes, initial
from hpcml.models.resuming import Checkpoints
from hpcml.models.settings import Settings
from hpcml.models.threads import own_cores
from hpcml.models.training import BLOCK, Monitor, Objective, train
from hpcml.optim.account import Trace


class Classifier(Estimator):
    """A network of the hidden layers ``_hidden()``, trained on ``_loss()`` with ``_penalty(...)``.

    ``fit`` and ``score`` are collective over ``comm``; everything else is local.

    Fitted attributes: ``classes_`` (sorted; the union over the ranks), ``n_features_in_``, ``parameters_``
    (arrays by name, the same on every rank) and ``history_`` (the record of each epoch, see
    ``training.Monitor``).
    """

    classes_: np.ndarray
    n_features_in_: int
    parameters_: dict[str, np.ndarray]
    history_: list[dict[str, Any]]

    def _hidden(self) -> Sequence[int]:
        return ()

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _penalty(self, rows: int) -> dict[str, float]:
        return {}

    def _check(self) -> None:
        """Raise for a parameter of this class that is out of range."""

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
        comm = MPI.COMM_WORLD if self.comm is None else self.comm
        settings = self._agreed(comm)
        dtype = np.dtype(settings.dtype)
        shard = training_shard(X, y, dtype, comm)
        checked = validation_shard(validation, shard.classes, shard.X.shape[1], dtype, comm)
        # Without a seed the ranks still need one that they share.
        drawn = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        seed = settings.random_state if settings.random_state is not None else comm.bcast(drawn)
        parameters = initial([shard.X.shape[1], *self._hidden(), outputs(len(shard.classes))], dtype, seed)
        objective = Objective(self._loss(), self._penalty(sum(shard.counts)))
        with own_cores(comm, most=1 if settings.reproducible else None):
            history = train(parameters, objective, shard, checked, settings, seed, comm, monitor, checkpoints, note)
        self.classes_, self.n_features_in_ = shard.classes, shard.X.shape[1]
        self.parameters_, self.history_ = parameters, history
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The class (n,) of each row of ``X`` (n, d), from ``classes_``. Local."""
        chosen = decided(self._scores(X))
        return self.classes_[chosen]

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores (n, classes) of the rows of ``X``; for two classes (n,), positive for ``classes_[1]``."""
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def score(self, X: Any, y: Any) -> float:
        """The share of rows, over all ranks, that are predicted correctly. Collective over ``comm``.

        Raises CollectiveError on every rank for rows that are wrong on any, and where no rank has any.
        """
        comm = MPI.COMM_WORLD if self.comm is None else self.comm
        counted = np.zeros(2, np.int64)
        with hc.all_or_none(comm):
            named = labels(y)
            self._require_fitted()
            if len(named):
                predicted = self.predict(X)
                same_length(predicted, named)
                counted[:] = np.count_nonzero(predicted == named), len(named)
        hits, rows = hc.allreduce(counted, op="sum", comm=comm).tolist()
        if not rows:
            raise hc.CollectiveError("no rank has any rows to score")
        return hits / rows

    def _agreed(self, comm: MPI.Intracomm) -> Settings:
        """The settings, checked, and the same on every rank. Collective."""
        mine = {name: value for name, value in self.get_params().items() if name != "comm"}
        expected = comm.bcast({name: repr(value) for name, value in mine.items()})
        with hc.all_or_none(comm):
            for name, value in mine.items():
                if repr(value) != expected.get(name):
                    raise ValueError(f"{name}={value!r}, on rank 0 it is {expected.get(name)}; expected the same")
            settings = Settings.of(mine)
            if settings.reproducible is not None and settings.reproducible < comm.size:
                raise ValueError(
                    f"reproducible={settings.reproducible} on {comm.size} ranks; expected one virtual shard for each"
                )
            self._check()
        return settings

    def _scores(self, X: Any) -> np.ndarray:
        """Scores (n, outputs), computed in blocks of rows so that the activations stay in cache."""
        self._require_fitted()
        dtype = self.parameters_["W0"].dtype
        X = features(X, dtype)
        check_columns(X, self.n_features_in_)
        passes = Passes(self.parameters_, min(BLOCK, len(X)))
        scores = np.empty((len(X), outputs(len(self.classes_))), dtype)
        for first in range(0, len(X), BLOCK):
            scores[first : first + BLOCK] = passes.forward(X[first : first + BLOCK])
        return scores

    def _require_fitted(self) -> None:
        if not hasattr(self, "parameters_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit(X, y), or load a model")


class ProbabilisticClassifier(Classifier):
    """A classifier whose loss is cross-entropy, so that its scores stand for probabilities."""

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, classes) for the rows of ``X``, in the order of ``classes_``. Local."""
        return probabilities(self._scores(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of ``predict_proba``."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))
