"""Train one MLP on any number of ranks, by any algorithm, on both MPIs, and compare the parameters bit by bit.

    python3 benchmarks/same_bits.py --data t10k-images-idx3-ubyte.gz

What runs is ``hpcml train --reproducible 8`` with further options; a line each with the SHA-256 of the parameters, the
accuracy and the seconds; the first is the plain training, for the time that exact sums cost. The results go to
benchmarks/results/same_bits.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import recorded

WAYS = {
    "auto": [],
    "ring": ["--algorithm", "ring"],
    "recursive doubling": ["--algorithm", "recursive_doubling"],
    "sharded, overlapped": ["--shard", "--overlap"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", default="2")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args()
    lines = [f"commit {recorded.commit()}; {Path(args.data).name}, {args.epochs} epochs, an MLP with 128 hidden units"]
    found = set()
    for mpi, tools in recorded.environments("all"):
        for ranks in args.ranks:
            plain = run(tools, ranks, args, [])
            lines.append(f"{mpi:8}{ranks:2} ranks  {'without --reproducible':24}{plain[1]}")
            for way, options in WAYS.items():
                digest, said = run(tools, ranks, args, ["--reproducible", "8", *options])
                found.add(digest)
                lines.append(f"{mpi:8}{ranks:2} ranks  {way:24}{said}  {digest}")
            print("\n".join(lines[-1 - len(WAYS) :]), flush=True)
    lines.append("one SHA-256" if len(found) == 1 else f"{len(found)} DIFFERENT")
    (recorded.RESULTS / "same_bits.txt").write_text("\n".join(lines) + "\n")
    print(lines[-1])


def run(tools: Path, ranks: int, args: argparse.Namespace, options: list[str]) -> tuple[str, str]:
    """The digest of the parameters, and accuracy and time in words."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [str(tools / "mpiexec"), "-n", str(ranks), str(tools / "hpcml"), "train", "--data", args.data]
        command += ["--hidden", "128", "--epochs", args.epochs, "--progress", "none", "--output", str(output), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=recorded.environment())
        model, summary = np.load(output / "model.npz"), json.loads((output / "summary.json").read_text())
        digest = hashlib.sha256()
        for name in sorted(name for name in model.files if name.startswith("parameter/")):
            digest.update(model[name].tobytes())
    return digest.hexdigest(), f"accuracy {summary['test_accuracy']:.4f}  {summary['training_seconds']:7.2f} s"


if __name__ == "__main__":
    main()
