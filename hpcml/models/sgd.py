"""Linear classifiers with scikit-learn's objectives, minimised by mini-batches over all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.models.losses import Loss, cross_entropy, hinge, probabilities, squared_hinge
from hpcml.models.minibatch import MinibatchClassifier
from hpcml.models.settings import choice, number


class SGDClassifier(MinibatchClassifier):
    """A linear classifier, trained by mini-batches with the optimizers of `hpcml.optim`.

    Minimises, divided by CN, for N rows::

        log_loss        C Σ_i −log p(y_i | x_i) + ½ ‖W‖²,    p = softmax(xW + b), for two classes 1/(1 + exp(−y(xw + b)))
        squared_hinge   C Σ_i max(0, 1 − y_i(x_i w + b))² + ½ (‖w‖² + b²)
        hinge           C Σ_i max(0, 1 − y_i(x_i w + b)) + ½ (‖w‖² + b²)

    the hinge losses for each class against the rest, with y_i = +1 in it and −1 outside (two classes: once). These are the
    objectives of `LogisticRegression` and `LinearSVC`, which find the minimum itself, and are faster wherever all rows fit
    into the memory of the ranks. Steps of the optimizers end near it: the nearer, the smaller the learning rate becomes
    (``rate="cosine"``).

    Parameters: ``loss``; ``C`` > 0, weight of the data against the penalty; the others as in ``MLPClassifier``.

    Fitted: ``coef_`` (k, d) and ``intercept_`` (k,), where k is 1 for two classes. ``predict_proba`` is there for log_loss.

    >>> SGDClassifier("hinge", C=0.1, epochs=5).loss
    'hinge'
    """

    LOSSES = {"log_loss": cross_entropy, "hinge": hinge, "squared_hinge": squared_hinge}

    def __init__(
        self,
        loss: str = "log_loss",
        *,
        C: float = 1.0,
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        rate: str = "constant",
        warmup_epochs: float = 0,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        epochs: int = 20,
        random_state: int | None = 0,
        dtype: Any = "float32",
        algorithm: str = "auto",
        comm: Any = None,
    ) -> None:
        self.loss = loss
        self.C = C
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.rate = rate
        self.warmup_epochs = warmup_epochs
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.random_state = random_state
        self.dtype = dtype
        self.algorithm = algorithm
        self.comm = comm

    @property
    def coef_(self) -> np.ndarray:
        self._require_fitted()
        return self.parameters_["W0"].T

    @property
    def intercept_(self) -> np.ndarray:
        self._require_fitted()
        return self.parameters_["b0"]

    # Only the log_loss has probabilities; for the others `hasattr` says that there are none.
    @property
    def predict_proba(self) -> Callable[[Any], np.ndarray]:
        self._require_log_loss("predict_proba")
        return self._probabilities

    @property
    def predict_log_proba(self) -> Callable[[Any], np.ndarray]:
        self._require_log_loss("predict_log_proba")
        return self._log_probabilities

    def _require_log_loss(self, name: str) -> None:
        if self.loss != "log_loss":
            raise AttributeError(f"SGDClassifier has no {name} with loss={self.loss!r}; it has with 'log_loss'")

    def _probabilities(self, X: Any) -> np.ndarray:
        """Probabilities (n, classes) for the rows of ``X``, in the order of ``classes_``. Local."""
        return probabilities(self._scores(X))

    def _log_probabilities(self, X: Any) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(self._probabilities(X))

    def _check(self) -> None:
        choice("loss", self.loss, tuple(self.LOSSES))
        number("C", self.C, above=0)

    def _loss(self) -> Loss:
        return self.LOSSES[self.loss]

    def _penalty(self, rows: int) -> dict[str, float]:
        # The intercept of a support vector machine is penalised, as LIBLINEAR has it.
        return dict.fromkeys(("W0",) if self.loss == "log_loss" else ("W0", "b0"), 1.0 / (self.C * rows))
