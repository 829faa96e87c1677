"""``hpcml simulate``: the algorithms of a collective on a machine that is not there, from the schedules that run."""

from __future__ import annotations

import argparse

from hpcml.commands.numbers import byte_sizes, latencies, positive_count, seconds_per_byte

HELP = "predict a collective's time on a machine of any size and topology (needs no MPI)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("collective", help="allreduce, broadcast, …")
    add("--ranks", type=positive_count, required=True, metavar="P")
    add("--bytes", type=byte_sizes, default="100MB", metavar="N", help="of the whole array (default: 100MB)")
    add(
        "--topology",
        default="flat",
        metavar="T",
        help="flat, fat-tree:LEAF[:OVERSUBSCRIPTION], dragonfly:ROUTERSxHOSTS, torus:AxBxC (default: flat)",
    )
    add("--ranks-per-node", type=positive_count, default=1, metavar="Q", help="(default: 1)")
    add(
        "--alpha",
        type=latencies,
        default="1.5us",
        metavar="LIST",
        help="latency of a message, then of each further level of links on its path (default: 1.5us,100ns,…)",
    )
    add(
        "--beta",
        type=seconds_per_byte,
        default="12.5GB/s",
        metavar="LIST",
        help="rate of a node's port, then of each further level of links (default: 12.5GB/s, all alike)",
    )
    add("--gamma", type=seconds_per_byte, default="10GB/s", help="rate of folding (default: 10GB/s)")
    add(
        "--overhead",
        type=latencies,
        default="300ns",
        metavar="TIME",
        help="of each further message in a round (default: 300ns)",
    )
    add("--inside-alpha", type=latencies, default="500ns", metavar="TIME", help="within a node (default: 500ns)")
    add("--inside-beta", type=seconds_per_byte, default="10GB/s", metavar="RATE", help="within a node (10GB/s)")
    add("--algorithms", default="all", metavar="LIST", help="names, comma-separated (default: all)")
    add("--sweep", choices=("bytes", "ranks"), help="in steps of four, up to what is given")
    add("--json", metavar="FILE", help="write every figure to FILE")
    add("--plot", metavar="FILE", help="write a picture to FILE (PNG, SVG, PDF)")


def run(args: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    import mpi4py

    mpi4py.rc.initialize = False  # nothing is sent; login nodes may not allow MPI_Init
    from hpcml.collectives.algorithms import named, of
    from hpcml.collectives.cost import Level
    from hpcml.paper import report, topology
    from hpcml.paper.comparison import compare
    from hpcml.paper.simulation import Machine

    try:
        names = args.algorithms.split(",")
        rows = list(of(args.collective)) if names == ["all"] else [named(args.collective, name) for name in names]
        if not rows:
            raise ValueError(f"there is no collective {args.collective!r}; `hpcml verify` lists them")
        network = topology.parse(args.topology, args.alpha, args.beta)
        inside = Level(args.inside_alpha[0], args.inside_beta[0], min(args.inside_alpha[0], args.overhead[0]))
        machine = Machine(network, args.overhead[0], inside, args.gamma[0], args.ranks_per_node)
        points = _points(args)
        for ranks, _ in points:
            network.check(-(-ranks // args.ranks_per_node))
        for path in filter(None, (args.json, args.plot)):
            if not Path(path).resolve().parent.is_dir():
                raise ValueError(f"{path} cannot be written: there is no folder {Path(path).resolve().parent}")
        if args.plot:
            import matplotlib  # noqa: F401
    except ValueError as error:
        print(f"hpcml simulate: error: {error}", file=sys.stderr)
        return 2

    compared = compare(rows, points, machine, _progress())
    print(report.heading(args.collective, machine), end="\n\n")
    print(report.table(compared[0]) if len(compared) == 1 else report.series(compared), end="\n\n")
    print(report.explanation(compared))
    if args.json:
        report.write_json(args.collective, machine, compared, args.json)
    if args.plot:
        report.plot(args.collective, machine, compared, args.plot)
    return 0


def _points(args: argparse.Namespace) -> list[tuple[int, int]]:
    """``(ranks, nbytes)`` of each prediction."""
    sizes = args.bytes if args.collective != "barrier" else [0]
    if args.sweep == "bytes":
        return [(args.ranks, nbytes) for nbytes in _fourfold(16, sizes[-1])]
    if args.sweep == "ranks":
        return [(ranks, sizes[-1]) for ranks in _fourfold(4, args.ranks)]
    return [(args.ranks, nbytes) for nbytes in sizes]


def _fourfold(least: int, most: int) -> list[int]:
    """From ``least`` to ``most``, which is the last, in steps of four."""
    found = []
    while least < most:
        found.append(least)
        least *= 4
    return [*found, most]


def _progress():
    """Says on a terminal what is being simulated."""
    import sys

    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
