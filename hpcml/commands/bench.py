"""``hpcml bench``: time the algorithms of a collective against the MPI library's own, in one run, alternating."""

from __future__ import annotations

import argparse

from hpcml.commands.numbers import byte_sizes, positive, positive_count

HELP = "time a collective: every algorithm against the MPI library's own"

COLLECTIVES = (
    "allreduce",
    "reduce",
    "reduce_scatter",
    "broadcast",
    "scatter",
    "gather",
    "allgather",
    "alltoall",
    "scan",
    "exscan",
    "barrier",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collective", choices=COLLECTIVES)
    parser.add_argument(
        "--bytes",
        type=byte_sizes,
        default="8:64M",
        metavar="LIST",
        help="sizes of the whole array: 8,1K,4M, or a range in steps of four, 8:64M (the default)",
    )
    parser.add_argument("--algorithms", default="all", metavar="LIST", help="names, comma-separated (default: all)")
    parser.add_argument(
        "--rivals",
        action="store_true",
        help="also time every algorithm of the MPI library itself, torch.distributed's gloo if it is there, and a "
        "plain loop over mpi4py",
    )
    parser.add_argument(
        "--give-up",
        type=positive,
        metavar="FACTOR",
        help="leave algorithms out of larger sizes that took more than FACTOR times the fastest at one of 256K or more",
    )
    parser.add_argument(
        "--line-rate", type=positive, metavar="BYTES", help="bytes per second of a link: also print time over its bound"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--op", default="sum")
    parser.add_argument("--repeat", type=positive_count, default=15, metavar="N", help="timings of each (default: 15)")
    parser.add_argument("--json", metavar="FILE", help="write every timing, with machine and versions, to FILE")
    parser.add_argument(
        "--plot", metavar="FILE", help="write a picture of times and bus bandwidth to FILE (PNG, SVG, PDF)"
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from hpcml import collectives as hc
    from hpcml.bench import measure, report, rivals

    with hc.all_or_none():  # before minutes are spent
        for path in filter(None, (args.json, args.plot)):
            if not Path(path).resolve().parent.is_dir():
                raise FileNotFoundError(f"{path} cannot be written: there is no folder {Path(path).resolve().parent}")
        if args.plot:
            import matplotlib  # noqa: F401

    sizes = args.bytes if args.collective != "barrier" else [0]
    results = measure.measure(
        args.collective,
        sizes,
        args.algorithms,
        args.dtype,
        args.op,
        args.repeat,
        report.progress(),
        rivals=rivals.KINDS if args.rivals else (),
        give_up=args.give_up,
        line_rate=args.line_rate,
    )
    if results.rank == 0:
        print(report.table(results))
        if args.json:
            report.write_json(results, args.json)
        if args.plot:
            report.plot(results, args.plot)
    return 0
