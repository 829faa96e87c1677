"""Sizes on the command line, bus bandwidth, and the report of times that are known."""

import argparse
import json

import pytest

from hpcml.bench.measure import Results, bus_factor
from hpcml.bench.report import plot, ratio, table, write_json
from hpcml.commands.numbers import byte_sizes


def test_sizes():
    assert byte_sizes("8,1K,4M") == [8, 1024, 4 << 20]
    assert byte_sizes("8:1K") == [8, 16, 64, 256, 1024]
    assert byte_sizes("64:64") == [64]
    for wrong in ("", "1Q", "0", "4,", "-1K"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number of bytes"):
            byte_sizes(wrong)


def test_bus_factors_follow_from_counting_transfers():
    assert bus_factor("allreduce", 4) == 1.5  # 2·(p−1)/p
    assert bus_factor("broadcast", 4) == 1.0
    assert bus_factor("allgather", 4) == 0.75
    assert bus_factor("allreduce", 1) == 0.0


@pytest.fixture
def results():
    made = Results("allreduce", "float32", "sum", 0, 2, 1, "Some MPI 1.0, built somewhere")
    for nbytes in (1024, 4096):
        made.seconds[nbytes, "native"] = [4e-6, 2e-6, 4e-6]
        made.seconds[nbytes, "auto"] = [4e-6, 4e-6, 4e-6]
        made.seconds[nbytes, "ring"] = [2e-6, 1e-6, 3e-6]
        made.seconds[nbytes, "nothing"] = [1e-8, 1e-8, 1e-8]
    return made


def test_the_ratio_is_the_median_of_pairs(results):
    assert ratio(results, 1024, "ring") == 0.5
    assert ratio(results, 1024, "native") == 1.0


def test_table(results):
    lines = table(results).splitlines()
    assert "2 ranks on 1 node, Some MPI 1.0" in lines[0]
    ring = next(line for line in lines if line.split()[1:2] == ["ring"]).split()
    assert ring == ["1024", "ring", "2.00", "1.50", "2.50", "0.51", "0.50"]  # 1024 B · 1 / 2 µs = 0.512 GB/s
    assert "1 KiB ring 0.50, 4 KiB ring 0.50" in table(results)


def test_json_and_picture(results, tmp_path):
    pytest.importorskip("matplotlib")
    write_json(results, str(tmp_path / "t.json"))
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["versions"]["mpi"].startswith("Some MPI") and len(record["seconds"]) == 8
    plot(results, str(tmp_path / "t.png"))
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
