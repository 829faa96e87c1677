"""Where the time of steps goes: accounts, and timelines."""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import optim
from hpcml.optim.account import ALONE, Account, Book
from hpcml.runs.timeline import Timeline

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size


def test_a_book_knows_what_communication_takes_alone_from_steps_that_hide_nothing():
    book = Book(overlap=True, bound=0.5)
    hides, seconds = [], 0.0
    for waiting in (9.0, 2.0, 4.0, 3.0, 1.0, 6.0):
        hides.append(book.hides)
        seconds += waiting
        book.close(seconds)
        last = book.last
        if len(hides) <= ALONE.stop - 1:
            assert last == Account(waiting, None, 0.5) and last.hidden is None
    assert hides == [True, False, False, False, True, True]
    assert last == Account(6.0, 3.0, 0.5) and last.hidden == 0.0
    assert Account(1.0, 4.0, 0.5).hidden == 0.75


def test_a_book_of_steps_that_do_not_overlap_hides_nothing():
    book = Book(overlap=False, bound=0.0)
    book.close(2.0)
    book.close(5.0)
    assert book.last == Account(3.0, 3.0, 0.0) and book.last.hidden == 0.0 and not book.hides


@pytest.mark.parametrize("overlap", [False, True])
def test_time_spent_waiting_for_a_slow_rank_is_in_the_account(overlap):
    together = optim.Distributed(optim.SGD([np.zeros(2000)], lr=1.0), overlap=overlap)
    for _ in range(5):
        COMM.Barrier()
        if RANK == SIZE - 1:
            time.sleep(0.05)
        together.step([np.ones(2000)])
    if RANK < SIZE - 1:
        assert together.account.waiting > 0.02
    if SIZE > 1:
        assert together.account.bound > 0


def test_each_bucket_is_noted_from_its_start_to_its_end():
    together = optim.Distributed(optim.SGD([np.zeros(2000), np.zeros(2000)], lr=1.0), bucket=16_000, overlap=True)
    noted = []
    together.trace(lambda *event: noted.append(event))
    before = time.perf_counter()
    together.step([np.ones(2000), np.ones(2000)])
    assert [event[:2] for event in noted] == [("communication", "bucket 0"), ("communication", "bucket 1")] or SIZE == 1
    assert all(before < start < stop < time.perf_counter() for *_, start, stop in noted)


def test_a_timeline_has_the_events_of_all_ranks():
    timeline = Timeline(COMM)
    now = time.perf_counter()
    timeline.note("step", "gradients", now, now + RANK + 1.0)
    timeline.note("communication", "bucket 0", now, now + 0.5)
    made = tempfile.TemporaryDirectory() if RANK == 0 else None
    path = Path(COMM.bcast(made.name if made else None)) / "t.json"
    timeline.write(path)
    COMM.Barrier()
    events = json.loads(path.read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert [event["pid"] for event in slices] == list(range(SIZE))
    assert [event["dur"] for event in slices] == pytest.approx([1e6 * (rank + 1) for rank in range(SIZE)])
    ends = {phase: [e for e in events if e["ph"] == phase] for phase in "be"}
    assert len(ends["b"]) == len(ends["e"]) == SIZE
    assert ends["e"][0]["ts"] - ends["b"][0]["ts"] == pytest.approx(5e5)
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert names[1:3] == ["step", "communication"] and names[0].startswith("rank 0 on ")
    COMM.Barrier()
    with pytest.raises(hc.CollectiveError, match="No such file"):
        timeline.write(path.parent / "nowhere" / "t.json")
    if made:
        made.cleanup()
