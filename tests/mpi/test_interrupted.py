"""A training that is asked to end does so on all ranks after the same step, with a checkpoint, and goes on from it."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest
from mpi4py import MPI
from test_resume import VIRTUAL, assert_same_bits, model, rows_of

from hpcml.cli import main
from hpcml.models import Checkpoints
from hpcml.runs.interruption import STATUS, Interrupted, Interruption

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
pytestmark = pytest.mark.skipif(SIZE > VIRTUAL, reason="more ranks than virtual shards")


class SignalAfter:
    """A monitor that has one rank get a signal when so many steps are done."""

    def __init__(self, steps, rank, name):
        self.left, self.rank, self.signal = steps, rank, name

    def step(self, record):
        self.left -= 1
        if not self.left and self.rank == RANK:
            os.kill(os.getpid(), self.signal)

    def epoch(self, record):
        pass


@pytest.mark.parametrize("name", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("steps", [None, 4])
def test_a_signal_on_any_rank_ends_all_after_the_next_step_and_no_bit_is_lost(folder, name, steps):
    straight = model(COMM).fit(*rows_of(COMM))
    # In the midst of an epoch, at the end of the next, in the last: an epoch has 9 steps.
    for kept in (5, 18, 33, None):
        with Interruption() as interruption:
            there = Checkpoints(folder, steps, interruption=interruption)
            found = None if kept == 5 else 18 if kept == 33 else 5 if kept == 18 else 33
            monitor = SignalAfter(kept - 1 - (found or 0), SIZE - 1, name) if kept else None
            if kept is None:
                resumed = model(COMM).fit(*rows_of(COMM), checkpoints=there)
                break
            with pytest.raises(Interrupted) as ended:
                model(COMM).fit(*rows_of(COMM), monitor=monitor, checkpoints=there)
            assert ended.value.step == kept
            assert interruption.asked() == (RANK == SIZE - 1)
            assert interruption.said(COMM) == f"{name.name} on rank {SIZE - 1}"
    assert_same_bits(resumed.parameters_, straight.parameters_)
    assert [r["epoch"] for r in resumed.history_] == [1, 2, 3, 4]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_asked_in_the_last_step_it_ends_as_if_it_was_not(folder):
    with Interruption() as interruption:
        there = Checkpoints(folder, None, interruption=interruption)
        fitted = model(COMM).fit(*rows_of(COMM), monitor=SignalAfter(35, 0, signal.SIGUSR1), checkpoints=there)
    assert len(fitted.history_) == 4


def run(*arguments):
    """The command's exit status, the same on every rank."""
    statuses = COMM.allgather(main([str(argument) for argument in arguments]))
    assert len(set(statuses)) == 1
    return statuses[0]


def when_there(path, name):
    """Send this process a signal as soon as the file has something in it."""

    def wait():
        while not (path.exists() and path.stat().st_size):
            time.sleep(0.005)
        os.kill(os.getpid(), name)

    threading.Thread(target=wait, daemon=True).start()


def test_the_command_leaves_with_75_and_goes_on_with_the_same_command(folder, capsys):
    pytest.importorskip("sklearn")
    arguments = ["train", "--data", "digits", "--reproducible", VIRTUAL, "--hidden", 8, "--epochs", 40]
    arguments += ["--batch-size", 16, "--progress", "none"]
    assert run(*arguments, "--output", folder / "straight") == 0
    path = folder / "run"
    if RANK == SIZE // 2:
        when_there(path / "metrics.jsonl", signal.SIGTERM)
    again = [*arguments, "--continue", "--output", path]
    assert run(*again) == STATUS == 75
    printed = "".join(COMM.allgather(capsys.readouterr().err))
    assert printed.count(f"asked to end by SIGTERM on rank {SIZE // 2}: all ") == 1
    kept = COMM.bcast([name.name for name in (path / "checkpoints").iterdir()] if RANK == 0 else None)
    assert len(kept) == 1 and f"all {int(kept[0][5:])} steps so far are kept" in printed
    assert run(*arguments, "--output", path) == 2  # without --continue, what is there is not touched
    assert run(*again, "--seed", 3) == 2
    printed = "".join(COMM.allgather(capsys.readouterr().err))
    assert printed.count("was begun with --seed 0, now it is 3") == 1
    assert run(*again) == 0
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 40
    first, second = (np.load(folder / name / "model.npz") for name in ("straight", "run"))
    for name in [name for name in first.files if name.startswith("parameter")]:
        np.testing.assert_array_equal(second[name], first[name], strict=True)
    before = (path / "model.npz").read_bytes()
    COMM.barrier()
    assert run(*again) == 0  # complete: nothing is done again
    assert "is complete" in "".join(COMM.allgather(capsys.readouterr().out))
    assert (path / "model.npz").read_bytes() == before


def test_a_run_that_was_begun_and_no_more_is_begun_again(folder):
    pytest.importorskip("sklearn")
    path = folder / "run"
    if RANK == 0:
        path.mkdir()
    COMM.barrier()
    arguments = ["train", "--data", "iris", "--epochs", 2, "--progress", "none", "--continue", "--output", path]
    assert run(*arguments) == 0
    assert json.loads((path / "summary.json").read_text())["test_rows"] == 30
    COMM.barrier()
    if RANK == 0:
        (path / "summary.json").unlink()
    COMM.barrier()
    assert run(*arguments) == 0  # no checkpoint: from the beginning


def test_a_run_directory_in_use_is_refused_with_the_name_of_its_holder(folder, capsys):
    pytest.importorskip("sklearn")
    from hpcml.runs.lock import run_lock

    arguments = ["train", "--data", "iris", "--epochs", 1, "--progress", "none", "--continue", "--output", folder]
    if RANK == 0:
        with run_lock(folder):
            assert main([str(a) for a in arguments]) == 2
    else:
        assert main([str(a) for a in arguments]) == 2
    said = "".join(COMM.allgather(capsys.readouterr().err))
    assert f"is in use by process {COMM.bcast(os.getpid())} on " in said
    COMM.barrier()
    assert list(folder.iterdir()) == []  # the holder's directory, and nothing but what the holder left
    COMM.barrier()
    assert run(*arguments) == 0
