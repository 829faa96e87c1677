"""Bad arguments: one clear error on every rank, before any data move, and the next call works."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.channel import channel_of
from hpcml.collectives.stall import ALARM


def test_an_argument_that_is_wrong_everywhere(comm):
    x = np.ones(3)
    for call, message in (
        (lambda: hc.allreduce(x, "average"), "unknown op 'average': expected one of sum, prod"),
        (
            lambda: hc.allreduce(x, algorithm="star"),
            "allreduce has no algorithm 'star'; it has: auto, native, shared",
        ),
        (lambda: hc.allreduce(x, "band"), "op 'band' is not defined for float64"),
        (lambda: hc.allreduce(x > 0), "op 'sum' is not defined for bool; for a count pass"),
        (lambda: hc.allreduce(np.array(["a"], object)), "holds Python objects"),
        (lambda: hc.allreduce(np.ma.array([1.0])), "masked array"),
        (lambda: hc.allreduce(x, out=np.ones(4)), r"out is float64\[4\], but the result is float64\[3\]"),
        (lambda: hc.allreduce(x, axis=1), "only axis=0"),
        (lambda: hc.allreduce(x, "prod", reproducible=True), "reproducible=True has no op 'prod'"),
        (lambda: hc.broadcast(x, root=comm.size), f"root={comm.size} is out of range: the communicator has ranks 0-"),
        (lambda: hc.broadcast(x, root=0.5), "root must be a rank"),
        (lambda: hc.reduce(x, root=-1), "root=-1 is out of range"),
        (lambda: hc.gather(x, root=99), "root=99 is out of range"),
        (lambda: hc.scatter(x, root=99), "root=99 is out of range"),
        (lambda: hc.scatter(np.array(1.0)), "no axes"),
        (lambda: hc.allgather({"a": object()}), "holds Python objects"),
    ):
        with pytest.raises(hc.ArgumentError, match=message):
            call()
        assert hc.allreduce(1, comm=comm) == comm.size
    assert issubclass(hc.ArgumentError, (ValueError,)) and issubclass(hc.ArgumentError, TypeError)


def test_read_only_output_on_one_rank(comm):
    x = np.ones(5)
    x.flags.writeable = comm.rank != 0
    with pytest.raises(hc.ArgumentError, match="read-only"):
        hc.broadcast(x)


@pytest.mark.parametrize(
    "odd",
    [
        lambda: hc.allreduce(np.ones(4)),
        lambda: hc.allreduce(np.ones(3, "f4")),
        lambda: hc.allreduce(np.ones((3, 1))),
        lambda: hc.allreduce(np.ones(3), "max"),
        lambda: hc.allreduce(np.ones(3), algorithm="ring"),
        lambda: hc.allreduce("three"),
        lambda: hc.broadcast(np.ones(3)),
    ],
)
def test_one_rank_calls_something_else(comm, odd):
    if comm.size == 1:
        pytest.skip("one rank cannot disagree with itself")
    with pytest.raises(hc.MismatchError) as caught:
        odd() if comm.rank == comm.size - 1 else hc.allreduce(np.ones(3))
    said = str(caught.value)
    assert f"rank {comm.size - 1}: " in said and "allreduce(float64[3], op='sum', algorithm='auto', root=0)" in said
    assert len(set(comm.allgather(said.partition(":")[2]))) == 1


def test_structures_that_differ(comm):
    if comm.size == 1:
        pytest.skip("one rank cannot disagree with itself")
    with pytest.raises(hc.MismatchError, match=r"\['extra'\]"):
        hc.allreduce({"a": np.ones(2), **({"extra": np.ones(1)} if comm.rank == 0 else {})})
    with pytest.raises(hc.MismatchError, match="root"):
        hc.broadcast(np.ones(3), root=0 if comm.rank else 1)
    with pytest.raises(hc.MismatchError, match="float32"):
        hc.allgather(np.ones((2, 2), "f4" if comm.rank else "f8"))


def test_all_or_none(comm):
    with hc.all_or_none(comm):
        pass
    with pytest.raises(hc.CollectiveError) as caught, hc.all_or_none(comm):
        if comm.rank == comm.size - 1:
            raise FileNotFoundError(2, "No such file or directory", "train.csv")
    assert "No such file or directory: 'train.csv'" in str(caught.value)
    assert (f"rank {comm.size - 1}: " in str(caught.value)) == (comm.size > 1)
    with pytest.raises(hc.CollectiveError, match="^bad$"), hc.all_or_none(comm):
        raise ValueError("bad")


def test_an_intercommunicator_is_refused(comm):
    if comm.size < 2:
        pytest.skip("needs two groups")
    side = comm.Split(comm.rank % 2)
    inter = side.Create_intercomm(0, comm, 1 - comm.rank % 2)
    with pytest.raises(TypeError, match="intercommunicator"):
        hc.allreduce(np.ones(1), comm=inter)
    inter.Free()
    side.Free()


def test_a_plan_of_something_unknown(comm):
    with pytest.raises(ValueError, match="there is no plan for 'sort'"):
        hc.plan("sort", np.ones(1))
    with pytest.raises(hc.ArgumentError, match="no algorithm 'star'"):
        hc.plan("allreduce", np.ones(1), algorithm="star")
    assert MPI.COMM_WORLD.size == comm.size


@pytest.mark.parametrize("algorithm", ["recursive_doubling", "ring", "binomial"])
def test_calls_that_were_made_before_and_now_differ(comm, algorithm):
    """Both are bound, so nothing is checked before data move: the wait itself has to find it out."""
    if comm.size == 1:
        pytest.skip("one rank cannot disagree with itself")
    own = comm.Dup()
    calls = [
        lambda: hc.allreduce(np.ones(3), algorithm=algorithm, comm=own),
        lambda: hc.allreduce(np.ones(40_000), "max", algorithm=algorithm, comm=own),
        lambda: hc.broadcast(np.ones(5), root=comm.size - 1, comm=own),
    ]
    for odd in (1, 2):
        for call in calls:
            call()
        with pytest.raises(hc.MismatchError) as caught:
            calls[odd]() if comm.rank == comm.size - 1 else calls[0]()
            calls[1]()  # where a rank that needs nobody in the odd call (a broadcast's root) learns of it
        assert caught.value.in_flight
        assert f"rank {comm.size - 1}: {'broadcast' if odd == 2 else 'allreduce(float64[40000]'}" in str(caught.value)
        comm.Barrier()
        assert calls[0]()[0] == comm.size  # on a new channel
    own.Free()


def test_a_rank_that_comes_late_is_waited_for(comm):
    import time

    for _ in range(2):
        if comm.rank == 0:
            time.sleep(2.5)  # longer than the patience of the others, who then ask what is the matter
        assert hc.allreduce(np.ones(7))[0] == comm.size
        assert hc.allreduce(np.ones(7, "g"))[0] == comm.size


def test_a_root_may_be_any_kind_of_integer(comm):
    root = np.int64(comm.size - 1) if comm.rank else comm.size - 1
    x = np.full(3, comm.rank)
    assert hc.broadcast(x, root)[0] == comm.size - 1
    part = hc.scatter(np.arange(comm.size) if comm.rank == root else None, root)
    assert (hc.gather(part, root) is None) == (comm.rank != root)


def test_out_that_does_not_fit_on_one_rank(comm):
    x = np.full(2, comm.rank)
    wrong = np.zeros(1) if comm.rank == comm.size - 1 else None
    for call in (
        lambda out: hc.allgather(x, out=out),
        lambda out: hc.gather(x, root=comm.size - 1, out=out),
        lambda out: hc.scatter(np.arange(2 * comm.size) if comm.rank == 0 else None, out=out),
    ):
        with pytest.raises(hc.ArgumentError, match=r"out is float64\[1\], but the result is int64"):
            call(wrong)
        call(None)
    same = np.arange(comm.size)
    assert (hc.allgather(comm.rank, out=np.empty(comm.size, int)) == same).all()


def test_structures_and_their_outputs(comm):
    with pytest.raises(hc.ArgumentError, match="for one array, not for a structure"):
        hc.allreduce([np.ones((2, 3))], axis=0)
    with pytest.raises(ValueError, match=r"out\['a'\] is int64\[1\], but the result is float64\[1\]"):
        hc.allreduce({"a": np.array([1])}, "mean", out={"a": np.array([1])})
    with pytest.raises(hc.ArgumentError, match="scatter has no algorithm 'nope'"):
        hc.scatter({"a": np.ones(3)}, algorithm="nope")
    with pytest.raises(hc.ArgumentError):
        hc.broadcast([1.0, 2.0])
    assert hc.scatter({}) == {} and hc.allreduce([]) == []
    assert hc.allgather([np.zeros((3, 0))])[0].shape == (3 * comm.size, 0)
    assert hc.reduce({}, root=0) == ({} if comm.rank == 0 else None)


def test_data_types_that_a_reduction_does_not_have(comm):
    pair = np.zeros(2, [("a", "f4"), ("b", "i4")])
    with pytest.raises(hc.ArgumentError, match="is not defined for"):
        hc.allreduce(pair)
    with pytest.raises(hc.ArgumentError, match="no data type for >f8"):
        hc.allreduce(np.ones(2, ">f8"), algorithm="native")
    op = MPI.Op.Create(lambda a, b, kind: None)
    with pytest.raises(hc.ArgumentError, match="op of the user's own"):
        hc.allreduce(np.ones(2, ">f8"), op, algorithm="binomial")
    op.Free()
    with pytest.raises(hc.ArgumentError, match="cannot tell the other ranks of dtype"):
        hc.scatter(np.zeros(4, "V8"))


def test_a_mismatch_that_was_agreed_on_is_over(comm):
    """Alarms about it that are heard later accuse nobody."""
    import time

    if comm.size == 1:
        pytest.skip("one rank cannot disagree with itself")
    if comm.rank == comm.size - 1:
        time.sleep(1.8)
    with pytest.raises(hc.MismatchError):
        hc.allreduce(np.ones(4 if comm.rank == 0 else 5))
    if comm.rank == 0:
        time.sleep(0.8)
    assert hc.allreduce(np.ones(6))[0] == comm.size


def test_scatter_where_others_reduce(comm):
    if comm.size == 1:
        pytest.skip("one rank cannot disagree with itself")
    own = comm.Dup()
    hc.allreduce(np.ones(3), comm=own)
    with pytest.raises(hc.MismatchError):
        if comm.rank == 0:
            hc.scatter(np.ones(3), comm=own)
        else:
            hc.allreduce(np.ones(3), comm=own)
        hc.allreduce(np.ones(77), comm=own)
    own.Free()


def test_what_was_told_on_a_communicator_that_is_gone_is_not_heard_on_a_new_one(comm):
    """MPI gives the context of a communicator that was freed to a later one, and may keep what nobody received."""
    old = comm.Dup()
    hc.allreduce(np.ones(3), algorithm="ring", comm=old)
    if comm.size > 1 and comm.rank == 0:
        channel_of(old).alarms.tell(1, ALARM, 1, "\0allreduce(an old call)")
    comm.Barrier()
    old.Free()
    new = comm.Dup()
    for _ in range(2):
        hc.allreduce(np.ones(3), algorithm="ring", comm=new)
        channel_of(new).alarms.hear()
    new.Free()
