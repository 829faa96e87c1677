"""What "auto" takes, and what is said of it."""

import numpy as np
import pytest

from hpcml import collectives as hc
from hpcml.collectives import choice, tuning
from hpcml.collectives.channel import channel_of
from hpcml.collectives.machine import Machine
from hpcml.collectives.probe import probe


def test_auto_takes_what_the_table_says_though_one_rank_alone_has_it(comm, tmp_path, monkeypatch):
    if comm.size == 1:
        pytest.skip("one rank has nothing to choose")
    library = channel_of(comm).machine.library
    seconds = {"allreduce": {8: {"binomial": 1e-6, "ring": 2e-6}, 1 << 20: {"native": 1e-6, "ring": 2e-6}}}
    if comm.rank == 0:
        monkeypatch.setenv("HPCML_TUNING", str(tmp_path))
        tuning.path_of(library, comm.size, 1).write_text(tuning.text_of(library, comm.size, 1, seconds))
    own = comm.Dup()
    small = hc.explain("allreduce", np.ones(1), comm=own)
    assert small.algorithm == "binomial" and small.seconds == 1e-6 and small.source == "measured"
    assert hc.plan("allreduce", np.ones(1), comm=own).algorithm == "binomial"
    assert hc.plan("allreduce", np.ones(1 << 17), comm=own).algorithm == "native"
    # What runs in the background, or has no type in MPI, is not left to the library.
    assert hc.plan("allreduce", np.ones(1 << 17), comm=own, background=True).algorithm == "ring"
    assert hc.plan("allreduce", np.ones(1 << 17, ">f8"), comm=own).algorithm == "ring"
    assert hc.allreduce(np.ones(1 << 17), comm=own)[-1] == comm.size
    own.Free()


def test_explanations_say_what_would_run(comm):
    told = hc.explain("allreduce", np.ones(1000), "max", algorithm="ring")
    assert (told.algorithm, told.why) == ("ring", "asked for")
    assert "allreduce(float64[1000], op='max')" in str(told) and f"{comm.size} ranks" in str(told)
    assert "compiled engine" in str(told)
    assert told.seconds is None or told.seconds >= told.bound
    assert "Python" in hc.explain("allreduce", np.ones(3, "g")).path
    assert "MPI library" in hc.explain("broadcast", np.ones(3), algorithm="native").path
    for collective in ("broadcast", "scatter", "gather", "allgather", "reduce_scatter", "alltoall", "scan", "barrier"):
        assert hc.explain(collective, np.ones(64)).algorithm in hc.algorithms(collective)
    with pytest.raises(hc.ArgumentError, match="no algorithm"):
        hc.explain("allreduce", np.ones(3), algorithm="ringo")
    with pytest.raises(hc.ArgumentError, match="unknown collective"):
        hc.explain("allgatherv", np.ones(3))


def test_links_are_probed_alike_on_every_rank(comm):
    if comm.size < 2:
        pytest.skip("one rank has no links")
    for node_of in (tuple(range(comm.size)), tuple(r // 2 for r in range(comm.size))):
        if max(node_of) == 0:
            continue
        network = probe(comm, node_of)
        assert len(set(comm.allgather(network))) == 1
        assert network.between.alpha > 0 and network.between.beta > 0
        machine = Machine("some-1.0", node_of, network, None)
        taken = [choice.choose(machine, "allreduce", n, lambda name: True) for n in (8, 1 << 24)]
        assert len(set(comm.allgather(tuple(taken)))) == 1
        assert all(t.algorithm in hc.algorithms("allreduce") and t.seconds > 0 for t in taken)


def test_ranks_of_this_machine_are_on_one_node(comm):
    machine = channel_of(comm).machine
    assert machine.size == comm.size and machine.nodes == 1
    assert machine.ranks_of_node(comm.rank) == tuple(range(comm.size))
