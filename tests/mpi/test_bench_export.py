"""The library's tuning file, measured and written for this number of ranks; an error where it cannot be."""

import json

import pytest
from mpi4py import MPI

from hpcml.bench.export import export
from hpcml.bench.rules import OPEN_MPI_NUMBERS
from hpcml.collectives import CollectiveError

LIBRARY = "openmpi" if MPI.Get_library_version().startswith("Open MPI") else "mpich"


def test_the_file_has_a_rule_for_each_function(comm, tmp_path):
    path = tmp_path / "rules"
    if comm.size == 1:
        with pytest.raises(CollectiveError, match="nothing to tune on one rank"):
            export(LIBRARY, path)
        return
    said = export(LIBRARY, path, ("alltoall", "reduce_scatter"), (400, 40_000), repeat=1)
    assert path.exists() == (comm.rank == 0)
    functions = ("Alltoall", "Reduce_scatter_block", "Reduce_scatter")
    assert all(f"MPI_{function}: from 0 " in said for function in functions) and str(path) in said
    if comm.rank > 0:
        return
    if LIBRARY == "openmpi":
        lines = [line.partition("#")[0].split() for line in path.read_text().splitlines()]
        assert lines[0] == ["3"] and lines.count([str(comm.size)]) >= 3
        assert [str(OPEN_MPI_NUMBERS["Alltoall"])] in lines
    else:
        table = json.loads(path.read_text())
        assert len(table) > 10
        for function in functions:
            assert f"comm_size<={comm.size}" in table[f"collective={function.lower()}"]["comm_type=intra"]


def test_a_file_that_cannot_be_written_is_an_error_on_every_rank(comm, tmp_path):
    if comm.size > 1:
        with pytest.raises(CollectiveError, match="no folder .*absent"):
            export(LIBRARY, tmp_path / "absent" / "rules", ("broadcast",), (400,), repeat=1)
