"""Follows a job: what it writes, as it comes, and its states, until it is over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hpcml.slurm import queue
from hpcml.slurm.queue import Entry

PAUSE_SECONDS = 1.0


class Tail:
    """What is appended to a file, which may not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0

    def copy(self, out: BinaryIO) -> None:
        """What has come since the last time, to ``out``."""
        if not self.path.is_file():
            return
        with open(self.path, "rb") as file:
            if file.seek(0, 2) < self._at:
                self._at = 0  # another life has emptied it
            file.seek(self._at)
            while block := file.read(1 << 16):
                out.write(block)
                self._at += len(block)
        out.flush()


def follow(number: str, look: Callable[[str], list[Entry]] = queue.job, pause: float = PAUSE_SECONDS) -> int:
    """Print the log of the job to stdout and its states to stderr until it is over; the status of the job.

    Of an array, the logs of all tasks, and the greatest status. Ctrl-C ends the following, not the job.
    """
    tails: dict[str, Tail] = {}
    states: dict[str, tuple[str, int]] = {}
    last: list[Entry] = []
    sure = 0  # a job that is requeued may look over for a moment
    while sure < 2:
        found = look(number)
        if not found and not last:
            raise queue.SlurmError(f"Slurm knows no job {number}")
        last = found or last  # Slurm forgets a job some minutes after its end
        sure = sure + 1 if all(entry.is_over for entry in last) or not found else 0
        for entry in last:
            if entry.output and not entry.output.endswith("4294967294.out"):  # tasks that wait for their turn
                tails.setdefault(entry.output, Tail(Path(entry.output))).copy(sys.stdout.buffer)
            if states.get(entry.number) != (entry.state, entry.restarts):
                states[entry.number] = entry.state, entry.restarts
                print(described(entry), file=sys.stderr, flush=True)
        if sure < 2:
            time.sleep(pause)
    return max(0 if entry.state == "COMPLETED" else entry.status or 1 for entry in last)


def described(entry: Entry) -> str:
    """``job 12: RUNNING on node[1-2], 1 restart``."""
    text = f"hpcml submit: job {entry.number}: {entry.state}"
    if entry.nodes:
        text += f" on {entry.nodes}"
    elif entry.state == "PENDING" and entry.reason != "None":
        text += f" ({entry.reason})"
    if entry.restarts:
        text += f", {entry.restarts} restart{'s' * (entry.restarts > 1)}"
    if entry.is_over and entry.state != "COMPLETED":
        text += f", status {entry.status}"
    return text
