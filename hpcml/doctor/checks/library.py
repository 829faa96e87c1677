"""The MPI library: is it the one that mpi4py was built for, and does the mpiexec on the PATH belong to it?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hpcml.doctor.finding import Finding, error, fine, warning
from hpcml.doctor.place import Facts, Place, World

#: By words in MPI_Get_library_version, or in what ``mpiexec --version`` prints: the name, and with whose binary
#: interface. The first that fits.
FAMILIES = (
    ("Open MPI", "Open MPI", "openmpi"),
    ("OpenRTE", "Open MPI", "openmpi"),
    ("Intel(R) MPI", "Intel MPI", "mpich"),
    ("CRAY MPICH", "Cray MPICH", "mpich"),
    ("MVAPICH", "MVAPICH", "mpich"),
    ("HYDRA", "MPICH", "mpich"),
    ("MPICH", "MPICH", "mpich"),
)


def family(text: str) -> tuple[str, str]:
    """(name, binary interface) of the library that a text speaks of; ("", "") if none is known."""
    lower = text.lower()
    return next(((name, abi) for word, name, abi in FAMILIES if word.lower() in lower), ("", ""))


def look(place: Place) -> Facts:
    from mpi4py import MPI

    vendor, version = MPI.get_vendor()
    facts: Facts = {
        "library": " ".join(MPI.Get_library_version().split("\n")[0].split(",")[0].replace("\0", "").split()),
        "built_for": f"{vendor} {'.'.join(map(str, version))}",
        "standard": ".".join(map(str, MPI.Get_version())),
    }
    if place.rank in place.firsts:
        path = shutil.which("mpiexec")
        beside = Path(sys.executable).parent / "mpiexec"
        facts["mpiexec"], facts["mpiexec_is"] = path, _family_of_launcher(path) if path else ""
        facts["beside"] = str(beside) if beside.exists() and _family_of_launcher(str(beside)) else None
    return facts


def _family_of_launcher(path: str) -> str:
    # Without the variables by which an MPI program is known: it is asked for its version, not to be a rank.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI_", "PRTE_"))}
    try:
        ran = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, env=clean)
    except (OSError, subprocess.SubprocessError):
        return ""
    return family(ran.stdout + ran.stderr)[1]


def judge(world: World) -> Sequence[Finding]:
    findings = []
    libraries = {facts["library"] for facts in world.facts}
    if len(libraries) > 1:
        kinds = {name: [r for r, f in enumerate(world.facts) if f["library"] == name] for name in sorted(libraries)}
        findings.append(
            error(
                "; ".join(f"{world.on(ranks)}: {name}" for name, ranks in kinds.items()),
                "ranks of different MPI libraries cannot talk, or talk nonsense",
                "load the same MPI module on every node, and start the same Python everywhere",
            )
        )
    facts = world.facts[0]
    (name, abi), (_, built_abi) = family(facts["library"]), family(facts["built_for"])
    rebuild = f"pip install --no-cache-dir --no-binary mpi4py --force-reinstall mpi4py, with {name or 'the MPI'} loaded"
    if abi and built_abi and abi != built_abi:
        findings.append(
            error(
                f"mpi4py was built for {facts['built_for']}, and runs with {facts['library']}",
                "the two have different binary interfaces: calls crash or return nonsense",
                rebuild,
            )
        )
    elif abi == built_abi == "openmpi" and _release(facts["built_for"]) != _release(facts["library"]):
        findings.append(
            warning(
                f"mpi4py was built for {facts['built_for']}, and runs with {facts['library']}",
                "the binary interface is kept between most releases, not all; features of the newer one are missing",
                rebuild,
            )
        )
    else:
        findings.append(fine(f"{facts['library']}, MPI {facts['standard']}; mpi4py was built for {facts['built_for']}"))
    launcher, its = facts.get("mpiexec"), facts.get("mpiexec_is")
    if launcher and its and abi and its != abi:
        beside = facts.get("beside")
        findings.append(
            warning(
                f"the mpiexec on the PATH, {launcher}, is not of {name}, which mpi4py uses",
                "'mpiexec -n 4 …' would start 4 programs of one rank each",
                f'export PATH="{Path(beside).parent}:$PATH"' if beside else f"load the module of {name}, or use srun",
            )
        )
    return findings


def _release(text: str) -> str:
    """``5.0`` of ``Open MPI v5.0.11``."""
    return ".".join(text.split()[-1].lstrip("v").split(".")[:2])
