"""Measure how much of an all-reduce is hidden behind a computation, on every MPI there is an environment for.

    python3 benchmarks/overlap.py --ranks 2
    python3 benchmarks/overlap.py --ranks 4 --where 500mbit --launcher 'srun --mpi=pmix -n {ranks}' --idle 0.8

The launcher is put before the command; ``{ranks}`` in it is how many, and ``{tools}`` the folder of the environment's
programs. What is measured: hpcml.bench.overlap, to which further options are passed on. It writes
benchmarks/results/overlap-<MPI>-<ranks>[-<where>].txt.
"""

from __future__ import annotations

import argparse
import shlex

import recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--launcher", default="{tools}/mpiexec -n {ranks}", metavar="COMMAND")
    parser.add_argument("--where", metavar="NAME", help="goes into the name of the file: a network, a machine")
    parser.add_argument("--mpi", default="all", help="openmpi, mpich or all (the default)")
    args, options = parser.parse_known_args()
    for mpi, tools in recorded.environments(args.mpi):
        launcher = shlex.split(args.launcher.format(ranks=args.ranks, tools=tools))
        name = "-".join(filter(None, ("overlap", mpi, str(args.ranks), args.where)))
        recorded.run([*launcher, str(tools / "python"), "-m", "hpcml.bench.overlap", *options], name)


if __name__ == "__main__":
    main()
