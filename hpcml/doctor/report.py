"""Findings as text for a person, and as JSON for a program."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from typing import Any

from hpcml.doctor.examination import Findings
from hpcml.doctor.finding import ERROR, FINE, WARNING

MARKS = {ERROR: "ERROR", WARNING: "warning", FINE: "ok"}
ORDER = (ERROR, WARNING, FINE)
WIDTH = 110


def text(findings: Findings) -> str:
    """Errors first; what is well at the end, a line each."""
    lines = []
    for severity in ORDER:
        for check, finding in findings:
            if finding.severity != severity:
                continue
            lines += _wrapped(f"{MARKS[severity]:8}", f"{check.title}: {finding.what}")
            if finding.severity != FINE:
                lines += _wrapped("        why  ", finding.why) + _wrapped("        fix  ", finding.fix) + [""]
    return "\n".join([*lines, closing(findings)]) + "\n"


def _wrapped(lead: str, said: str) -> list[str]:
    return textwrap.wrap(
        said,
        WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,  # options are to be copied
    )


def closing(findings: Findings) -> str:
    """``2 errors, 1 warning, 9 checks found nothing wrong``."""
    count = Counter(finding.severity for _, finding in findings)
    said = [f"{count[kind]} {kind}{'s' * (count[kind] != 1)}" for kind in (ERROR, WARNING) if count[kind]]
    return ", ".join([*said, f"{count[FINE]} check{'s' * (count[FINE] != 1)} found nothing wrong"])


def as_json(findings: Findings) -> str:
    rows: list[dict[str, Any]] = [
        {"check": check.name, "severity": f.severity, "what": f.what, "why": f.why, "fix": f.fix}
        for check, f in sorted(findings, key=lambda pair: ORDER.index(pair[1].severity))
    ]
    return json.dumps({"findings": rows, "error": any(row["severity"] == ERROR for row in rows)}, indent=2) + "\n"
