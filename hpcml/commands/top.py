"""``hpcml top``: a run on the terminal, as it goes on."""

from __future__ import annotations

import argparse

from hpcml.commands.numbers import positive

HELP = "show a run while it goes on: loss, rate, loads of ranks, waiting (needs no MPI)"
CLEAR = "\x1b[H\x1b[J"  # to the corner, and erase what is below


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_path", metavar="RUN", help="a run directory")
    parser.add_argument("--once", action="store_true", help="print one frame, and end")
    parser.add_argument("--interval", type=positive, default=1.0, metavar="SECONDS", help="(default: 1)")


def run(args: argparse.Namespace) -> int:
    """Until the run ends, or Ctrl-C."""
    import shutil
    import sys
    import time
    from pathlib import Path

    from hpcml.runs.frame import frame
    from hpcml.runs.record import RecordError, read_record

    clear = "" if args.once or not sys.stdout.isatty() else CLEAR
    try:
        while True:
            record = read_record(Path(args.run_path))
            print(clear + frame(record, shutil.get_terminal_size().columns), end="", flush=True)
            if args.once or record.state in ("finished", "stopped"):
                return 0
            time.sleep(args.interval)
    except RecordError as error:
        print(f"hpcml top: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
