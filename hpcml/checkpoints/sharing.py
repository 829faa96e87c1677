"""Whether a folder is the same for all ranks: on a cluster it need not be, even under one name."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from pathlib import Path

from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.checkpoints.errors import CheckpointError

#: A network file system may take a while to show one node what another has written.
APPEARS_WITHIN_SECONDS = 5.0


def require_shared(folder: Path, comm: MPI.Intracomm) -> None:
    """Raise on every rank unless a file that rank 0 writes into the folder is there for all. Makes the folder."""
    name = comm.bcast(f".shared-{secrets.token_hex(8)}")
    token = folder / name
    try:
        with hc.all_or_none(comm):
            if comm.rank == 0:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    token.touch()
                except OSError as error:
                    raise CheckpointError(
                        f"the checkpoint folder {folder} cannot be made or written to: {error.strerror or error}"
                    ) from error
        with hc.all_or_none(comm):
            if not _appears(token):
                raise CheckpointError(
                    f"the checkpoint folder {folder} does not show what rank 0 has written to it: name the same folder "
                    "on all ranks, on a file system that they share"
                )
    finally:
        if comm.rank == 0:
            with suppress(OSError):
                token.unlink()


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + APPEARS_WITHIN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
