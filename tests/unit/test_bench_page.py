"""The page that reads results: what it takes from them, and that it finds them in files."""

import json

import pytest

from hpcml.bench.data import whole_bytes
from hpcml.bench.forced import values_in
from hpcml.bench.measure import Results
from hpcml.bench.page import geometric_mean, markdown, mpi_name
from hpcml.bench.report import best_rival, is_results, read_json, table, write_json
from hpcml.bench.rivals import is_rival

SIZES = (8, 64 << 10, 8 << 20)


def results(line_rate=None):
    made = Results("allreduce", "float32", "sum", 0, 4, 4, "Open MPI v5.0.11, built somewhere", line_rate=line_rate)
    for nbytes, scale in zip(SIZES, (1e-6, 1e-4, 1.0), strict=True):
        made.seconds[nbytes, "native"] = [4 * scale] * 3
        made.seconds[nbytes, "auto"] = [3 * scale] * 3
        if not line_rate:
            made.seconds[nbytes, "auto, out="] = [2 * scale] * 3
        made.seconds[nbytes, "ring"] = [2.5 * scale, 2 * scale, 2 * scale]
        made.seconds[nbytes, "native: ring"] = [2.5 * scale] * 3
        made.seconds[nbytes, "nothing"] = [1e-8] * 3
    made.left_out["native: two_proc"] = "not for 4 ranks"
    return made


def test_equal_parts_round_the_size():
    assert whole_bytes("allreduce", 10, 4, 3) == 8
    assert whole_bytes("allgather", 8, 4, 3) == 12  # an item a rank at least
    assert whole_bytes("allgather", 4 << 20, 4, 3) % 12 == 0
    assert whole_bytes("allreduce", 1, 4, 3) == 4
    assert whole_bytes("barrier", 8, 4, 3) == 0


def test_values_of_an_mpich_variable_are_read_in_order():
    text = """Variable to select allreduce algorithm
auto - Internal algorithm selection (can be overridden with FILE)
nb                       - Force nonblocking algorithm
recursive_doubling       - Force recursive doubling - the simple one"""
    assert values_in(text) == ["auto", "nb", "recursive_doubling"]


def test_who_is_a_rival():
    rivals = ("native", "native: ring", "gloo", "mpi4py ring")
    assert all(map(is_rival, rivals)) and not any(map(is_rival, ("auto", "ring", "nothing")))


def test_the_best_rival_and_the_bound():
    assert best_rival(results(), 8) == ("native: ring", pytest.approx(0.8))
    assert results().bound(8 << 20) is None
    assert results(line_rate=12.5e6).bound(8 << 20) == pytest.approx(1.5 * (8 << 20) / 12.5e6)
    assert results(line_rate=12.5e6).names_at(8) == ["native", "auto", "ring", "native: ring", "nothing"]


def test_the_table_shows_the_bound_and_who_was_left_out():
    text = table(results(line_rate=12.5e6))
    assert "/ bound" in text and "left out: native: two_proc: not for 4 ranks" in text
    auto = next(line for line in text.splitlines() if line.split()[:2] == [str(8 << 20), "auto"])
    assert auto.split()[-2:] == ["0.75", "2.98"]  # 3 s, where 1.5 · 8 MiB take 1.007 s
    assert "8 MiB 0.80 (native: ring)" in text
    assert "/ bound" not in table(results())


def test_the_page_reads_what_was_written(tmp_path):
    write_json(results(), str(tmp_path / "allreduce-openmpi-4.json"))
    write_json(results(line_rate=12.5e6), str(tmp_path / "cluster.json"))
    (tmp_path / "other.json").write_text(json.dumps({"collective": "allreduce", "points": []}))
    assert not is_results(tmp_path / "other.json")
    assert read_json(tmp_path / "cluster.json") == results(line_rate=12.5e6)
    page = markdown(tmp_path)
    assert (
        "| allreduce | Open MPI 5.0.11 | 4 | 0.75 (0.75 at 64 KiB) | 0.50 (0.50 at 64 KiB) | -1.00 µs | "
        "0.80 (0.80 at 64 KiB) | "
        "[table](allreduce-openmpi-4.txt), [picture](allreduce-openmpi-4.png) |" in page
    )
    assert (
        "| allreduce | Open MPI 5.0.11 | 4 | 4 | 100 | 8 MiB | 3.97 | 2.98 | 1.99 ring | 2.48 native: ring | 1.20 | "
        "[table](cluster.txt), [picture](cluster.png) |" in page
    )


def test_means_and_names():
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert mpi_name("MPICH Version:      5.0.2") == "MPICH 5.0.2"
    assert mpi_name("Open MPI v5.0.11, package: Open MPI user") == "Open MPI 5.0.11"
