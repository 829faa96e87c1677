"""A fully connected network with ReLU: initial weights, forward pass, backward pass.

With a₀ = x, layers l = 0 … L−1 make z_l = a_l W_l + b_l and a_{l+1} = max(0, z_l); the scores are z_{L−1}.
With δ_{L−1} the gradient of a loss with respect to the scores, the backward pass is (Rumelhart, Hinton,
Williams 1986)::

    ∂/∂W_l = a_lᵀ δ_l        ∂/∂b_l = Σ_rows δ_l        δ_{l−1} = δ_l W_lᵀ ⊙ [a_l > 0]

Without hidden layers this is a linear model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hpcml.models.device import module_of


def initial(sizes: Sequence[int], dtype: np.dtype, seed: int) -> dict[str, np.ndarray]:
    """Parameters "W0" (sizes[0], sizes[1]), "b0" (sizes[1],), "W1", …: as in He et al. 2015; biases zero.

    Weights are normal with variance 2 / fan-in. A linear model, which has a convex loss, starts at zero.
    """
    random = np.random.default_rng(seed)
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        spread = 0.0 if len(sizes) == 2 else np.sqrt(2.0 / fan_in)
        parameters[f"W{layer}"] = (spread * random.standard_normal((fan_in, fan_out))).astype(dtype)
        parameters[f"b{layer}"] = np.zeros(fan_out, dtype)
    return parameters


class Passes:
    """Forward and backward passes of at most ``rows`` rows, in buffers that are allocated here once.

    ``parameters`` are those of ``initial``, of NumPy or CuPy, and all arrays are of that kind; they are read in every
    pass, so an optimizer may update them in place. Attribute ``gradients`` has the keys and shapes of ``parameters``;
    ``backward`` overwrites it.
    """

    def __init__(self, parameters: dict[str, np.ndarray], rows: int) -> None:
        self._xp = module_of(parameters["W0"])
        self.layers = len(parameters) // 2
        self.parameters = parameters
        self.gradients = {name: self._xp.zeros_like(array) for name, array in parameters.items()}
        biases = [parameters[f"b{layer}"] for layer in range(self.layers)]
        self._outputs = [self._xp.empty((rows, bias.size), bias.dtype) for bias in biases]
        self._positive = [self._xp.empty((rows, bias.size), bool) for bias in biases[:-1]]

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Scores (n, outputs) of ``X`` (n, inputs), n ≤ rows: a view of a buffer, until the next pass."""
        below = X
        for layer, buffer in enumerate(self._outputs):
            out = buffer[: len(X)]
            self._xp.matmul(below, self.parameters[f"W{layer}"], out=out)
            out += self.parameters[f"b{layer}"]
            if layer < self.layers - 1:
                self._xp.maximum(out, 0, out=out)
            below = out
        return below

    def backward(self, X: np.ndarray, done: Callable[[str], None] = lambda name: None) -> dict[str, np.ndarray]:
        """``gradients``, after ``forward(X)`` and after its scores were overwritten with their gradient.

        done: called with the name of each as soon as it is there, those of the last layer first.
        """
        delta = self._outputs[-1][: len(X)]
        for layer in reversed(range(self.layers)):
            below = X if layer == 0 else self._outputs[layer - 1][: len(X)]
            self._xp.matmul(below.T, delta, out=self.gradients[f"W{layer}"])
            self._xp.sum(delta, axis=0, out=self.gradients[f"b{layer}"])
            done(f"W{layer}")
            done(f"b{layer}")
            if layer > 0:
                # The activations are not needed again, so their buffer takes the next delta.
                positive = self._xp.greater(below, 0, out=self._positive[layer - 1][: len(X)])
                delta = self._xp.matmul(delta, self.parameters[f"W{layer}"].T, out=below)
                delta *= positive
        return self.gradients
