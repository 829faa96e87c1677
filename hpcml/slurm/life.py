"""One life of a job: the ranks run, are told when the job is to end, and the job is requeued where it can go on.

The batch script, which is this program, gets SIGUSR1 some time before the limit (``sbatch --signal=B:USR1@120``), and
passes it on to the launcher, srun or mpiexec, which passes it on to the ranks. They keep where they are and leave with
status 75; then the job is put back into the queue, under its own number. SIGTERM means that Slurm itself ends the job,
and, unless that is for its time limit, knows whether it comes back.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcml.slurm import queue
from hpcml.slurm.commands import SlurmError, asked
from hpcml.slurm.launcher import Job

KEPT = 75  # hpcml.runs.interruption.STATUS, without its MPI

#: Seconds after which ranks that are still there are told again: they may have been starting.
AGAIN_SECONDS = 10.0

#: What MPI libraries leave with by themselves when a rank is lost: MPICH 9 and 15, Open MPI 14.
LOST = (9, 14, 15)

#: A life that is ended by a fault as early as this is given so many restarts: it may be a fault of the program.
EARLY_SECONDS, EARLY_RESTARTS = 60.0, 3


class Life:
    """While the block runs, signals are noted and passed on to the program that `run` has started."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}
        self._began = time.monotonic()
        self.told = False  # to end
        self.ended = False  # by Slurm

    def __enter__(self) -> Life:
        self._before = {number: signal.signal(number, self._tell) for number in (signal.SIGUSR1, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def seconds(self) -> float:
        """How old it is."""
        return time.monotonic() - self._began

    def run(self, command: Sequence[str], environment: Mapping[str, str], said: Path | None) -> int:
        """The status: 75 where the program kept where it is, or was too young to have anything, and may go on.

        said: a file on which an hpcml command notes the status that it ends with; None for other programs.
        What it notes counts more than what the launcher returns: that is 143 where srun ends ranks that are just
        leaving, and 0 where the daemons of an mpiexec were killed.
        """
        self._child = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL)
        if self.told:
            self._child.send_signal(signal.SIGUSR1)
        return self._verdict(self._waited(self._child), said)

    def _tell(self, number: int, _: object) -> None:
        if number == signal.SIGTERM:
            self.ended = True
        else:
            self.told = True
            if self._child is not None and self._child.returncode is None:
                self._child.send_signal(signal.SIGUSR1)

    def _waited(self, child: subprocess.Popen[bytes]) -> int:
        while True:
            try:
                return child.wait(AGAIN_SECONDS)
            except subprocess.TimeoutExpired:
                if self.told:
                    child.send_signal(signal.SIGUSR1)

    def _verdict(self, status: int, said: Path | None) -> int:
        status = 128 - status if status < 0 else status
        noted = None
        if said is not None and said.exists():
            noted = int(said.read_text() or 1)
            said.unlink()
        # 128 and more, once told: too young to listen, or ended by srun while the first had already left.
        if noted:
            return noted
        if self.told and status > 128:
            return KEPT
        if said is not None and status == 0 and noted is None:
            say("the launcher returned 0, but the program did not reach its end: its daemons were killed")
            return 128 + signal.SIGKILL
        return status


def is_worth_another(status: int, life: Life, job: Job, restarts: int) -> bool:
    """Whether the job should be put back into the queue: what is kept can go on; a rank that was killed can be
    started again. What the user has to mend (2), and an error of the program (1), would only come again."""
    if not (status == KEPT or status > 128 or status in LOST) or (life.ended and not is_at_limit(job)):
        return False
    if status != KEPT and life.seconds < EARLY_SECONDS and job.restarts >= EARLY_RESTARTS:
        say(f"the job's lives end early, this one after {life.seconds:.0f} s with status {status}: it is not requeued")
        return False
    if job.restarts >= restarts:
        say(f"the job had {job.restarts} restarts, as many as --restarts allows: it is not requeued")
        return False
    return True


def is_at_limit(job: Job) -> bool:
    """Whether it is for its time limit that Slurm ends the job: then it does not come back by itself."""
    try:
        return any(entry.reason == "TimeLimit" for entry in queue.job(job.key))
    except SlurmError:
        return False


def requeue(job: Job, life: Life) -> None:
    """Put the job back, and wait for the end that comes with it. Returns where Slurm does not want to."""
    say(f"job {job.key} is requeued, for the {ordinal(job.restarts + 1)} time")
    try:
        asked("scontrol", "requeue", job.key)
    except SlurmError as error:
        if not life.ended:  # else the end has come before scontrol was back
            say(f"{error}; submit it again to go on")
        return
    time.sleep(120)


def say(text: str) -> None:
    print(f"hpcml launch: {text}", file=sys.stderr, flush=True)


def ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
