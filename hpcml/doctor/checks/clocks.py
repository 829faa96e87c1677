"""Whether the nodes' clocks agree: rank 0 asks each other node for the time, and keeps the quickest answer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hpcml.doctor.finding import Finding, fine, warning
from hpcml.doctor.place import Facts, Place, World

QUESTIONS = 5
#: Seconds. What file systems and logs of a job bear; synchronised clocks differ by milliseconds.
ALLOWED = 0.5
TAG = 77


def look(place: Place) -> Facts:
    """Collective. Cristian's algorithm: the answer was given, within half of the round trip, in its middle."""
    comm, facts = place.comm, Facts(offsets={})
    for first in place.firsts[1:]:
        if place.rank == first:
            for _ in range(QUESTIONS):
                comm.recv(source=0, tag=TAG)
                comm.send(time.time(), dest=0, tag=TAG)
        elif place.rank == 0:
            answers = []
            for _ in range(QUESTIONS):
                asked = time.time()
                comm.send(None, dest=first, tag=TAG)
                answer = comm.recv(source=first, tag=TAG)
                answered = time.time()
                answers.append((answered - asked, answer - (asked + answered) / 2))
            facts["offsets"][place.node_of[first]] = min(answers)
    return facts


def judge(world: World) -> Sequence[Finding]:
    offsets = world.facts[0]["offsets"]
    wrong = {node: off for node, (trip, off) in offsets.items() if abs(off) > ALLOWED + trip}
    findings: list[Finding] = []
    for node, off in wrong.items():
        findings.append(
            warning(
                f"the clock of {world.host(node)} is {abs(off):,.1f} s {'ahead' if off > 0 else 'behind'} of "
                f"{world.host(0)}'s",
                "times in logs and files do not fit together, Kerberos and munge refuse, and time limits are misjudged",
                f"on {world.host(node)}: systemctl restart chronyd (or ntpd); chronyc tracking tells the offset",
            )
        )
    if findings or not offsets:
        return findings or [fine("one node, one clock")]
    return [fine(f"the nodes' clocks agree within {max(abs(o) + t / 2 for t, o in offsets.values()) * 1e3:,.1f} ms")]
