"""The run directory: made when training begins, never one that is there already, gone if nothing came of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.runs.wholefile import whole_file


class DirectoryError(ValueError):
    """A run directory that cannot be made."""


@contextmanager
def run_directory(output: str | None, label: str, comm: MPI.Comm, unused: bool = False) -> Iterator[Path]:
    """Make the directory `output`, or ``runs/<date>-<label>`` with a number behind it if that is taken.

    unused: `output` may be there, without a run in it.

    Collective; rank 0 makes it and every rank gets its path. A block that raises before an epoch was recorded
    in ``metrics.jsonl`` or a checkpoint written leaves no directory; one that was cut short later keeps what is there.

    Raises CollectiveError on every rank if `output` is there already, or cannot be made.
    """
    path: Path | None = None
    first = mine = comm.rank == 0  # the communicator may be broken when this is asked again
    with hc.all_or_none(comm):
        if first and output is None:
            path = _make_numbered(label)
        elif first:
            path = Path(str(output))
            mine = _make(path, unused)
    path = Path(comm.bcast(path))
    try:
        yield path
    except BaseException:
        if mine and not _has_records(path):
            shutil.rmtree(path, ignore_errors=True)
            if output is None:
                with suppress(OSError):  # it holds other runs
                    path.parent.rmdir()
        raise


def read_json(path: Path) -> dict:
    """Raises DirectoryError where there is none, or it is none of ours."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DirectoryError(f"{path} cannot be read: {error}; is {path.parent} a run directory?") from None


def refuse_taken(output: str | None) -> None:
    """Raise DirectoryError if `output` is there already: to be asked before the data are read. Local."""
    if output is not None and Path(output).exists():
        raise DirectoryError(f"the run directory {output} is there already; name another with --output, or remove it")


def checksum(path: Path) -> str:
    """SHA-256 of a file, which tells one version of a model from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, fields: dict) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(fields, indent=2) + "\n").encode())


def _make(path: Path, unused: bool) -> bool:
    """Whether it is new: with ``unused`` it may be there."""
    if not unused:
        refuse_taken(str(path))
    try:
        path.mkdir(parents=True)
    except OSError as error:
        if unused and path.is_dir():
            return False
        raise DirectoryError(f"the run directory {path} cannot be made: {error.strerror}") from None
    return True


def _make_numbered(label: str) -> Path:
    """``runs/2026-01-31-mlp-digits``, ``…-2``, ``…-3``; mkdir decides, so two runs that start at once differ."""
    stem = f"{time.strftime('%Y-%m-%d')}-{label}"
    number = 1
    while True:
        path = Path("runs", stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.exists():
                raise DirectoryError("the folder 'runs' cannot be made: a file of that name is in the way") from None
            number += 1
        except OSError as error:
            raise DirectoryError(
                f"the run directory {path} cannot be made: {error.strerror}; name another with --output"
            ) from None
        else:
            return path


def _has_records(path: Path) -> bool:
    metrics = path / "metrics.jsonl"
    return (metrics.exists() and metrics.stat().st_size > 0) or any(path.glob("checkpoints/*"))
