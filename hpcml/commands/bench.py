"""``hpcml bench``: time the algorithms of a collective against the MPI library's own, in one run, alternating."""

from __future__ import annotations

import argparse

HELP = "time a collective: every algorithm against the MPI library's own"

COLLECTIVES = ("allreduce", "reduce", "broadcast", "scatter", "gather", "allgather", "barrier")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collective", choices=COLLECTIVES)
    parser.add_argument(
        "--bytes",
        default="8:64M",
        metavar="LIST",
        help="sizes of the whole array: 8,1K,4M, or a range in steps of four, 8:64M (the default)",
    )
    parser.add_argument("--algorithms", default="all", metavar="LIST", help="names, comma-separated (default: all)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--op", default="sum")
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="timings of each (default: 15)")
    parser.add_argument("--json", metavar="FILE", help="write every timing, with machine and versions, to FILE")
    parser.add_argument(
        "--plot", metavar="FILE", help="write a picture of times and bus bandwidth to FILE (PNG, SVG, PDF)"
    )


def run(args: argparse.Namespace) -> int:
    from hpcml.bench import measure, report

    if args.repeat < 1:
        raise ValueError(f"--repeat must be at least 1, not {args.repeat}")
    sizes = measure.parse_sizes(args.bytes) if args.collective != "barrier" else [0]
    results = measure.measure(
        args.collective, sizes, args.algorithms, args.dtype, args.op, args.repeat, report.progress()
    )
    if results.rank == 0:
        print(report.table(results))
        if args.json:
            report.write_json(results, args.json)
        if args.plot:
            report.plot(results, args.plot)
    return 0
