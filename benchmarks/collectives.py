"""Time the collectives on this machine, on every MPI there is an environment for; write benchmarks/results.

    make environments
    python3 benchmarks/collectives.py allreduce --ranks 2
    .venv-openmpi/bin/python benchmarks/page.py

For each MPI: hpcml bench, which compares started plans of every algorithm, the public function, the raw mpi4py call,
the library's own algorithms one by one, gloo where torch is installed, and a loop in Python, in one run, taking turns.
Further options are passed on to it.
"""

from __future__ import annotations

import argparse

import recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collective")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--mpi", default="all", help="openmpi, mpich or all (the default)")
    args, options = parser.parse_known_args()
    for mpi, tools in recorded.environments(args.mpi):
        launcher = [str(tools / "mpiexec"), "-n", str(args.ranks)]
        recorded.bench(
            launcher, tools, f"{args.collective}-{mpi}-{args.ranks}", [args.collective, "--rivals", *options]
        )


if __name__ == "__main__":
    main()
