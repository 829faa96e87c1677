"""Optimizers and the perceptron on a GPU: what the processor makes, within float tolerance."""

import numpy as np
import pytest

from hpcml import optim
from hpcml.models import MLPClassifier


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
def test_optimizer(device, comm, rule):
    random = np.random.default_rng(3)
    host = {"w": random.normal(size=(300, 200)).astype("f4"), "b": random.normal(size=7).astype("f4")}
    mine = {name: device.array(array) for name, array in host.items()}
    more = {"momentum": 0.9} if rule == "SGD" else {}
    there, here = (optim.Distributed(getattr(optim, rule)(p, lr=0.01, **more), comm) for p in (host, mine))
    for step in range(10):
        random = np.random.default_rng([step, comm.rank])
        grads = {name: random.normal(size=array.shape).astype("f4") for name, array in host.items()}
        there.step(grads, weight=1 + comm.rank)
        here.step({name: device.array(array) for name, array in grads.items()}, weight=1 + comm.rank)
    for name, array in host.items():
        np.testing.assert_allclose(mine[name].get(), array, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("classes", [2, 10])
def test_perceptron(device, comm, classes):
    random = np.random.default_rng(comm.rank)
    X = random.normal(size=(400, 20)).astype("f4")
    y = np.abs(X[:, :classes]).argmax(1) if classes > 2 else (X[:, 0] > 0).astype(int)
    made = [
        MLPClassifier((64, 32), epochs=5, device=where, comm=comm, dtype="float64") for where in ("cpu", "cuda")
    ]
    fitted = [model.fit(X, y, validation=(X[:50], y[:50])) for model in made]
    for name, array in fitted[0].parameters_.items():
        assert isinstance(fitted[1].parameters_[name], np.ndarray)
        np.testing.assert_allclose(fitted[1].parameters_[name], array, rtol=1e-6, atol=1e-8)
    losses = [[epoch["loss"] for epoch in model.history_] for model in fitted]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-7)


def test_auto_is_cuda_here(device, comm):
    from hpcml.models.device import settle

    assert settle("auto", comm).__name__ == "cupy"
