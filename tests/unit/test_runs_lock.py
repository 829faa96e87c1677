"""One program at a time in a run directory; a killed one leaves no lock; a job may pass over its earlier life."""

import os
import subprocess
import sys

import pytest

from hpcml.runs.earlier import earlier_run, is_unused
from hpcml.runs.lock import NAME, InUseError, run_lock

HOLDER = """
import sys
from pathlib import Path
from hpcml.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, of Slurm job 7, that holds the lock."""
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env={**os.environ, "SLURM_JOB_ID": "7"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout.readline() == "held\n"
    yield program
    program.kill()
    program.communicate()


def test_the_holder_is_named(tmp_path, holder, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    with pytest.raises(InUseError, match=f"in use by process {holder.pid} on .*, Slurm job 7"), run_lock(tmp_path):
        pass
    holder.communicate("go\n")
    assert not (tmp_path / NAME).exists()
    with run_lock(tmp_path):
        assert (tmp_path / NAME).exists()
    assert not (tmp_path / NAME).exists()


def test_what_a_killed_holder_leaves_is_no_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / NAME).exists()
    with run_lock(tmp_path):
        pass


def test_a_job_passes_over_its_earlier_life_which_then_removes_nothing(tmp_path, holder, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with run_lock(tmp_path):
        holder.communicate("go\n")
        assert (tmp_path / NAME).read_text().split("\n")[0] == str(os.getpid())


def test_a_directory_with_a_lock_alone_is_unused(tmp_path):
    from argparse import Namespace

    assert is_unused(tmp_path / "absent")
    (tmp_path / NAME).touch()
    assert is_unused(tmp_path)
    assert earlier_run(Namespace(resume=None, go_on=True, output=str(tmp_path))) is None
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="is there already"):
        earlier_run(Namespace(resume=None, go_on=True, output=str(tmp_path)))
    with pytest.raises(ValueError, match="--continue needs --output"):
        earlier_run(Namespace(resume=None, go_on=True, output=None))
