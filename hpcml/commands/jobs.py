"""``hpcml jobs``: this user's Slurm jobs and the run directories here, with how far each is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "list Slurm jobs and runs: state, step, loss, rate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", help="the folder of run directories (default: runs)")


def run(args: argparse.Namespace) -> int:
    from hpcml.runs.record import read_record
    from hpcml.slurm import queue
    from hpcml.slurm.commands import SlurmError
    from hpcml.slurm.standing import COLUMNS, rows

    try:
        jobs = queue.mine()
    except SlurmError as error:
        print(f"hpcml jobs: {error}", file=sys.stderr)
        jobs = []
    folder = Path(args.folder)
    runs = [read_record(config.parent) for config in sorted(folder.glob("*/config.json"))]
    table = [COLUMNS, *rows(jobs, runs)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0
