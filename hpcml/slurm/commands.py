"""Slurm's own programs, called with lists of words, never by a shell."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


class SlurmError(ValueError):
    """A program of Slurm is not there, or does not do what it was asked."""


def asked(*words: str, among: Sequence[int] = (0,)) -> str:
    """What the program prints, stdout and stderr. Raises SlurmError, with its words, where its status is another."""
    try:
        ran = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no {words[0]} here: is this a node of a Slurm cluster?") from None
    if ran.returncode not in among:
        raise SlurmError(f"{' '.join(words)} ended with status {ran.returncode}: {ran.stdout.strip()}")
    return ran.stdout
