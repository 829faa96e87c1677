"""Where in the user's program a call was made: the innermost line outside hpcml."""

from __future__ import annotations

import functools
import os
import sys
from types import CodeType, FrameType
from typing import NamedTuple

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


class Site(NamedTuple):
    """A line of a program. Made for each call while sites are recorded, so it is put into words only when asked."""

    code: CodeType
    line: int

    def __str__(self) -> str:
        return f"{_shown(self.code.co_filename)}:{self.line}"


def here() -> Site | None:
    """The line outside hpcml that this thread has come from; None where there is none, as in hpcml's own threads."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _ours(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None else Site(frame.f_code, frame.f_lineno)


def at(site: Site | None) -> str:
    """``" at train.py:80"``, or nothing."""
    return "" if site is None else f" at {site}"


@functools.lru_cache(maxsize=4096)
def _ours(filename: str) -> bool:
    # Code of the interpreter and its standard modules may lie between ours: functools, contextlib, threading.
    return filename.startswith((PACKAGE, "<frozen")) or os.path.dirname(filename) == os.path.dirname(os.__file__)


@functools.lru_cache(maxsize=4096)
def _shown(filename: str) -> str:
    """Relative to the folder that the program runs in, where it lies there."""
    folder = os.path.join(os.getcwd(), "")
    return filename[len(folder) :] if filename.startswith(folder) else filename
