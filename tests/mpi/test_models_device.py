"""Where a model is trained: what is said on a machine without a GPU, which `tests/gpu` looks at from the other side."""

import numpy as np
import pytest

from hpcml import collectives as hc
from hpcml.models import MLPClassifier
from hpcml.models.device import settle


@pytest.fixture
def rows(comm):
    if settle("auto", comm) is not np:
        pytest.skip("there is a GPU here")
    X = np.random.default_rng(comm.rank).normal(size=(40, 5))
    return X, (X[:, 0] > 0).astype(int)


def test_auto_is_the_processor(comm, rows):
    fitted = [MLPClassifier((4,), epochs=2, device=device, comm=comm).fit(*rows) for device in ("cpu", "auto")]
    for name, array in fitted[0].parameters_.items():
        assert (fitted[1].parameters_[name] == array).all()


def test_cuda_is_an_error_on_every_rank(comm, rows):
    with pytest.raises(hc.CollectiveError, match="device='cuda'"):
        MLPClassifier((4,), device="cuda", comm=comm).fit(*rows)


def test_what_goes_with_processors_alone(comm, rows):
    with pytest.raises(hc.CollectiveError, match="does not go with shard"):
        MLPClassifier((4,), device="cuda", shard=True, comm=comm).fit(*rows)
    with pytest.raises(hc.CollectiveError, match="device='gpu'; expected one of cpu, cuda, auto"):
        MLPClassifier((4,), device="gpu", comm=comm).fit(*rows)
    MLPClassifier((4,), epochs=1, device="auto", shard=True, comm=comm).fit(*rows)
