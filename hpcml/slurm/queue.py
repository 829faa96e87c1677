"""The state of jobs, by scontrol and squeue."""

from __future__ import annotations

import re
from typing import NamedTuple

from hpcml.slurm.commands import SlurmError, asked

OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)


class Entry(NamedTuple):
    """One job, or one task of an array. status: what it left with; output: the file of its log."""

    number: str
    name: str
    state: str
    reason: str
    status: int
    restarts: int
    nodes: str
    output: str

    @property
    def is_over(self) -> bool:
        return self.state in OVER


def entries(text: str) -> list[Entry]:
    """From ``scontrol show job --oneliner``."""
    found = []
    for line in text.splitlines():
        # A value ends where the next name begins: paths and names may hold spaces.
        said = dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Z][\w/:]*=|\s*$)", line))
        if "JobId" not in said:
            continue
        code, _, sent = said.get("ExitCode", "0:0").partition(":")
        found.append(
            Entry(
                said["JobId"],
                said.get("JobName", ""),
                said.get("JobState", "UNKNOWN").split(" ")[0],
                said.get("Reason", ""),
                int(code) or (128 + int(sent) if sent not in ("", "0") else 0),
                int(said.get("Restarts", 0)),
                said.get("NodeList", "").replace("(null)", ""),
                said.get("StdOut", ""),
            )
        )
    return found


def job(number: str) -> list[Entry]:
    """The job, or the tasks of the array, of that number; empty where Slurm knows it no more. Raises SlurmError."""
    try:
        return entries(asked("scontrol", "show", "job", "--oneliner", number))
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return []
        raise


def mine() -> list[Entry]:
    """This user's jobs that Slurm knows: those that wait or run, and those that ended a short while ago."""
    found = asked("squeue", "--me", "--states=all", "--noheader", "--format=%A").split()
    return [entry for number in dict.fromkeys(found) for entry in job(number) if entry.number == number]
