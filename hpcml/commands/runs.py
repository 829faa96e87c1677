"""``hpcml runs``: the runs of a folder beside one another."""

from __future__ import annotations

import argparse

HELP = "list runs, and compare them: results, arguments, versions (needs no MPI)"
SORTS = ("started", "loss", "validation", "test", "seconds", "samples_per_second")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "folders",
        nargs="*",
        default=["runs"],
        metavar="DIR",
        help="run directories, or folders of them (default: runs)",
    )
    add("--sort", choices=SORTS, default="started", help="(default: started)")
    add("--differences", action="store_true", help="also list arguments, versions and environment that differ")
    add("--json", action="store_true", help="print the table as JSON")
    add("--plot", metavar="FILE", help="write the losses by epoch and by time to FILE, a new one (PNG, SVG, PDF)")
    add("--overwrite", action="store_true", help="FILE may be there")


def run(args: argparse.Namespace) -> int:
    import json
    import sys
    from pathlib import Path

    from hpcml.runs import comparison
    from hpcml.runs.record import RecordError, find_records

    try:
        records = find_records([Path(folder) for folder in args.folders])
        if args.plot:
            plot = Path(args.plot)
            if plot.exists() and not args.overwrite:
                raise RecordError(f"{plot} is there already: name another file, or say --overwrite")
            if plot.suffix.lower() not in (".png", ".svg", ".pdf"):
                raise RecordError(f"found {plot}, expected a name that ends in .png, .svg or .pdf")
            comparison.plot(records, plot)
    except (RecordError, OSError) as error:
        print(f"hpcml runs: error: {error}", file=sys.stderr)
        return 2
    except ImportError:
        print("hpcml runs: error: --plot needs matplotlib: pip install 'hpcml[train]'", file=sys.stderr)
        return 2
    rows = [comparison.row(record) for record in records]
    best_last = -1 if args.sort in ("validation", "test", "samples_per_second") else 1  # of these the largest is first
    if args.sort != "started":
        rows.sort(key=lambda row: float("inf") if row[args.sort] is None else best_last * row[args.sort])
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(comparison.table(rows), end="")
    if args.differences and (said := comparison.differences(records)):
        print("\n" + said, end="")
    return 0
