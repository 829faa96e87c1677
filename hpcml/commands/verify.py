"""``hpcml verify``: prove every schedule, without MPI."""

from __future__ import annotations

import argparse
from time import perf_counter

from hpcml.commands.numbers import positive_count

HELP = "prove that every collective algorithm is right, for any number of ranks (needs no MPI)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ranks", type=positive_count, default=64, metavar="P", help="prove for 1 to P ranks (default: 64)"
    )


def run(args: argparse.Namespace) -> int:
    import mpi4py

    mpi4py.rc.initialize = False  # nothing is sent; login nodes may not allow MPI_Init
    from hpcml.collectives.algorithms import CATALOGUE
    from hpcml.collectives.verify import ScheduleError, verify_catalogue

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
