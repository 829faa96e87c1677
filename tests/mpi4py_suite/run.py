"""Run mpi4py's own tests of collectives, unchanged, over hpcml's collectives.

    .venv-mpich/bin/python tests/mpi4py_suite/run.py 1 2 3 5 8
    HPCML_SUITE_ALGORITHMS="allreduce=ring" .venv-mpich/bin/python tests/mpi4py_suite/run.py 3 -- -k Allreduce

The tests come from mpi4py's source distribution, at the version in use, which pip fetches once, into build/. Skipped,
with status 0, where it cannot be had. HPCML_SUITE_SOURCE may name a folder with its unpacked ``test``,
HPCML_SUITE_ALGORITHMS the algorithms to force, HPCML_SUITE_ARRAYS the kinds of arrays to keep to (`plugin`), where the
ranks are many and the processors few.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import mpi4py

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = "HPCML_SUITE_SOURCE"
FILES = [f"test_cco_{form}{kind}.py" for kind in ("buf", "vec") for form in ("", "nb_", "pr_")]


def main() -> int:
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    folder = source_tests()
    if isinstance(folder, str):
        print(f"mpi4py's own tests: skipped, as {folder}")
        return 0
    runner = [sys.executable, str(ROOT / "tests" / "run_mpi.py"), *(arguments[:cut] or ["1", "2", "3", "5", "8"]), "--"]
    tests = [str(folder / name) for name in FILES]
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "mpi.conftest", "-p", "mpi4py_suite.plugin"]
    path = [str(ROOT / "tests"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}
    # No table of measurements, which might make "auto" prefer the MPI library's own algorithm.
    environment["HPCML_TUNING"] = str(ROOT / "build" / "no-tables")
    return subprocess.run([*runner, *tests, *options, *arguments[cut + 1 :]], env=environment).returncode


def source_tests() -> Path | str:
    """The folder of mpi4py's tests; or why it cannot be had."""
    version = mpi4py.__version__
    if given := os.environ.get(SOURCE):
        folder = Path(given) / "test"
        return folder if (folder / FILES[0]).exists() else f"{SOURCE}={given} has no test/{FILES[0]}"
    folder = ROOT / "build" / f"mpi4py-{version}" / "test"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as fetched:
            wanted = [f"mpi4py=={version}", "--no-binary", "mpi4py", "--no-deps", "--dest", fetched]
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *wanted]
            ran = subprocess.run(pip, capture_output=True, text=True)
            if ran.returncode:
                said = ran.stderr.strip().splitlines() or ["nothing"]
                return f"pip cannot fetch the source of mpi4py {version}, but says: {said[-1]}"
            unpack(next(Path(fetched).glob("mpi4py-*.tar.gz")), folder)
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """The archive's tests, moved to ``folder`` when they are complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside, tarfile.open(archive) as source:
        tests = [m for m in source.getmembers() if m.isfile() and m.name.split("/")[1:2] == ["test"]]
        for member in tests:
            source.extract(member, beside)
        next(Path(beside).glob("*/test")).rename(folder)


if __name__ == "__main__":
    sys.exit(main())
