"""``hpcml verify``: prove every schedule, without MPI."""

from __future__ import annotations

import argparse
from time import perf_counter

HELP = "prove that every collective algorithm is right, for any number of ranks (needs no MPI)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, default=64, metavar="P", help="prove for 1 to P ranks (default: 64)")


def run(args: argparse.Namespace) -> int:
    from hpcml.collectives.algorithms import CATALOGUE
    from hpcml.collectives.verify import ScheduleError, verify_catalogue

    if args.ranks < 1:
        raise ValueError(f"--ranks must be at least 1, not {args.ranks}")
    begin = perf_counter()
    proved = 0
    for algorithm in CATALOGUE:
        try:
            count = verify_catalogue(args.ranks, [algorithm])
        except ScheduleError as error:
            print(f"WRONG   {error}")
            return 1
        print(f"proved  {algorithm.collective:<11}{algorithm.name:<20}{count:>5} schedules, p = 1 … {args.ranks}")
        proved += count
    print(f"{proved} schedules proved in {perf_counter() - begin:.1f} s: who holds what, partners, rounds and bytes")
    return 0
