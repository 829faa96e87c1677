"""``hpcml draw``: a space-time diagram of a collective's schedule."""

from __future__ import annotations

import argparse

from hpcml.commands.numbers import count, positive_count

HELP = "draw the schedule of a collective: ranks across, rounds down (needs no MPI)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("collective", help="allreduce, broadcast, …")
    add("--algorithm", required=True, metavar="NAME")
    add("--ranks", type=positive_count, default=8, metavar="P", help="(default: 8)")
    add("--segments", type=positive_count, default=1, metavar="K", help="(default: 1)")
    add("--root", type=count, default=0, metavar="R", help="(default: 0)")
    add("--output", metavar="FILE", help="SVG, PNG or PDF (default: COLLECTIVE-ALGORITHM.svg)")


def run(args: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    import mpi4py

    mpi4py.rc.initialize = False  # nothing is sent; login nodes may not allow MPI_Init
    from hpcml.collectives.algorithms import named
    from hpcml.paper.diagram import draw

    output = Path(args.output or f"{args.collective}-{args.algorithm}.svg")
    try:
        algorithm = named(args.collective, args.algorithm)
        if args.root >= args.ranks:
            raise ValueError(f"found root {args.root} of {args.ranks} ranks, expected 0 … {args.ranks - 1}")
        if output.suffix.lower() not in (".svg", ".png", ".pdf"):
            raise ValueError(f"found the output {output}, expected a name that ends in .svg, .png or .pdf")
        if not output.resolve().parent.is_dir():
            raise ValueError(f"{output} cannot be written: there is no folder {output.resolve().parent}")
        left_out = draw(algorithm, args.ranks, str(output), args.root, args.segments)
    except ValueError as error:
        print(f"hpcml draw: error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output}")
    if left_out:
        print(f"rounds {left_out[0].number} to {left_out[-1].number} are left out of the picture")
    return 0
