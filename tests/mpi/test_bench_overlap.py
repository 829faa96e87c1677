"""Each way of overlapping computes the all-reduce, and is timed on all ranks alike."""

import numpy as np

from hpcml.bench.overlap import Computation, measure, ways


def test_every_way_is_timed_and_right(comm):
    x = np.ones(1000, np.float32)
    for way in ways(x, comm):
        result = way.complete(way.begin())
        assert result is None or isinstance(result, (bool, np.ndarray))
        if isinstance(result, np.ndarray):
            assert (result == comm.size).all()
        times = measure(way, x, Computation(0.5), 2, comm)
        assert times.both.shape == (2,) and (times.both > 0).all() and (times.computation > 0).all()
        assert all((found == times.both).all() for found in comm.allgather(times.both))
        way.close()
