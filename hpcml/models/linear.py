"""Linear classifiers with scikit-learn's objectives, minimised by mini-batches over all ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.models.losses import Loss, cross_entropy, hinge, squared_hinge
from hpcml.models.minibatch import MinibatchClassifier, ProbabilisticClassifier
from hpcml.models.settings import choice, number


class LinearClassifier(MinibatchClassifier):
    """A linear classifier: ``coef_`` (k, d) and ``intercept_`` (k,), where k is 1 for two classes."""

    C: float

    @property
    def coef_(self) -> np.ndarray:
        self._require_fitted()
        return self.parameters_["W0"].T

    @property
    def intercept_(self) -> np.ndarray:
        self._require_fitted()
        return self.parameters_["b0"]

    def _check(self) -> None:
        number("C", self.C, above=0)


class LogisticRegression(LinearClassifier, ProbabilisticClassifier):
    """Logistic regression, multinomial for more than two classes, with an L2 penalty.

    Minimises scikit-learn's objective (its ``LogisticRegression``, penalty "l2"), divided by CN::

        C Σ_i −log p(y_i | x_i) + ½ ‖W‖²,    p = softmax(xW + b), for two classes 1/(1 + exp(−y(xw + b)))

    The intercept b is not penalised. Steps of the optimizers do not end at the minimum but near it: the
    nearer, the smaller the learning rate becomes (``rate="cosine"``).

    Parameters: ``C`` > 0, weight of the data against the penalty; the others as in ``MLPClassifier``.
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
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

    def _loss(self) -> Loss:
        return cross_entropy

    def _penalty(self, rows: int) -> dict[str, float]:
        return {"W0": 1.0 / (self.C * rows)}


class LinearSVC(LinearClassifier):
    """Linear support vector classifier, one against the rest for more than two classes.

    Minimises, for each class with y_i = +1 in it and −1 outside (two classes: once), the objective of
    scikit-learn's ``LinearSVC`` (LIBLINEAR's L1- or L2-loss SVM), divided by CN::

        C Σ_i max(0, 1 − y_i(x_i w + b))ᵖ + ½ (‖w‖² + b²),    p = 1 for "hinge", 2 for "squared_hinge"

    The intercept b is penalised, as there with intercept_scaling=1.

    Parameters: ``C`` > 0, weight of the data against the penalty; ``loss``, "squared_hinge" or "hinge"; the
    others as in ``MLPClassifier``.
    """

    LOSSES = {"squared_hinge": squared_hinge, "hinge": hinge}

    def __init__(
        self,
        C: float = 1.0,
        *,
        loss: str = "squared_hinge",
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
        self.C = C
        self.loss = loss
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

    def _check(self) -> None:
        super()._check()
        choice("loss", self.loss, tuple(self.LOSSES))

    def _loss(self) -> Loss:
        return self.LOSSES[self.loss]

    def _penalty(self, rows: int) -> dict[str, float]:
        return dict.fromkeys(("W0", "b0"), 1.0 / (self.C * rows))
