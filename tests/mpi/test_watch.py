"""Training that is watched: loads of all ranks, a straggler that is named, figures that are served meanwhile."""

import json
import os
import time
import urllib.request
from pathlib import Path

import pytest
from mpi4py import MPI

from hpcml.cli import main
from hpcml.models import loads as loads_module
from hpcml.models.loads import FIRST, Loads
from hpcml.models.network import Passes
from hpcml.runs import rules
from hpcml.runs.record import read_record

comm = MPI.COMM_WORLD
pytest.importorskip("sklearn")


def test_every_rank_has_the_loads_of_all_at_the_same_steps(comm, monkeypatch):
    monkeypatch.setattr(loads_module, "SECONDS", 3.0)
    loads = Loads(comm)
    looks = []
    for number in range(1, FIRST + 8):
        # of which the slowest rank's second a step makes it three steps to the next look
        found = loads.step(0.25 * (comm.rank + 1), 1.0 if comm.rank == comm.size - 1 else 0.5)
        if found is not None:
            looks.append((number, found))
    expected = [(number, [0.25 * (rank + 1) for rank in range(comm.size)]) for number in (FIRST, FIRST + 3, FIRST + 6)]
    assert [(number, [seconds for _, seconds in found]) for number, found in looks] == (
        expected if comm.size > 1 else []
    )
    of_epoch = loads.epoch()
    assert [host for host, _ in of_epoch] == comm.allgather(MPI.Get_processor_name())
    assert [seconds for _, seconds in of_epoch] == pytest.approx([0.25 * (rank + 1) for rank in range(comm.size)])


def test_a_slow_rank_is_named_while_figures_are_served(comm, folder, monkeypatch, capsys):
    slow, forward, heard = comm.size - 1, Passes.forward, []
    monkeypatch.setattr(rules.Lagging, "SECONDS", 0.2)

    def delayed(self, X):
        if comm.rank == slow:
            time.sleep(0.02)
        elif comm.rank == 0 and not heard and (status := json.loads((folder / "run" / "status.json").read_text())):
            heard.append(urllib.request.urlopen(status["metrics"], timeout=60).read().decode())
        return forward(self, X)

    monkeypatch.setattr(Passes, "forward", delayed)
    kept = folder / "alerts"
    arguments = ["--data", "digits", "--epochs", "4", "--batch-size", "64", "--output", str(folder / "run")]
    watching = ["--metrics", ":0", "--alert-command", f"tee -a {kept}"]
    assert main(["train", *arguments, *watching]) == 0
    printed = comm.bcast(capsys.readouterr().err)
    record = comm.bcast(read_record(folder / "run") if comm.rank == 0 else None)
    assert record.state == "finished" and record.config["arguments"]["metrics"] == ":0"
    assert all(len(metric["loads"]) == comm.size for metric in record.metrics)
    assert len(record.summary["model_sha256"]) == 64
    if comm.size == 1:
        return
    host = comm.allgather(MPI.Get_processor_name())[slow]
    assert f"hpcml: alert: rank {slow} on {host} computes" in printed
    assert slow in record.metrics[-1]["stragglers"]
    told = [event for event in record.alerts if event["alert"] == "straggler"]
    assert any(f"rank {slow} on {host}" in event["text"] for event in told)
    if comm.rank == 0:
        assert kept.read_text().count("{") >= len(told)
        assert 'hpcml_running{run="' in heard[0]


def test_a_run_whose_loss_is_no_number_says_so_and_stops(comm, folder, capsys):
    where = str(folder / "run")
    arguments = [
        "--data",
        "digits",
        "--epochs",
        "2",
        "--optimizer",
        "sgd",
        "--learning-rate",
        "1e30",
        "--output",
        where,
    ]
    assert main(["train", *arguments]) == 2
    printed = comm.bcast(capsys.readouterr().err)
    assert "hpcml: alert: the loss is" in printed
    comm.barrier()
    assert not Path(where).exists()  # nothing came of it


def test_wrong_arguments_of_the_watch_are_told(comm, capsys, folder):
    for wrong, said in (
        (["--metrics", "nowhere"], "expected PORT, HOST:PORT or FILE.prom"),
        (["--alert-webhook", "file:///etc/passwd"], "begins with http:// or https://"),
        (["--alert-command", "'"], "No closing quotation"),
    ):
        from hpcml.cli import Ending, parse

        with pytest.raises(Ending, match=said):
            parse(["train", "--data", "digits", *wrong])
    assert not os.listdir(folder)
