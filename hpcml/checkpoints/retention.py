"""How many checkpoints are kept, and which go."""

from __future__ import annotations

import warnings
from pathlib import Path

from hpcml.checkpoints import places
from hpcml.checkpoints.places import Place


class Retention:
    """Keeps the last ``keep`` whole checkpoints in ``folder`` (None: all). Local: rank 0 has it removed.

    Attributes: ``newest``, the last that was written and is whole, older than which some may go (None: nothing goes);
    ``damaged``, those that have all files, some of which failed a checksum: they do not count, and go with those of
    their age.
    """

    def __init__(self, folder: Path, keep: int | None) -> None:
        self.folder, self.keep = folder, keep
        self.newest: Place | None = None
        self.damaged: set[Place] = set()
        self._complete: set[Place] = set()  # they need not be looked into again

    def remove_old(self, spared: Place | None = None) -> None:
        """Remove what is older than the last whole ones, and what is older than the newest and has not all its files.

        ``spared`` is being written. Those after the newest stay: they are there only where somebody went back to an
        older one. What cannot be removed is a warning.
        """
        if self.newest is None:
            return
        kept = 0
        try:
            for place in reversed(places.found(self.folder)):
                if place > self.newest or place == spared:
                    continue
                if kept == self.keep or not self._is_complete(place):
                    places.remove(self.folder / place.name)
                elif place not in self.damaged:
                    kept += 1
        except OSError as error:
            warnings.warn(f"old checkpoints in {self.folder} cannot be removed: {error}", stacklevel=2)

    def _is_complete(self, place: Place) -> bool:
        if place not in self._complete and places.is_whole(self.folder / place.name):
            self._complete.add(place)
        return place in self._complete
