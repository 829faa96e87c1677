"""What the system says when it wants a run to end: a signal that is noted, and answered at the end of a step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from mpi4py import MPI

#: Slurm's --signal=USR1@…, and what precedes every kill: time limit, preemption, scancel, requeue.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

#: The exit status of a run that kept where it is and can go on from there: EX_TEMPFAIL of sysexits.h, "try again".
STATUS = 75


class Interrupted(Exception):
    """A run has ended before its end, on every rank at the same step, because it was asked to.

    step: of the checkpoint that was written; folder: where that is.
    """

    def __init__(self, step: int, folder: str) -> None:
        super().__init__(f"asked to end; step {step} is kept in {folder}")
        self.step, self.folder = step, folder


class Interruption:
    """While the block runs, a signal does not end the process: it is noted, and ``asked()`` says so. After SIGUSR1 more
    of it are ignored, also when the block has ended.

    keeps: whether the run asks. Otherwise nothing can be kept: SIGUSR1 alone is taken, and the run goes on for as long
    as it is let.
    """

    def __init__(self, keeps: bool = True) -> None:
        self.keeps = keeps
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        return self.signal is not None

    def said(self, comm: MPI.Intracomm) -> str:
        """``SIGUSR1 on rank 2 and 3 more``. Collective; the same on every rank."""
        names = comm.allgather(None if self.signal is None else self.signal.name)
        ranks = [rank for rank, name in enumerate(names) if name is not None]
        if not ranks:
            return "no signal"
        more = f" and {len(ranks) - 1} more" if len(ranks) > 1 else ""
        return f"{names[ranks[0]]} on rank {ranks[0]}{more}"

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)

    def __enter__(self) -> Interruption:
        for number in SIGNALS if self.keeps else SIGNALS[:1]:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            # Who has asked once may ask again, and must not end what comes after the block, say a save.
            repeated = number == signal.SIGUSR1 and self.asked()
            signal.signal(number, signal.SIG_IGN if repeated else handler)
