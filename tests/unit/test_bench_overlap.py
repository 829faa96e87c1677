"""The hidden share of communication, and the line that shows it."""

import time

import numpy as np

from hpcml.bench.overlap import Computation, Times, line, processor_seconds


def test_the_hidden_share():
    times = Times(np.array([4.0, 4.0, 4.0]), np.array([2.0, 2.0, 8.0]), np.array([4.0, 6.0, 9.0]), np.ones(3))
    assert times.hidden().tolist() == [1.0, 0.0, 0.75]


def test_the_line_has_medians_in_milliseconds():
    times = Times(np.array([0.004] * 3), np.array([0.002] * 3), np.array([0.005] * 3), np.array([0.5, 1, 1.25]))
    assert line(1024, "a way", times).split() == [
        *("1024", "a", "way", "4.000", "2.000", "5.000", "0.50", "[0.50,", "0.50]", "0.50", "1.00", "1.25")
    ]


def test_a_computation_is_the_same_work_each_time(monkeypatch):
    computation = Computation(0.5)
    done = []
    monkeypatch.setattr(computation, "_work", done.append)
    monkeypatch.setattr("hpcml.bench.overlap.time.sleep", lambda seconds: done.append(seconds))
    computation.run(3)
    assert done[::2] == [done[0]] * 3 and done[0] >= 1 and done[1::2] == [0.5e-3] * 3


def test_processors_that_work_are_noticed():
    before, start = processor_seconds(), time.perf_counter()
    while time.perf_counter() - start < 0.2:
        pass
    assert np.isnan(before) or processor_seconds() - before > 0.05
