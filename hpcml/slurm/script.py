"""The batch script of a job, from options: what ``hpcml submit`` submits."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

#: Seconds before the time limit at which the ranks are told. Slurm looks twice a minute, and may tell a minute early.
WARNING_SECONDS = 120


class Wish(NamedTuple):
    """What a user wants of Slurm. None: as the site has it."""

    nodes: int = 1
    ranks_per_node: int = 1
    cpus: int = 1  # of a rank
    gpus: int = 0  # of a node
    minutes: int | None = None
    partition: str | None = None
    account: str | None = None
    name: str = "hpcml"
    array: str | None = None
    more: tuple[str, ...] = ()  # further options of sbatch
    modules: tuple[str, ...] = ()


def script(wish: Wish, python: str, launch: Sequence[str], warning: int = WARNING_SECONDS) -> str:
    """The text. launch: the arguments of ``hpcml launch``. Whatever a shell would take for its own is quoted."""
    asked = [
        f"--job-name={wish.name}",
        f"--nodes={wish.nodes}",
        f"--ntasks-per-node={wish.ranks_per_node}",
        f"--cpus-per-task={wish.cpus}",
        *([f"--gpus-per-node={wish.gpus}"] if wish.gpus else []),
        *([f"--time={duration(wish.minutes)}"] if wish.minutes else []),
        *([f"--partition={wish.partition}"] if wish.partition else []),
        *([f"--account={wish.account}"] if wish.account else []),
        *([f"--array={wish.array}"] if wish.array else []),
        f"--output=%x-{'%A_%a' if wish.array else '%j'}.out",
    ]
    kept = [f"--signal=B:USR1@{warning}", "--requeue", "--open-mode=append"]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {_word(option)}" for option in [*asked, *wish.more]),
        "# Told before its time limit, the job keeps where it is and goes on in another life; also after a node fails.",
        *(f"#SBATCH {option}" for option in kept),
        "",
        *(f"module load {shlex.quote(module)}" for module in wish.modules),
        "trap '' USR1  # for the moment until Python listens; exec, for it is this process that Slurm tells",
        f"exec {shlex.join([python, '-m', 'hpcml', 'launch', *launch])}",
    ]
    return "\n".join(lines) + "\n"


def _word(option: str) -> str:
    """sbatch takes quotes as a shell does, and nothing else of one; a line break would begin a line of its own."""
    if "\n" in option:
        raise ValueError(f"{option!r} has a line break; expected one line")
    return option if shlex.quote(option.replace("%", "")) == option.replace("%", "") else shlex.quote(option)


def duration(minutes: int) -> str:
    """``1-02:30:00``."""
    days, rest = divmod(minutes, 24 * 60)
    text = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{text}" if days else text


def minutes_of(text: str) -> int | None:
    """What Slurm, or a user, means by ``30``, ``2:30:00``, ``1-12`` or ``1-12:00:00``: whole minutes, a part counts as
    one. None for UNLIMITED. Raises ValueError."""
    if text.strip().upper() in ("UNLIMITED", "INFINITE", "INFINITY", "N/A"):
        return None
    days, dash, rest = text.strip().rpartition("-")
    fields = [int(field) for field in rest.split(":")]
    if any(field < 0 for field in fields) or len(fields) > 3 or (dash and not days.isdigit()):
        raise ValueError(text)
    if dash:
        hours, minutes, seconds = (*fields, 0, 0)[:3]
    elif len(fields) == 3:
        hours, minutes, seconds = fields
    else:
        hours, (minutes, seconds) = 0, (*fields, 0)[:2]
    return int(days or 0) * 24 * 60 + hours * 60 + minutes + (seconds > 0)
