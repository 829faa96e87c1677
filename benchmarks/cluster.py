"""Time the collectives on several hosts against what a link of theirs allows at least; write benchmarks/results.

    python3 benchmarks/cluster.py allreduce --hosts 4,8 --line-rate 62.5e6 \\
        --launcher 'srun --mpi=pmix -N {hosts} --ntasks-per-node 1'

The launcher is put before the command, one rank a host; ``{hosts}`` in it is how many, and ``{tools}`` the folder of
the environment's programs, in which its mpiexec is. Line rate: bytes per second and direction of a host's link. Few
sizes and few repetitions, as one call may take seconds; what is far behind at one size is left out of larger ones.
Further options are passed on to hpcml bench.
"""

from __future__ import annotations

import argparse
import shlex

import recorded

SETTINGS = ["--rivals", "--give-up", "2", "--bytes", "64K,512K,4M,8M", "--repeat", "3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collective")
    parser.add_argument("--launcher", required=True, metavar="COMMAND")
    parser.add_argument("--hosts", default="4", metavar="LIST", help="numbers of hosts, comma-separated (default: 4)")
    parser.add_argument("--line-rate", type=float, required=True, metavar="BYTES_PER_SECOND")
    parser.add_argument("--mpi", default="all", help="openmpi, mpich or all (the default)")
    args, options = parser.parse_known_args()
    line = f"{args.line_rate * 8 / 1e6:g}mbit"
    for mpi, tools in recorded.environments(args.mpi):
        for hosts in args.hosts.split(","):
            launcher = shlex.split(args.launcher.format(hosts=hosts, tools=tools))
            arguments = [args.collective, *SETTINGS, "--line-rate", str(args.line_rate), *options]
            recorded.bench(launcher, tools, f"cluster-{args.collective}-{mpi}-{hosts}-{line}", arguments)


if __name__ == "__main__":
    main()
