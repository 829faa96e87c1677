"""``hpcml doctor``: look for what makes jobs fail, hang or crawl here, before hours are spent."""

from __future__ import annotations

import argparse

from hpcml.commands.numbers import positive

HELP = "look for what makes jobs fail, hang or crawl here, and say how to mend it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--skip", action="append", default=[], metavar="CHECK", help="leave a check out; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the checks, and end")
    parser.add_argument(
        "--patience",
        type=positive,
        default=60.0,
        metavar="SECONDS",
        help="end with what is known if a check takes longer (default: 60)",
    )


def run(args: argparse.Namespace) -> int:
    """1 if there is an error, 0 if not. Run it as a job is run: by the same launcher, on the same nodes."""
    import sys

    from hpcml.doctor import report
    from hpcml.doctor.catalogue import CATALOGUE, Check
    from hpcml.doctor.examination import Findings, examine
    from hpcml.doctor.start import start
    from hpcml.runs.launch import find_launch

    launch = find_launch()
    if unknown := [name for name in args.skip if name not in {check.name for check in CATALOGUE}]:
        known = ", ".join(check.name for check in CATALOGUE)
        if launch is None or launch.process == 0:
            print(f"hpcml doctor: error: no check {', '.join(unknown)}; the checks are {known}", file=sys.stderr)
        return 2
    if args.list:
        if launch is None or launch.process == 0:
            print("\n".join(f"{check.name:16}{check.title}" for check in CATALOGUE))
        return 0
    comm, unmet = start()
    missing: Findings = [] if unmet is None else [(CATALOGUE[0], unmet)]
    lone = (comm is None or comm.size == 1) and launch is not None and launch.processes > 1
    if lone and launch is not None and launch.process != 0:
        return 0  # all would say the same; and a launcher ends all at the first that leaves with another status

    def told(findings: Findings) -> None:
        found = [*missing, *findings]
        print(report.as_json(found) if args.json else report.text(found), end="", flush=True)

    checks: list[Check] = [check for check in CATALOGUE if check.name not in args.skip]
    return int(examine(comm, args.patience, told, checks) or bool(missing))
