"""Plans of one queue: the next begins when those before it are done, or nearly so."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.queue import Queue

COMM = MPI.COMM_WORLD
LONG, SHORT = 1 << 22, 3  # float32


def plans(queue, lengths):
    """In place, each on its own array."""
    arrays = [np.zeros(n, np.float32) for n in lengths]
    made = [hc.plan("allreduce", x, out=x, algorithm="ring", background=True) for x in arrays]
    for one in made:
        one.queue(queue)
    return arrays, made


@pytest.mark.skipif(COMM.size == 1, reason="one rank has nothing to wait for")
def test_a_short_one_does_not_overtake_a_long_one():
    (long, short), made = plans(Queue(0), [LONG, SHORT])
    for turn in range(3):
        long[...], short[...] = COMM.rank + turn, 1
        for one in made:
            one.start()
        while not made[1].test():
            pass
        assert made[0].test()
        assert [one.wait() is x for one, x in zip(made, (long, short), strict=True)] == [True, True]
        assert (long == sum(range(COMM.size)) + turn * COMM.size).all() and (short == COMM.size).all()


@pytest.mark.parametrize("slack", [0, 100, 1 << 30])
@pytest.mark.parametrize("backwards", [False, True])
def test_sums_are_right_in_whichever_order_they_are_waited_for(slack, backwards):
    arrays, made = plans(Queue(slack), [10, 0, 1000, 3, 50_000, 1])
    for turn in range(5):
        for k, (x, one) in enumerate(zip(arrays, made, strict=True)):
            x[...] = COMM.rank + k + turn
            one.start()
        for one in reversed(made) if backwards else made:
            one.wait()
        for k, x in enumerate(arrays):
            assert (x == sum(range(COMM.size)) + (k + turn) * COMM.size).all()
