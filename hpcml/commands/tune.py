"""``hpcml tune``: measure this machine, and write the table from which ``algorithm="auto"`` chooses."""

from __future__ import annotations

import argparse

from hpcml.commands.numbers import byte_sizes, positive

HELP = "measure which algorithm is fastest here, for every collective and size; 'auto' then uses it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=positive, default=60.0, help="time to spend (default: 60)")
    parser.add_argument("--collectives", metavar="LIST", help="names, comma-separated (default: all)")
    parser.add_argument("--bytes", type=byte_sizes, metavar="LIST", help="sizes, as for bench (default: 8 B to 64 MiB)")
    parser.add_argument(
        "--output", metavar="FILE", help="write the table there (default: where 'auto' looks for it; see --where)"
    )
    parser.add_argument(
        "--export",
        choices=("openmpi", "mpich"),
        help="measure the MPI library's own algorithms instead, and write its own tuning file to --output; it serves "
        "any program, without hpcml",
    )
    parser.add_argument(
        "--where", action="store_true", help="print where 'auto' looks for this machine's table, and end"
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from mpi4py import MPI

    from hpcml import collectives as hc
    from hpcml.bench import tuning as measuring
    from hpcml.bench.report import progress
    from hpcml.collectives import tuning
    from hpcml.collectives.channel import channel_of
    from hpcml.runs.wholefile import whole_file

    comm = MPI.COMM_WORLD
    if args.export:
        return export(args, progress())
    machine = channel_of(comm).machine
    path = Path(args.output) if args.output else tuning.path_of(machine.library, machine.size, machine.nodes)
    if args.where:
        if comm.rank == 0:
            print(path)
        return 0
    collectives = measuring.COLLECTIVES
    with hc.all_or_none():
        if comm.size == 1:
            raise ValueError("there is nothing to tune on one rank: start several, as in mpiexec -n 4 hpcml tune")
        if args.collectives:
            collectives = tuple(args.collectives.split(","))
            if unknown := set(collectives) - set(measuring.COLLECTIVES):
                known = ", ".join(measuring.COLLECTIVES)
                raise ValueError(f"unknown collective {', '.join(sorted(unknown))}: expected some of {known}")
        if comm.rank == 0:  # before a minute is spent
            path.parent.mkdir(parents=True, exist_ok=True)
    sizes = args.bytes or measuring.SIZES
    seconds = measuring.measure(args.seconds, collectives, sizes, progress())
    with hc.all_or_none():
        if comm.rank == 0:
            kept = tuning.read(machine.library, machine.size, machine.nodes) if not args.output else None
            merged = {**(kept.seconds if kept else {}), **seconds}  # collectives that were not asked for stay
            with whole_file(path) as file:
                file.write(tuning.text_of(machine.library, machine.size, machine.nodes, merged).encode())
    if comm.rank == 0:
        print(table(seconds))
        print(f"{path}: 'auto' uses it from the next start on, for {machine.size} ranks on {machine.nodes} node(s)")
    return 0


def export(args: argparse.Namespace, progress) -> int:
    """The MPI library's own tuning file."""
    from mpi4py import MPI

    from hpcml.bench import export as exporting

    comm = MPI.COMM_WORLD
    collectives = args.collectives.split(",") if args.collectives else exporting.COLLECTIVES
    path = args.output or f"{args.export}-{comm.size}-ranks.{'rules' if args.export == 'openmpi' else 'json'}"
    said = exporting.export(args.export, path, collectives, args.bytes or exporting.SIZES, progress=progress)
    if comm.rank == 0:
        print(said)
    return 0


def table(seconds: dict) -> str:
    """The fastest algorithm of each collective by size, and how it compares with the library's own."""
    lines = [f"{'collective':16}{'bytes':>10}  {'fastest':22}{'µs':>10}  / native"]
    for collective, by_size in seconds.items():
        for nbytes, times in by_size.items():
            name = min(times, key=times.__getitem__)
            native = f"{times[name] / times['native']:9.2f}" if "native" in times else ""
            lines.append(f"{collective:16}{nbytes:10}  {name:22}{times[name] * 1e6:10.2f}{native}")
    return "\n".join(lines)
