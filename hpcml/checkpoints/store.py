"""A folder of checkpoints: writes them while training goes on, finds the newest that is whole, removes the oldest."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.checkpoints import manifest, places, rankfile
from hpcml.checkpoints.checkpoint import Checkpoint
from hpcml.checkpoints.errors import CheckpointError
from hpcml.checkpoints.manifest import Manifest
from hpcml.checkpoints.parts import Given, Layout, Slice, described, laid_out
from hpcml.checkpoints.places import Place
from hpcml.checkpoints.retention import Retention
from hpcml.checkpoints.sharing import require_shared
from hpcml.checkpoints.staging import Staging, Stored
from hpcml.checkpoints.verification import verified
from hpcml.collectives.errors import ranks_phrase
from hpcml.runs.wholefile import sync_folder


class Store:
    """Checkpoints in ``folder``, which is made where it is not there, written and read by the ranks of ``comm``.

    Every rank calls every method, in the same order. A save copies this rank's part into memory and returns; a thread,
    which does not call MPI, writes the copy. The next save, wait, latest or close raises on every rank what went wrong
    on any.

    Arguments: ``folder``, on a file system that all ranks share; ``comm``, an mpi4py communicator (None:
    MPI.COMM_WORLD); ``keep``, how many whole checkpoints to keep (None: all). Once a newer one is whole, older ones,
    and what older saves that were cut short have left, are removed; files of others never. One store writes to a folder
    at a time.

    Raises CollectiveError on every rank where the folder cannot be written, or is not the same for all ranks.

    Example, on every rank::

        with checkpoints.Store("runs/x/checkpoints", keep=3) as store:
            found = store.latest()
            first = 0
            if found is not None:
                found.read("w", out=w)
                first = found.step
            for step in range(first + 1, steps + 1):
                w -= 0.1 * gradient(w)
                if step % 100 == 0:
                    store.save(step, {"w": w}, {"rate": 0.1})
    """

    def __init__(self, folder: str | os.PathLike[str], comm: MPI.Intracomm | None = None, keep: int | None = 3) -> None:
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self.folder = Path(folder).absolute()
        self.keep = keep
        self._rank = self.comm.rank  # the thread may not ask MPI
        with hc.all_or_none(self.comm):
            if keep is not None and (not isinstance(keep, int) or keep < 1):
                raise ValueError(
                    f"keep is {keep!r}; expected how many checkpoints to keep, at least 1, or None for all"
                )
        require_shared(self.folder, self.comm)
        self._staging = Staging()
        self._described: dict[str, Given] | None = None
        self._layout = Layout({}, [])
        self._under_way: tuple[Place, Future[None]] | None = None
        self._retention = Retention(self.folder, keep)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._open = True

    def save(self, step: int, arrays: Mapping[str, np.ndarray | Slice], facts: dict[str, Any] | None = None) -> None:
        """Copy the state; write it as the checkpoint of ``step`` while the caller goes on. Collective.

        ``arrays``: by name, an array that is the same on every rank, of which each rank writes an even part; or a
        `Slice`, this rank's part of one that is spread over them. Numbers of any dtype that NumPy has, and bfloat16.
        ``facts``: a dict of what JSON holds, the same on every rank: position in the data, random state, rates.

        Waits for the write of the save before, if that is not done. Costs the copy of this rank's part, and some small
        messages. A step may be saved again: the later checkpoint of it counts.

        Raises CollectiveError on every rank: when the save before failed (then nothing is saved; it may be called
        again), when an argument is wrong on some rank or differs between ranks.
        """
        self._settle()
        given: dict[str, Given] = {}
        text = ""
        with hc.all_or_none(self.comm):
            if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 0:
                raise ValueError(f"step is {step!r}; expected a whole number of at least 0")
            given, text = described(arrays), manifest.facts_text({} if facts is None else facts)
        step = int(step)
        self._agree(step, given, text)
        made: Place | None = None
        with hc.all_or_none(self.comm):
            if self._rank == 0:
                made = self._made(step)
            data, pieces = self._staging.copy(self._layout.pieces, arrays)
        place = self.comm.bcast(made)
        known = Manifest(step, self.comm.size, json.loads(text), self._layout.entries)
        self._under_way = place, self._writer.submit(self._write, place, known, data, pieces)

    def wait(self) -> None:
        """Until all that was saved is on disk. Collective. Raises CollectiveError on every rank where it is not."""
        self._settle()
        if self._rank == 0:
            self._retention.remove_old()

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, that of the highest step; None where there is none. Collective.

        The ranks share the reading of all its files, and compare every checksum. One that is not whole is passed over,
        with a warning on rank 0 that names the file and what is wrong with it. Waits for a save that is under way.
        """
        self._settle()
        newest_first: list[Place] = []
        with hc.all_or_none(self.comm):
            if self._rank == 0:
                newest_first = places.found(self.folder)[::-1]
        for place in self.comm.bcast(newest_first):
            try:
                found = verified(self.folder / place.name, self.comm)
            except CheckpointError as error:
                self._retention.damaged.add(place)
                if self._rank == 0:
                    warnings.warn(f"the checkpoint {place.name} is not whole and passed over: {error}", stacklevel=2)
            else:
                self._retention.damaged.discard(place)
                return found
        return None

    def close(self) -> None:
        """Wait, and end the thread. Collective; a second call does nothing. Raises as `wait`."""
        if self._open:
            try:
                self.wait()
            finally:
                self._end_thread()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; after an exception, which this rank may have alone, only finish writing its own part."""
        if kind is None:
            self.close()
        else:
            self._end_thread()

    def _end_thread(self) -> None:
        self._open = False
        self._writer.shutdown()

    def _settle(self) -> None:
        """Wait until the write under way is over on all ranks; raise on all what went wrong on any."""
        if not self._open:
            raise ValueError(f"the store of {self.folder} is closed")
        if self._under_way is None:
            return
        place, future = self._under_way
        self._under_way = None
        try:
            with hc.all_or_none(self.comm):
                future.result()
        except hc.CollectiveError:
            if self._rank == 0:  # the others are done with it
                with suppress(OSError):
                    places.remove(self.folder / place.name)
            raise
        self._retention.newest = place

    def _agree(self, step: int, given: dict[str, Given], text: str) -> None:
        """Raise on every rank unless all save the same; lay out anew what they save where that has changed on any."""
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        said = self.comm.allgather((step, digest, given != self._described))
        for i, what in enumerate(("step", "facts")):
            others = [rank for rank, one in enumerate(said) if one[i] != said[0][i]]
            if others:
                raise hc.MismatchError(f"save: the ranks differ in {what}: {ranks_phrase(others)} from rank 0")
        if any(changed for _, _, changed in said):
            try:
                self._layout = laid_out(self.comm.allgather(given), self._rank)
            except ValueError as error:
                self._described = None
                raise hc.MismatchError(f"save: {error}") from None
            self._described = given

    def _made(self, step: int) -> Place:
        try:
            return places.make(self.folder, step)
        except OSError as error:
            raise CheckpointError(f"nothing can be written to {self.folder}: {error.strerror or error}") from error

    def _write(self, place: Place, known: Manifest, data: np.ndarray, pieces: list[Stored]) -> None:
        """In the thread: everything that this rank writes of a checkpoint. On rank 0 what is old goes first."""
        folder, rank = self.folder / place.name, self._rank
        if rank == 0:
            self._retention.remove_old(spared=place)
        path = places.rank_file(folder, rank, known.ranks)
        try:
            rankfile.write(path, known.step, rank, known.ranks, data, pieces)
            if rank == 0:
                path = folder / manifest.NAME
                manifest.write(folder, known)
                sync_folder(self.folder)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
