"""Whether all ranks run the same software."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Sequence

from hpcml.doctor.finding import Finding, error, fine
from hpcml.doctor.place import Facts, Place, World

PACKAGES = ("hpcml", "mpi4py", "numpy", "numba")


def look(place: Place) -> Facts:
    from hpcml.version import __version__

    facts: Facts = {"python": platform.python_version(), "machine": platform.machine(), "hpcml": __version__}
    for name in PACKAGES[1:]:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "none"
    return {**facts, "executable": sys.executable}


def judge(world: World) -> Sequence[Finding]:
    findings = []
    for name in ("python", "machine", *PACKAGES):
        by_version: dict[str, list[int]] = {}
        for rank, facts in enumerate(world.facts):
            by_version.setdefault(facts[name], []).append(rank)
        if len(by_version) > 1:
            findings.append(
                error(
                    f"{name} differs: " + "; ".join(f"{v} on {world.on(ranks)}" for v, ranks in by_version.items()),
                    "ranks may then disagree on messages, choose other algorithms, or round differently",
                    "start the same environment on every node: a shared folder, or one copied by sbcast",
                )
            )
    missing = [name for name in PACKAGES if world.facts[0][name] == "none"]
    if missing:
        findings.append(error(f"{', '.join(missing)} is not installed", "hpcml needs it", "pip install hpcml"))
    told = ", ".join(f"{name} {world.facts[0][name]}" for name in ("python", *PACKAGES))
    return findings or [fine(told + (", the same on all ranks" if world.size > 1 else ""))]
