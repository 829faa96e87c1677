"""The rules of alerts: what is wrong with a run, by its records. Each looks at every step and epoch, on rank 0.

``look(record, ended)`` returns what is wrong now, texts by key; None where there is nothing new to say. ended: it is
the record of an epoch. Keys keep what stays wrong from being said again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Protocol

from hpcml.runs.stragglers import named, stragglers

Wrong = dict[str, str] | None


class Rule(Protocol):
    kind: str

    def look(self, record: dict, ended: bool) -> Wrong: ...


class NotFinite:
    """The loss is NaN or infinite."""

    kind = "loss"

    def look(self, record: dict, ended: bool) -> Wrong:
        loss = record.get("loss", 0.0)
        if isfinite(loss):
            return {}
        return {"loss": f"the loss is {loss} in epoch {record['epoch']}: lower the learning rate, or look at the data"}


class Diverging:
    """The smoothed loss of steps is three times its best, and no better than half of what it was at the start."""

    kind = "diverging"
    STEPS = 20  # that the smoothing remembers, and before which nothing is said

    def __init__(self) -> None:
        self._smooth = self._first = self._best = 0.0
        self._seen = 0

    def look(self, record: dict, ended: bool) -> Wrong:
        loss = record.get("loss")
        if ended or loss is None or not isfinite(loss):
            return None
        self._seen += 1
        self._smooth += (loss - self._smooth) / min(self._seen, self.STEPS)
        if self._seen < self.STEPS:
            return None
        if self._seen == self.STEPS:
            self._first = self._best = self._smooth
        self._best = min(self._best, self._smooth)
        if self._smooth > 3 * self._best and self._smooth > self._first / 2:
            return {"loss": f"the loss diverges: {self._smooth:.4g}, after {self._best:.4g} at best"}
        return {}


class Slowing:
    """Samples per second fall below half of what they were."""

    kind = "throughput"
    SECONDS = 10.0  # that a rate is taken over
    RATES = 3  # that there have to be before one is compared with them

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._rates: deque[float] = deque(maxlen=60)
        self._samples, self._since = 0, clock()

    def look(self, record: dict, ended: bool) -> Wrong:
        if ended:  # validation and checkpoints between epochs are not counted
            self._samples, self._since = 0, self._clock()
            return None
        self._samples += record["samples"]
        seconds = self._clock() - self._since
        if seconds < self.SECONDS:
            return None
        rate, usual = self._samples / seconds, median(self._rates) if self._rates else 0.0
        self._samples, self._since = 0, self._clock()
        if len(self._rates) >= self.RATES and rate < usual / 2:
            return {"rate": f"{rate:,.0f} samples/s, after {usual:,.0f} before"}
        self._rates.append(rate)
        return {}


class Lagging:
    """A rank computes longer than the others, which wait for it."""

    kind = "straggler"
    SECONDS = 2.0  # from one look to the next, at least; a rank is told of that is late at two in a row

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._next = clock, clock() + self.SECONDS
        self._late: set[int] = set()

    def look(self, record: dict, ended: bool) -> Wrong:
        loads = record.get("loads")
        if not loads or self._clock() < self._next:
            return None
        self._next = self._clock() + self.SECONDS
        late = stragglers([seconds for _, seconds in loads])
        still = [rank for rank in late if rank in self._late]
        self._late = set(late)
        return {str(rank): named(loads, [rank]) for rank in still[:4]}


class DiskFilling:
    """The file system of the run directory has less than 5 % and less than 20 GB left, or less than 100 MB."""

    kind = "disk"
    SECONDS = 30.0  # from one look to the next

    def __init__(self, folder: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self._folder, self._clock = folder, clock
        self._next = clock()

    def look(self, record: dict, ended: bool) -> Wrong:
        if self._clock() < self._next:
            return None
        self._next = self._clock() + self.SECONDS
        try:
            found = shutil.disk_usage(self._folder)
        except OSError:
            return None
        if found.free < 1e8 or (found.free < 0.05 * found.total and found.free < 20e9):
            return {"disk": f"{self._folder} has {found.free / 1e6:,.0f} MB free of {found.total / 1e6:,.0f}"}
        return {}


class TimeRunningOut:
    """The job's time limit is five minutes off."""

    kind = "time-limit"
    NEAR = 300.0  # seconds

    def __init__(self, end: float | None, clock: Callable[[], float] = time.time) -> None:
        self._end, self._clock = end, clock

    def look(self, record: dict, ended: bool) -> Wrong:
        if self._end is None or (left := self._end - self._clock()) > self.NEAR:
            return None
        return {"time": f"the job's time limit is {max(left, 0):,.0f} s away, in epoch {record['epoch']}"}


def end_of_job() -> float | None:
    """When this Slurm job is ended, in seconds since 1970; None outside of one. Slurm is asked once, if at all."""
    if (told := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(told)
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    try:
        ran = subprocess.run(["squeue", "-h", "-j", job, "-o", "%e"], capture_output=True, text=True, timeout=20)
        return time.mktime(time.strptime(ran.stdout.split("\n")[0].strip(), "%Y-%m-%dT%H:%M:%S"))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
