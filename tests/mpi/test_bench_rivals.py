"""The rivals in the benchmarks: the MPI library is told which algorithm to use, and does; what works is measured."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcml.bench import forced, measure, rivals
from hpcml.bench.data import Data
from hpcml.collectives.ops import find

ITEMS = 840  # a multiple of all sizes tested
OPEN_MPI = MPI.Get_library_version().startswith("Open MPI")
COLLECTIVES = ("allreduce", "broadcast", "reduce", "allgather", "reduce_scatter", "alltoall", "gather", "scatter")
# Items that each rank folds in an all-reduce; None where that is not so simple for this number of ranks.
FOLDED = {
    "basic_linear": lambda rank, size: ITEMS * (size - 1) * (rank == 0),
    "ring": lambda rank, size: ITEMS * (size - 1) // size,
    "recursive_doubling": lambda rank, size: ITEMS * (size.bit_length() - 1) if size & (size - 1) == 0 else None,
}


@pytest.fixture
def counting():
    """An operation that counts the items it folds on this rank, and the count, in a list of one."""
    folded = [0]

    def add(a, b, datatype):
        into = np.frombuffer(b, np.float32)
        into += np.frombuffer(a, np.float32)
        folded[0] += len(into)

    op = MPI.Op.Create(add, commute=True)
    yield op, folded
    op.Free()


@pytest.mark.parametrize("name", ["basic_linear", "ring", "recursive_doubling"])
def test_the_library_uses_the_algorithm_it_is_told_to(comm, counting, name):
    found = {algorithm.name: algorithm for algorithm in forced.algorithms("allreduce")}
    if name == "basic_linear" and not OPEN_MPI:
        assert name not in found
        return
    op, folded = counting
    data = Data("allreduce", ITEMS * 4, np.dtype("f4"), find(op), comm)
    rival = rivals.forced_rival(found[name], comm)
    call, result = rival.bind(data)
    data.refresh()
    with rival.held():
        call()
    rival.close()
    assert (result == comm.size).all()
    expected = FOLDED[name](comm.rank, comm.size)
    assert expected is None or folded[0] == expected


def test_what_is_told_is_taken_back(comm, counting):
    op, folded = counting
    x, out = np.ones(ITEMS, "f4"), np.empty(ITEMS, "f4")

    def folds_by_default():
        folded[0] = 0
        again = comm.Dup()
        again.Allreduce(x, out, op)
        again.Free()
        return folded[0]

    before = folds_by_default()
    for algorithm in forced.algorithms("allreduce"):
        values = {name: forced.variables.find(name).read() for name in algorithm.set}
        with pytest.raises(KeyError), forced.held(algorithm.set):
            assert {name: forced.variables.find(name).read() for name in algorithm.set} == algorithm.set
            raise KeyError
        assert {name: forced.variables.find(name).read() for name in algorithm.set} == values
    assert folds_by_default() == before


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_rivals_that_work_are_found(comm, collective):
    found, left_out = rivals.find(collective, np.dtype("f4"), find("sum"), comm, ("forced", rivals.LOOPS))
    names = [rival.name for rival in found]
    for rival in found:
        rival.close()
    loops = ("allreduce", "broadcast", "allgather", "reduce_scatter", "alltoall")
    assert (rivals.LOOPS in names) == (collective in loops)
    assert len([name for name in names if name.startswith("native: ")]) >= 2
    assert comm.allgather(names) == [names] * comm.size
    if OPEN_MPI and collective == "allgather" and comm.size > 2:
        assert "native: two_proc" in left_out
    if not OPEN_MPI and collective == "alltoall" and comm.size > 1:
        assert "native: pairwise_sendrecv_replace" in left_out


def test_a_wrong_result_is_seen(comm):
    for collective in (*COLLECTIVES, "scan", "exscan"):
        data = Data(collective, 4000, np.dtype("f4"), find("sum"), comm)
        data.number()
        wrong = data.out.copy()
        wrong[-1] += 7
        has_result = {"reduce": comm.rank == 0, "gather": comm.rank == 0, "exscan": comm.rank > 0}
        assert data.right(wrong) != has_result.get(collective, True)


def test_a_measurement_has_a_time_for_every_row(comm):
    results = measure.measure(
        "allreduce", [40, 400 << 10], "ring", repeat=2, rivals=("forced", rivals.LOOPS), give_up=1.0, line_rate=1e9
    )
    assert results.sizes() == [40, 400 << 10]
    names = results.names_at(40)
    assert {"native", "auto", "ring", "mpi4py ring", "nothing", "native: recursive_doubling"} <= set(names)
    assert all(len(times) == 2 and min(times) > 0 for times in results.seconds.values())
    assert comm.allgather(results.seconds) == [results.seconds] * comm.size


def test_what_is_far_behind_is_given_up(comm):
    sizes = [measure.SETTLED, 2 * measure.SETTLED]
    results = measure.measure("broadcast", sizes, repeat=1, rivals=(rivals.LOOPS,), give_up=1.0)
    assert set(results.names_at(sizes[0])) > set(results.names_at(sizes[1])) >= {"native", "auto", "nothing"}


def test_gloo_gives_the_right_results(comm):
    if comm.size != 2:
        pytest.skip("two ranks are enough, as importing torch takes seconds on each")
    pytest.importorskip("torch")
    for collective in rivals.gloo.COLLECTIVES:
        found, left_out = rivals.find(collective, np.dtype("f4"), find("sum"), comm, (rivals.GLOO,))
        assert [rival.name for rival in found] == [rivals.GLOO] and not left_out
        found[0].close()


def test_telling_the_library_its_algorithms_leaves_its_thread_level_alone(comm):
    before = MPI.Query_thread()
    forced.algorithms("allreduce")
    assert MPI.Query_thread() == before
