"""The MPI libraries' tuning files: their text, and that the library of this environment does what its file says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcml.bench.export import export, library_file, rules
from hpcml.bench.forced import Forced
from hpcml.bench.rules import Rule, between, mpich_table, mpich_text, open_mpi_text
from hpcml.collectives import CollectiveError

MPIEXEC = Path(sys.executable).parent / "mpiexec"

# Every function that a file may tell; the sum shows in which order it was folded: a ring begins each block elsewhere.
PROGRAM = """
import numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
n = 1024 * comm.size
x = np.full(n, [1e8, 1, -1e8, 1][comm.rank], np.float32)
y = np.empty_like(x)
comm.Allreduce(x, y)
if comm.rank == 0:
    print("a ring" if (y == 1).any() and (y == 0).any() else "one order" if (y == 0).all() else y)
ones, part = np.ones(n), np.empty(1024)
out = np.empty(n)
comm.Reduce_scatter_block(ones, part)
assert (part == comm.size).all()
comm.Reduce_scatter(ones, part, [1024] * comm.size)
assert (part == comm.size).all()
comm.Allgather(part, out)
assert (out == comm.size).all()
comm.Alltoall(ones, out)
comm.Bcast(out)
comm.Reduce(ones, out if comm.rank == 0 else None)
assert (out == (comm.size if comm.rank == 0 else 1)).all()
"""


def test_a_size_between_two_is_the_geometric_mean():
    assert between(1024, 4096) == 2048


def test_runs_of_sizes_with_the_same_winner_are_one_rule():
    known = {
        "": Forced("", "Allreduce", 0, 0, {}),
        "a": Forced("block ring", "Reduce_scatter_block", 4, 0, {}),
        "b": Forced("chain 32K", "Bcast", 2, 32768, {}),
    }
    fastest = [(16, "a"), (64, "a"), (256, "b"), (1024, ""), (4096, "")]
    assert rules(fastest, known) == [Rule(0, "ring", 4), Rule(128, "chain", 2, 32768), Rule(512, "", 0)]


def test_open_mpi_file():
    text = open_mpi_text({"Bcast": [Rule(0, "binomial", 6), Rule(4096, "pipeline", 3, 65536)]}, 4)
    numbers = [line.partition("#")[0].split() for line in text.splitlines()]
    assert numbers == [
        *(["1"], ["7"], ["3"]),
        *(["0"], ["1"], ["0", "0", "0", "0"]),
        *(["4"], ["2"], ["0", "6", "0", "0"], ["4096", "3", "0", "65536"]),
        *(["5"], ["1"], ["0", "0", "0", "0"]),
    ]


def test_mpich_file():
    own = {"algorithm=MPIR_Alltoall_intra_pairwise": {}}
    built_in = {"collective=alltoall": {"comm_type=intra": own, "comm_type=inter": {"x": {}}}, "collective=scan": {}}
    table = mpich_table(b'..."x"\0{"collective=alltoall":{"algorithm=MPIR_Gather_intra":{}}}\0..')
    assert table == {"collective=alltoall": {"algorithm=MPIR_Gather_intra": {}}}
    with pytest.raises(ValueError, match="no selection table"):
        mpich_table(b'{"collective=bcast":{}}\0')
    made = json.loads(mpich_text({"Alltoall": [Rule(0, "nb", 3), Rule(4096, "", 0)]}, 4, built_in))
    assert made["collective=scan"] == {} and made["collective=alltoall"]["comm_type=inter"] == {"x": {}}
    told = made["collective=alltoall"]["comm_type=intra"]
    assert list(told) == ["comm_size<=3", "comm_size<=4", "comm_size=any"] and told["comm_size=any"] == own
    assert told["comm_size<=4"] == {
        "is_sendbuf_inplace=no": {
            "avg_msg_size<=1023": {"algorithm=MPIR_Alltoall_allcomm_nb": {}},
            "avg_msg_size=any": own,
        },
        "is_sendbuf_inplace=yes": own,
    }


def test_the_wrong_library_is_refused(tmp_path):
    from mpi4py import MPI

    other = "mpich" if MPI.Get_library_version().startswith("Open MPI") else "openmpi"
    with pytest.raises(CollectiveError, match="has to be measured with it"):
        export(other, tmp_path / "file")
    with pytest.raises(CollectiveError, match="expected openmpi or mpich"):
        export("gloo", tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python")
@pytest.mark.parametrize("name, ranks, said", [("ring", 4, "a ring"), ("recursive_doubling", 4, "one order")])
def test_the_library_does_what_its_file_says(tmp_path, name, ranks, said):
    assert folded_in(tmp_path, name, ranks) == said


@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python")
def test_other_numbers_of_ranks_keep_the_librarys_decision(tmp_path):
    """Which is no ring for so few bytes; a file for fewer ranks and one for more ranks alike."""
    assert folded_in(tmp_path, "ring", 3) == folded_in(tmp_path, "ring", 5) == folded_in(tmp_path, None, 4)


def folded_in(tmp_path, name, ranks):
    """What the program says on 4 ranks with a file for ``ranks`` ranks, on which all-reduces are done by ``name``."""
    from mpi4py import MPI

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
    from environment import ALLOWANCES

    open_mpi = MPI.Get_library_version().startswith("Open MPI")
    path = tmp_path / "rules"
    number = {"ring": 4, "recursive_doubling": 3, None: 0}[name]
    choice = {"Allreduce": [Rule(0, name or "", number)]}
    for function in ("Bcast", "Reduce", "Allgather", "Alltoall", "Reduce_scatter", "Reduce_scatter_block"):
        choice[function] = [Rule(0, "", 0)]
    if open_mpi:
        path.write_text(open_mpi_text(choice, ranks))
        told = {
            "OMPI_MCA_coll_tuned_use_dynamic_rules": "1",
            "OMPI_MCA_coll_tuned_dynamic_rules_filename": str(path),
            "OMPI_MCA_coll_tuned_priority": "100",
        }
    else:
        path.write_text(mpich_text(choice, ranks, mpich_table(library_file().read_bytes())))
        told = {"MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE": str(path), "MPIR_CVAR_DEVICE_COLLECTIVES": "none"}
    started = ("OMPI_", "PMIX_", "PRTE_", "PMI_")  # this process is an MPI world of its own, and must not show it
    clean = {key: value for key, value in os.environ.items() if not key.startswith(started)}
    ran = subprocess.run(
        [str(MPIEXEC), "-n", "4", sys.executable, "-c", PROGRAM],
        env={**clean, **ALLOWANCES, **told},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()
