"""What ends a save in the midst of it, a kill or a full disk, leaves a checkpoint to go on from."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killed_saves import LONGEST_SECONDS, RANKS, kill_once
from mpi4py import MPI

from hpcml import checkpoints
from hpcml import collectives as hc

MPIEXEC = Path(sys.executable).parent / "mpiexec"


@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    moments = random.Random(5)
    reached = 0
    for kill in range(10):
        outcome = kill_once(tmp_path, RANKS[kill % len(RANKS)], moments.uniform(0, LONGEST_SECONDS))
        assert outcome.found >= max(outcome.waited_for, reached)
        reached = outcome.found
    assert reached >= 10


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted only by root, and not in every container")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_leaves_the_older_checkpoints(small_disk):
    state = {"w": np.arange(3 << 18, dtype=float)}  # 6 MiB
    with checkpoints.Store(small_disk / "store", comm=MPI.COMM_SELF) as store:
        store.save(1, {"w": state["w"][:1000]})
        store.save(2, {"w": state["w"][:100_000]})
        store.wait()
        store.save(3, state)
        store.save(4, {"w": state["w"][:100]})
        store.wait()
        (small_disk / "other").write_bytes(bytes(1 << 20))  # what is left is less than 6 MiB
        store.save(5, state)
        with pytest.raises(hc.CollectiveError, match="rank-00000-of-00001.bin cannot be written: No space left on dev"):
            store.wait()
        found = store.latest()
        assert found.step == 4
        np.testing.assert_array_equal(found.read("w"), state["w"][:100])
        assert not (small_disk / "store" / "step-0000000005").exists(), "what was written of it is gone"
        store.save(5, {"w": state["w"][:200]})
        store.wait()
        assert store.latest().step == 5
