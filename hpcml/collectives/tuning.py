"""The table that `hpcml tune` writes: how long each algorithm of each collective took on this machine, by size.

One JSON file for an MPI library, a number of ranks and a number of nodes, in ``$HPCML_TUNING``, else
``$XDG_CACHE_HOME/hpcml/tuning``, else ``~/.cache/hpcml/tuning``.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

FORMAT = "hpcml-tuning-1"
NATIVE_MARGIN = 0.97  # the library's own has to be faster than this times ours: it makes no progress by itself

Times = dict[int, dict[str, float]]  # bytes to algorithm to seconds


@dataclass(frozen=True)
class Tuning:
    """Seconds of started plans: ``seconds[collective][nbytes][algorithm]``, medians of the slowest rank."""

    path: str
    seconds: dict[str, Times]

    def ranking(self, collective: str, nbytes: int) -> list[tuple[float, str]]:
        """(seconds, algorithm) at that size, the fastest first; empty where the collective was not measured.

        Between two measured sizes times are interpolated, both axes logarithmic; beyond them the nearest size decides
        the order, and times grow with the bytes.
        """
        times = self.seconds.get(collective, {})
        sizes = sorted(times)
        if not sizes:
            return []
        below = max((s for s in sizes if s <= nbytes), default=sizes[0])
        above = min((s for s in sizes if s >= nbytes), default=sizes[-1])
        found = []
        for name in times[below].keys() & times[above].keys():
            low, high = times[below][name], times[above][name]
            if below == above:
                seconds = low * max(1.0, nbytes / below) if below and nbytes > below else low
            else:
                share = math.log(max(nbytes, 1) / max(below, 1)) / math.log(above / max(below, 1))
                seconds = low ** (1 - share) * high**share
            found.append((seconds, name))
        return sorted(found, key=lambda entry: (entry[0] / (NATIVE_MARGIN if entry[1] == "native" else 1), entry[1]))


def folder() -> Path:
    """Where the tables of this user are."""
    if named := os.environ.get("HPCML_TUNING"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "hpcml" / "tuning"


def path_of(library: str, ranks: int, nodes: int) -> Path:
    """The file for that MPI library and number of ranks and nodes."""
    return folder() / f"{library}-{ranks}-ranks-{nodes}-nodes.json"


def read(library: str, ranks: int, nodes: int) -> Tuning | None:
    """The table for such a machine, None where there is none. A file that cannot be read is a warning."""
    try:
        path = path_of(library, ranks, nodes)
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    except OSError as error:
        warnings.warn(f"the tuning table cannot be read, so it is not used: {error}", stacklevel=2)
        return None
    try:
        return parsed(text, str(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"{path} is no tuning table ({error}), so it is not used: write it anew with 'hpcml tune', or remove it",
            stacklevel=2,
        )
        return None


def parsed(text: str, path: str) -> Tuning:
    """The table in a file's text. Raises ValueError and its like where it is none."""
    header = json.loads(text)
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}, expected {FORMAT!r}")
    seconds = {
        collective: {
            int(nbytes): {str(name): float(taken) for name, taken in times.items() if float(taken) > 0}
            for nbytes, times in by_size.items()
        }
        for collective, by_size in header["seconds"].items()
    }
    return Tuning(path, seconds)


def text_of(library: str, ranks: int, nodes: int, seconds: dict[str, Times]) -> str:
    """A table as the text of a file."""
    header = {"format": FORMAT, "library": library, "ranks": ranks, "nodes": nodes, "seconds": seconds}
    return json.dumps(header, indent=1) + "\n"
