"""The distributed optimizer of parameters in GPU memory, over a GPU made of host memory."""

import numpy as np
import pytest
from device_standin import standing_in

from hpcml import optim


@pytest.fixture
def device():
    with standing_in() as made:
        yield made


def drawn(seed):
    random = np.random.default_rng(seed)
    return {"w": random.normal(size=(30, 20)), "b": random.normal(size=7)}


@pytest.mark.parametrize("overlap", [False, True])
def test_steps_are_those_of_the_host(device, fresh, overlap):
    host = drawn(fresh.rank)  # rank 0's count
    mine = {name: device.array(array) for name, array in host.items()}
    there = optim.Distributed(optim.Adam(host, lr=0.1), fresh, values=1)
    here = optim.Distributed(optim.Adam(mine, lr=0.1), fresh, values=1, overlap=overlap, bucket=1000)
    for step in range(6):
        weight = 1 + (fresh.rank + step) % 2
        grads = drawn([step, fresh.rank])
        expected = there.step(grads, weight=weight, values=[1.5])
        given = {name: device.array(array) for name, array in grads.items()}
        if overlap:
            for name in ("b", "w"):
                here.ready(name, given[name], weight=weight)
            found = here.step(values=[1.5])
        else:
            found = here.step(given, weight=weight, values=[1.5])
        assert found.tolist() == expected.tolist() == [1.5 * fresh.size]
    for name, array in host.items():
        np.testing.assert_allclose(mine[name].get(), array, rtol=1e-9, atol=1e-9)


def test_a_rank_without_samples(device, fresh):
    params = [device.array(np.zeros(4))]
    opt = optim.Distributed(optim.SGD(params, lr=1.0), fresh)
    if fresh.rank == 0:
        opt.step([device.array(np.ones(4))], weight=2)
    else:
        opt.step(None, weight=0)
    assert params[0].get().tolist() == [-1.0] * 4


def test_what_there_is_for_the_host_alone(device, fresh):
    with pytest.raises(TypeError, match="shard, reproducible and wire"):
        optim.Distributed(optim.SGD([device.array(np.ones(3))], lr=1.0), fresh, shard=True)
