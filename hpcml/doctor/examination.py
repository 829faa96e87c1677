"""Make the checks, one after the other, on all ranks: what goes wrong in one is a finding, and none waits for ever."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from hpcml.doctor.catalogue import CATALOGUE, Check
from hpcml.doctor.finding import Finding, error
from hpcml.doctor.place import Facts, Place, World

Findings = list[tuple[Check, Finding]]
FAILED = "failed to look"  # the key of facts that are none


def examine(comm: Any, patience: float, told: Callable[[Findings], None], checks: Sequence[Check] = CATALOGUE) -> bool:
    """Whether there is an error; rank 0 tells all findings. Collective over ``comm`` (None: no MPI can be used).

    told: called on rank 0, once; before the program ends, if a check takes longer than ``patience`` seconds.
    """
    findings: Findings = []
    with Patience(patience, lambda check, rank: _give_up(check, rank, patience, findings, told)) as patient:
        place = Place.find(comm)
        patient.rank = place.rank
        for check in checks:
            if check.needs_mpi and comm is None:
                continue
            patient.begin(check)
            facts = _looked(check, place)
            everyones = [facts] if comm is None else comm.gather(facts)
            if everyones is not None:
                findings += [
                    (check, finding) for finding in _judged(check, World(place.hosts, place.node_of, everyones))
                ]
        patient.begin(None)
        if place.rank == 0:
            told(findings)
        wrong = any(finding.severity == "error" for _, finding in findings)
        return wrong if comm is None else comm.bcast(wrong)  # nobody leaves before rank 0 has spoken


def _looked(check: Check, place: Place) -> Facts:
    try:
        return check.look(place)
    except Exception as caught:
        return {FAILED: f"{type(caught).__name__}: {caught}"}


def _judged(check: Check, world: World) -> list[Finding]:
    failed = [rank for rank, facts in enumerate(world.facts) if FAILED in facts]
    if failed:
        return [
            _unfinished(check, f"on {world.on(failed)}: {world.facts[failed[0]][FAILED]}"),
        ]
    try:
        return list(check.judge(world))
    except Exception as caught:
        return [_unfinished(check, f"{type(caught).__name__}: {caught}")]


def _unfinished(check: Check, said: str) -> Finding:
    return error(
        f"this could not be looked at {said}",
        "what is wrong there stays unknown",
        f"mend what the message says, or look at the rest by --skip {check.name}",
    )


def _give_up(check: Check | None, rank: int, seconds: float, findings: Findings, told: Callable[[Findings], None]):
    """On the thread of `Patience`: tell what is known, and end this process."""
    doing = "the start" if check is None else f"'{check.name}'"
    print(f"hpcml doctor: rank {rank} on {os.uname().nodename} still waits in {doing}", file=sys.stderr, flush=True)
    if rank == 0:
        finding = error(
            f"{doing} was not over after {seconds:g} s: a message between ranks has not come",
            "a job would hang at the same place until its time limit",
            "see on stderr which ranks wait: a node that is missing there, or its link, is the cause; ping it, and "
            "leave it out by sbatch --exclude; of several networks --mca btl_tcp_if_include IF (Open MPI) "
            "or FI_TCP_IFACE (MPICH) names the one that joins the nodes",
        )
        told([*findings, (check or CATALOGUE[0], finding)])
        time.sleep(1)  # for the others' lines
    else:
        time.sleep(3)  # a launcher ends all at the first that leaves
    sys.stdout.flush()
    os._exit(1)


class Patience:
    """Calls ``end(check, rank)`` on a thread of its own when a check takes more than ``seconds``."""

    def __init__(self, seconds: float, end: Callable[[Check | None, int], None]) -> None:
        self._seconds, self._end = seconds, end
        self.rank = 0
        self._check: Check | None = None
        self._since = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hpcml doctor", daemon=True)

    def begin(self, check: Check | None) -> None:
        self._check, self._since = check, time.monotonic()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            if time.monotonic() - self._since > self._seconds:
                self._end(self._check, self.rank)
                return

    def __enter__(self) -> Patience:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
