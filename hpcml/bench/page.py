"""A page for a person that reads the results of many measurements: what they say, and where the details are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hpcml.bench.candidates import AUTO, INTO, NOTHING
from hpcml.bench.measure import Results
from hpcml.bench.report import best_rival, is_results, ratio, read_json, size_label
from hpcml.bench.rivals import NATIVE, is_rival

SMALL = 16 << 10  # bytes below which what a call costs is counted, not a ratio
LARGE = 4 << 20  # bytes from which on a line's bound says something

HEAD = """\
# What was measured

Written by `.venv-openmpi/bin/python benchmarks/page.py` from the `.json` files of this folder, which hold every timing;
do not edit. The `.txt` beside each has its table with medians and quartiles, the `.png` its picture.

**native** is the MPI library's default, called from mpi4py; **auto** is the public function `hc.COLLECTIVE(x)`, which
chooses the algorithm and allocates its result; **out=** is the same, told where to put it, as native is; **ours** also
counts started plans of each algorithm. A **rival** is native, the library told to use one of its own algorithms (each
of them was tried), torch.distributed's gloo, or a loop in Python. All of one row were timed in one run, taking turns.
Times are of the slowest rank; below 1 is faster. From 16 KiB on the input is written anew before each call, which is
not counted.
"""
ONE_NODE = """
## On one node

Ratios are geometric means over the sizes of 16 KiB and more; the worst size in brackets. *Small* is how many
microseconds auto takes more than native below 16 KiB, in the worst case.

| collective | MPI | ranks | auto / native | out= / native | small | ours / best rival | |
|---|---|---|---|---|---|---|---|
"""
CLUSTER = """
## On several hosts

Time as a multiple of what the bytes take at least on one host's link at its full rate; an algorithm cannot reach 1, as
TCP, IP and Ethernet have headers.

| collective | MPI | ranks | hosts | Mbit/s | size | native | auto | best of ours | best rival | auto / best rival | |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def markdown(folder: Path) -> str:
    """The page for the results in ``folder``."""
    paths = [path for path in sorted(folder.glob("*.json")) if is_results(path)]
    found = [(path.stem, read_json(path)) for path in paths]
    near = [_near(stem, results) for stem, results in found if not results.line_rate]
    far = [row for stem, results in found if results.line_rate for row in _far(stem, results)]
    return HEAD + (ONE_NODE + "\n".join(near) + "\n") * bool(near) + (CLUSTER + "\n".join(far) + "\n") * bool(far)


def geometric_mean(values: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(values)))))


def _near(stem: str, results: Results) -> str:
    large = [nbytes for nbytes in results.sizes() if nbytes >= SMALL]
    ratios = {nbytes: ratio(results, nbytes, AUTO) for nbytes in large}
    into = {nbytes: ratio(results, nbytes, INTO) for nbytes in large if INTO in results.names_at(nbytes)}
    shares = {nbytes: best_rival(results, nbytes)[1] for nbytes in large}
    more = [results.median(n, AUTO) - results.median(n, NATIVE) for n in results.sizes() if n < SMALL]
    cells = [
        results.collective,
        mpi_name(results.library),
        str(results.ranks),
        _mean_and_worst(ratios),
        _mean_and_worst(into),
        f"{max(more) * 1e6:+.2f} µs" if more else "",
        _mean_and_worst(shares),
        _links(stem),
    ]
    return f"| {' | '.join(cells)} |"


def _far(stem: str, results: Results) -> Iterable[str]:
    for nbytes in results.sizes():
        bound = results.bound(nbytes)
        if nbytes < LARGE or not bound:
            continue
        names = [name for name in results.names_at(nbytes) if name != NOTHING]
        times = {name: results.median(nbytes, name) / bound for name in names}
        ours = min((n for n in names if not is_rival(n) and n not in (AUTO, INTO)), key=times.__getitem__, default=AUTO)
        rival, _ = best_rival(results, nbytes)
        cells = [
            results.collective,
            mpi_name(results.library),
            str(results.ranks),
            str(results.nodes),
            f"{(results.line_rate or 0) * 8 / 1e6:g}",
            size_label(nbytes),
            f"{times[NATIVE]:.2f}",
            f"{times[AUTO]:.2f}",
            f"{times[ours]:.2f} {ours}",
            f"{times[rival]:.2f} {rival}",
            f"{times[AUTO] / times[rival]:.2f}",
            _links(stem),
        ]
        yield f"| {' | '.join(cells)} |"


def _mean_and_worst(by_size: dict[int, float]) -> str:
    if not by_size:
        return ""
    worst = max(by_size, key=by_size.__getitem__)
    return f"{geometric_mean(by_size.values()):.2f} ({by_size[worst]:.2f} at {size_label(worst)})"


def _links(stem: str) -> str:
    return f"[table]({stem}.txt), [picture]({stem}.png)"


def mpi_name(library: str) -> str:
    """``Open MPI 5.0.11`` of what MPI_Get_library_version says on its first line."""
    words = library.partition(",")[0].replace("Version:", "").split()
    return " ".join(word.removeprefix("v") for word in words)
