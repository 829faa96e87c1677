"""Every rank runs the same tests in step; a failure on one rank is one on all; a hang ends with every rank's stack."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
from pathlib import Path

import pytest
from mpi4py import MPI

WORLD = MPI.COMM_WORLD
# Seconds a test may take before it counts as hung: generous, machines are slow and shared.
HANG_SECONDS = int(os.environ.get("HPCML_TEST_HANG", "300"))
GRACE_SECONDS = 10  # from the stacks to the end: all ranks have to have shown theirs


def pytest_configure(config):
    config.stacks = os.fdopen(os.dup(2), "w")  # the real stderr: pytest captures the other during a test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Arm the watchdog: first every rank's Python stack, then the end, by the default action of SIGALRM."""
    faulthandler.dump_traceback_later(HANG_SECONDS, file=item.config.stacks)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(HANG_SECONDS + GRACE_SECONDS)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """After each test the ranks agree on how it went, so that none goes on to the next alone."""
    report = yield
    if call.when == "call":
        if report.failed:  # said at once: the others may be waiting for this rank, and never get here
            print(f"\nrank {WORLD.rank}: {item.nodeid}\n{report.longreprtext}", file=item.config.stacks, flush=True)
        failed = WORLD.allgather(report.failed)
        if any(failed) and not report.failed:
            report.outcome = "failed"
            report.longrepr = f"failed on rank(s) {[r for r, f in enumerate(failed) if f]}, not on rank {WORLD.rank}"
    return report


@pytest.fixture
def comm():
    return WORLD


@pytest.fixture
def fresh(comm):
    """A communicator on which nothing is kept from other tests."""
    duplicate = comm.Dup()
    yield duplicate
    duplicate.Free()


@pytest.fixture
def folder():
    """One folder for all ranks, removed when all are done."""
    made = tempfile.TemporaryDirectory() if WORLD.rank == 0 else None
    yield Path(WORLD.bcast(made.name if made else None))
    WORLD.barrier()
    if made:
        made.cleanup()
