"""``hpcml submit``: a batch script from options, checked against the cluster, submitted, followed."""

from __future__ import annotations

import argparse
import subprocess
import sys

from hpcml.commands.numbers import count, positive_count

HELP = "submit a command as a Slurm job: on nodes and GPUs, outliving its time limit"


def minutes(text: str) -> int:
    from hpcml.slurm.script import minutes_of

    try:
        found = minutes_of(text)
    except ValueError:
        found = None
    if not found:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected minutes, H:M:S or D-H:M:S")
    return found


def one_line(text: str) -> str:
    if "\n" in text or not text:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected one line of text")
    return text


# fmt: off
def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--nodes", type=positive_count, default=1, metavar="N", help="(default: %(default)s)")
    add("--ranks-per-node", type=positive_count, metavar="N", help="(default: one for each GPU, or 1)")
    add("--cpus", type=positive_count, default=1, metavar="N", help="of each rank (default: %(default)s)")
    add("--gpus", type=count, default=0, metavar="N", help="of each node (default: none)")
    add("--time", type=minutes, metavar="TIME",
        help="of one life: minutes, H:M:S or D-H:M:S; a training that is not done then goes on in the next")
    add("--partition", type=one_line)
    add("--account", type=one_line)
    add("--name", type=one_line, default="hpcml", help="(default: %(default)s)")
    add("--array", type=one_line, metavar="TASKS", help="as in 1-20 or 1-20%%4; {task} in the command is its number")
    add("--sweep", type=one_line, metavar="FILE", help="task K adds the K-th line of FILE to the command's arguments")
    add("--stage", action="store_true", help="copy the Python environment to the nodes' own disks first")
    add("--module", type=one_line, action="append", default=[], metavar="NAME", help="to load first; may be repeated")
    add("--sbatch", type=one_line, action="append", default=[], metavar="=OPTION",
        help="a further option of sbatch, as in --sbatch=--qos=high; may be repeated")
    add("--warning", type=positive_count, default=120, metavar="SECONDS",
        help="before the time limit, to keep where the training is (default: %(default)s)")
    add("--dry-run", action="store_true", help="print the script and what the cluster says to it, and do not submit")
    add("--follow", action="store_true", help="print the job's log until it is over, and leave with its status")
    add("program", nargs=argparse.REMAINDER, metavar="-- COMMAND ...",
        help="an hpcml command with its arguments, as in '-- train --data digits', or another program")
# fmt: on


def run(args: argparse.Namespace) -> int:
    """0, or with --follow the status of the job; 2 where the cluster cannot run it."""
    from hpcml.slurm import follow, script, site
    from hpcml.slurm.commands import SlurmError

    words = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not words:
        return _refused("nothing to run: name a command after --, as in 'hpcml submit -- train --data digits'")
    wish = script.Wish(
        args.nodes,
        args.ranks_per_node or max(1, args.gpus),
        args.cpus,
        args.gpus,
        args.time,
        args.partition,
        args.account,
        args.name,
        args.array,
        tuple(args.sbatch),
        tuple(args.module),
    )
    own = [*(["--sweep", args.sweep] if args.sweep else []), *(["--stage"] if args.stage else [])]
    text = script.script(wish, sys.executable, [*own, "--", *words], args.warning)
    if args.dry_run:
        print(text, end="", flush=True)
    try:
        said = site.problems(wish, *site.look())
        if said:
            return _refused("; ".join(said))
        if args.dry_run:
            print(sbatch(text, "--test-only"), file=sys.stderr)
            return 0
        number = sbatch(text, "--parsable").split(";")[0]
        print(f"job {number}", flush=True)
        return follow.follow(number) if args.follow else 0
    except SlurmError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        print(f"hpcml submit: job {number} goes on; 'scancel {number}' would end it", file=sys.stderr)
        return 130


def sbatch(text: str, *options: str) -> str:
    """What sbatch says to the script, which it gets on stdin. Raises SlurmError."""
    from hpcml.slurm.commands import SlurmError

    ran = subprocess.run(["sbatch", *options], input=text, capture_output=True, text=True)
    if ran.returncode:
        raise SlurmError(f"sbatch: {ran.stderr.strip().removeprefix('sbatch: ').removeprefix('error: ')}")
    return (ran.stdout or ran.stderr).strip()


def _refused(said: str) -> int:
    print(f"hpcml submit: error: {said}", file=sys.stderr, flush=True)
    return 2
