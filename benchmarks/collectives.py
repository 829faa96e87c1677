"""Time the collectives on this machine, on every MPI there is an environment for; write benchmarks/results.

    make environments
    python3 benchmarks/collectives.py allreduce --ranks 2

For each MPI: hpcml bench, which compares started plans of every algorithm, the public function and the raw mpi4py call
in one run, taking turns. Results: a table (.txt), every timing with machine and versions (.json), a picture (.png).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from environment import ALLOWANCES, WHEELS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collective")
    parser.add_argument("--ranks", type=int, default=2)
    args, options = parser.parse_known_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    for mpi in WHEELS:
        tools = ROOT / f".venv-{mpi}" / "bin"
        if not tools.exists():
            print(f"{mpi}: no environment (make environments)")
            continue
        stem = ROOT / "benchmarks" / "results" / f"{args.collective}-{mpi}-{args.ranks}"
        command = [tools / "mpiexec", "-n", str(args.ranks), tools / "hpcml", "bench", args.collective]
        outputs = ["--json", f"{stem}.json", "--plot", f"{stem}.png"]
        ran = subprocess.run(
            [*map(str, command), *outputs, *options],
            env={**ALLOWANCES, **os.environ},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        Path(f"{stem}.txt").write_text(f"commit {commit.strip()}, {os.cpu_count()} cores\n{ran.stdout}")
        print(ran.stdout)


if __name__ == "__main__":
    main()
