"""Run a measurement on every MPI there is an environment for, and keep what it printed in benchmarks/results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "tools"))

from environment import ALLOWANCES, WHEELS  # noqa: E402


def environments(chosen: str) -> Iterator[tuple[str, Path]]:
    """Name and ``bin`` folder of each MPI's environment that is there; of the one that is chosen, or "all"."""
    for mpi in WHEELS:
        tools = ROOT / f".venv-{mpi}" / "bin"
        if chosen not in ("all", mpi):
            continue
        if tools.exists():
            yield mpi, tools
        else:
            print(f"{mpi}: no environment (make environments)")


def bench(launcher: list[str], tools: Path, name: str, arguments: list[str]) -> None:
    """``hpcml bench``: a table (.txt), every timing with machine and versions (.json), a picture (.png)."""
    outputs = ["--json", f"{RESULTS / name}.json", "--plot", f"{RESULTS / name}.png"]
    run([*launcher, str(tools / "python"), "-m", "hpcml", "bench", *arguments, *outputs], name)


def run(command: list[str], name: str) -> None:
    """Run it in the repository; what it prints goes to the screen and into ``name``.txt."""
    ran = subprocess.run(command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    (RESULTS / f"{name}.txt").write_text(f"commit {commit()}, {os.cpu_count()} cores\n{ran.stdout}")
    print(ran.stdout)


def environment() -> dict[str, str]:
    """That of this process, with what Open MPI wants to hear before it starts ranks of root, or more than cores."""
    return {**ALLOWANCES, **os.environ}


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def processor() -> str:
    """Its name, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "processor unknown")
