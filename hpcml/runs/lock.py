"""One program at a time writes to a run directory."""

from __future__ import annotations

import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".lock"


class InUseError(ValueError):
    """Another program is writing to the run directory."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory during the block. Local: rank 0 does this for all.

    It is the system's own lock of an open file, which ends with its process whatever ends that: none is ever stale. An
    earlier life of the same Slurm job may still be there, on a node that was lost; its lock is passed over, as Slurm
    lets one life of a job go on only.

    Raises InUseError, which names the holder. Where the file system has no locks a warning says so.
    """
    path = folder / NAME
    file = _taken(path)
    try:
        yield
    finally:
        if file is not None:
            if _is_at(file, path):  # nobody has passed over it
                path.unlink()
            os.close(file)


def _taken(path: Path) -> int | None:
    job = os.environ.get("SLURM_JOB_ID", "")
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process, host, holder = (os.read(file, 1000).decode(errors="replace").split("\n") + ["?", "?"])[:3]
            os.close(file)
            if job and holder == job:
                path.unlink(missing_ok=True)
                continue
            raise InUseError(
                f"the run directory {path.parent} is in use by process {process} on {host}"
                + (f", Slurm job {holder}" if holder.isdigit() else "")
                + ": wait until that ends, or end it, or name another with --output"
            ) from None
        except OSError as error:
            os.close(file)
            path.unlink(missing_ok=True)
            said = f"{path.parent} cannot be locked ({error.strerror}): start one job on it at a time"
            warnings.warn(said, stacklevel=3)
            return None
        if _is_at(file, path):  # else its holder has removed it between open and lock
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n{socket.gethostname()}\n{job}\n".encode())
            return file
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
