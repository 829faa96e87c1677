"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, FINE = "error", "warning", "fine"


@dataclass(frozen=True)
class Finding:
    """severity: "error" (the job will fail, or do what nobody wants), "warning" (it will be slow or fragile), "fine".

    what: was found. why: it matters. fix: what to type or change. The latter two are empty where all is well.
    """

    severity: str
    what: str
    why: str = ""
    fix: str = ""


def error(what: str, why: str, fix: str) -> Finding:
    return Finding(ERROR, what, why, fix)


def warning(what: str, why: str, fix: str) -> Finding:
    return Finding(WARNING, what, why, fix)


def fine(what: str) -> Finding:
    return Finding(FINE, what)
