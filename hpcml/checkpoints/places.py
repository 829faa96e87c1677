"""The folders of checkpoints in a store: their names, what is in them, and their removal."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import NamedTuple

from hpcml.checkpoints import manifest, rankfile
from hpcml.checkpoints.errors import CheckpointError

FOLDER = re.compile(r"step-(\d{10,})(?:-(\d+))?")
# A file of ours, or what a process that was killed left of one.
OURS = re.compile(r"manifest\.json|rank-\d{5,}-of-\d{5,}\.bin|\.(?:manifest\.json|rank-\d{5,}-of-\d{5,}\.bin)\.\d+")


class Place(NamedTuple):
    """A checkpoint's folder; ``attempt``, from 1, tells those of one step apart. Places are ordered, oldest first."""

    step: int
    attempt: int

    @property
    def name(self) -> str:
        return f"step-{self.step:010d}" + (f"-{self.attempt}" if self.attempt > 1 else "")


def rank_file(folder: Path, rank: int, ranks: int) -> Path:
    return folder / f"rank-{rank:05d}-of-{ranks:05d}.bin"


def found(store: Path) -> list[Place]:
    """The places in a store, whole or not, oldest first. Raises OSError."""
    places = []
    for path in store.iterdir():
        if (match := FOLDER.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            place = Place(int(match[1]), int(match[2] or 1))
            if place.name == path.name:
                places.append(place)
    return sorted(places)


def make(store: Path, step: int) -> Place:
    """A new folder for that step. Nothing is ever written into one that was there before. Raises OSError."""
    attempt = max((place.attempt for place in found(store) if place.step == step), default=0)
    while True:
        attempt += 1
        place = Place(step, attempt)
        try:
            (store / place.name).mkdir()
        except FileExistsError:
            continue
        return place


def check_index(index: rankfile.Index, path: Path, rank: int, whole: manifest.Manifest) -> None:
    """Raise CheckpointError unless the file is that rank's of this checkpoint."""
    if (index.step, index.rank, index.ranks) != (whole.step, rank, whole.ranks):
        raise CheckpointError(
            f"{path} belongs elsewhere: it is that of rank {index.rank} of {index.ranks} at step {index.step}"
        )


def is_whole(folder: Path) -> bool:
    """Whether manifest and files are all there and in order, as far as the files' indexes tell. Raises OSError."""
    try:
        known = manifest.read(folder)
        for rank in range(known.ranks):
            path = rank_file(folder, rank, known.ranks)
            check_index(rankfile.read_index(path), path, rank, known)
    except (CheckpointError, FileNotFoundError):
        return False
    return True


def remove(folder: Path) -> None:
    """Remove our files, the manifest first, and then the folder unless it holds something else. Raises OSError."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name != manifest.NAME):
        if OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
