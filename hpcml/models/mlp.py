"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcml.models.losses import Loss, cross_entropy
from hpcml.models.minibatch import ProbabilisticClassifier
from hpcml.models.settings import whole


class MLPClassifier(ProbabilisticClassifier):
    """A fully connected network with ReLU, trained on cross-entropy.

    Softmax over one output per class; two classes share a single logistic output. Minimises, over weights
    W_l and biases b_l of the network of ``models.network``, with N rows on all ranks::

        1/N Σ_i −log softmax(f(x_i))[y_i]

    by mini-batches of ``batch_size`` rows over all ranks, in an order that depends on ``random_state`` alone.

    Parameters: ``hidden_layer_sizes``, units of each hidden layer (any number of them); ``optimizer``, "sgd",
    "momentum" or "adam"; ``learning_rate`` and its law ``rate``, "constant", "cosine", "linear", "polynomial"
    or "step", after a linear warm-up of ``warmup_epochs``; ``momentum`` and ``nesterov``, for "momentum";
    ``weight_decay``, on all parameters, decoupled (AdamW) for "adam"; ``batch_size``, global; ``epochs``;
    ``random_state``, of initial weights and order of rows (None: another one each time); ``dtype`` of parameters
    and arithmetic, "float32" or "float64"; ``algorithm`` of the all-reduce; ``reproducible``, ``shard``, ``overlap``
    and ``wire`` as in `hpcml.optim.Distributed`, ``clip_norm`` as in `hpcml.optim.Options`; ``device`` of the
    training, "cpu", "cuda" (each rank its GPU, or a share of one, with CuPy) or "auto" (that, where every rank has
    one); ``comm``, an mpi4py
    communicator (None: MPI.COMM_WORLD).

    With ``reproducible=8``, say, the rows of all ranks, in their order, are cut into 8 virtual shards, and each batch
    into its rows of each; any number of ranks up to 8 gives the same parameters, bit for bit, on processors of one
    kind. BLAS then has one thread a rank, and rows move, once, to the ranks that have their shards.

    Example, on every rank::

        model = MLPClassifier(hidden_layer_sizes=(128, 64)).fit(X_local, y_local)
        model.score(X_test_local, y_test_local)        # over the rows of all ranks
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (128,),
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
        reproducible: int | None = None,
        shard: bool = False,
        overlap: bool | None = None,
        wire: str | None = None,
        clip_norm: float | None = None,
        device: str = "cpu",
        comm: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
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
        self.reproducible = reproducible
        self.shard = shard
        self.overlap = overlap
        self.wire = wire
        self.clip_norm = clip_norm
        self.device = device
        self.comm = comm

    def _hidden(self) -> Sequence[int]:
        return tuple(self.hidden_layer_sizes)

    def _loss(self) -> Loss:
        return cross_entropy

    def _check(self) -> None:
        if isinstance(self.hidden_layer_sizes, (str, bytes)) or not isinstance(self.hidden_layer_sizes, Sequence):
            raise TypeError(f"hidden_layer_sizes={self.hidden_layer_sizes!r}; expected a tuple such as (128, 64)")
        for size in self.hidden_layer_sizes:
            whole("each of hidden_layer_sizes", size, least=1)

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The weights (inputs, units) of each layer."""
        self._require_fitted()
        return [array for name, array in self.parameters_.items() if name.startswith("W")]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The biases (units,) of each layer."""
        self._require_fitted()
        return [array for name, array in self.parameters_.items() if name.startswith("b")]
