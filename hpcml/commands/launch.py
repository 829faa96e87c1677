"""``hpcml launch``: in a batch script, run a program on all tasks of the job, and requeue the job where it goes on."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hpcml.commands.numbers import count

if TYPE_CHECKING:
    from hpcml.slurm.life import Life

HELP = "in a Slurm job: start the ranks by the launcher that fits, pass signals on, requeue"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--launcher", default=os.environ.get("LAUNCHER", "auto"),
        help="(default: $LAUNCHER, or auto: srun if Slurm speaks this MPI's language, else mpiexec)")  # fmt: skip
    add("--mpi", metavar="TYPE", default=os.environ.get("MPI_TYPE"),
        help="what srun gets as --mpi (default: $MPI_TYPE, or by the MPI library)")  # fmt: skip
    add("--sweep", metavar="FILE", help="of a job array: task K adds the K-th line of FILE to the program's arguments")
    add("--restarts", type=count, default=os.environ.get("HPCML_RESTARTS", "100"), metavar="N",
        help="requeue at most so often (default: $HPCML_RESTARTS, or 100)")  # fmt: skip
    add("--stage", action="store_true", help="copy this Python environment to each node's own disk first, by sbcast")
    add("--dry-run", action="store_true", help="print the command, and do not run it")
    add("program", nargs=argparse.REMAINDER, metavar="PROGRAM ...",
        help="an hpcml command with its arguments, as in 'train --data digits', or another program; {task} and {job} "
        "stand for the numbers of array task and job")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """The status of the program; 75 where it kept where it is and the job could not be requeued."""
    from hpcml.slurm.life import Life

    with Life() as life:  # at once: from here on signals are noted
        return _run(args, life)


def _run(args: argparse.Namespace, one: Life) -> int:
    from hpcml.slurm import launcher, life, program, staging
    from hpcml.slurm.commands import SlurmError

    try:
        job = launcher.Job.of(os.environ)
        library = launcher.mpi_library()
        kind, mpi = launcher.chosen(args.launcher, args.mpi, library, os.environ)
        words = program.completed(args.program, job, args.sweep)
        python = sys.executable if not args.stage or args.dry_run else staging.staged(Path(sys.prefix), job)
        own = program.is_own(words)
        started = [python, "-m", "hpcml", *words] if own else words
        before = launcher.launch_words(kind, mpi, library, job)
        environment = launcher.launch_environment(kind, job)
        life.say(f"job {job.number}, {job.tasks} ranks on {job.nodes} nodes, {library}: {shlex.join(before + started)}")
        if args.dry_run:
            return 0
        status = 0 if own else program.require_one_world(before, python, environment, job.tasks)
    except (SlurmError, OSError) as error:
        print(f"hpcml launch: error: {error}", file=sys.stderr, flush=True)
        return 2
    if status:
        life.say(f"the ranks were killed before they began, with status {status}")
    said = Path(f".hpcml-status-{job.number}").absolute() if own else None
    if said is not None:
        said.unlink(missing_ok=True)
        environment["HPCML_STATUS_FILE"] = str(said)
    status = status or one.run([*before, *started], environment, said)
    if life.is_worth_another(status, one, job, args.restarts):
        life.requeue(job, one)
    return status
