"""The working directory, where runs and checkpoints go: shared by the nodes, and able to keep what is written?"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hpcml.doctor.finding import Finding, error, fine, warning
from hpcml.doctor.place import Facts, Place, World

WAIT_SECONDS = 2.0  # for a file made by another node: NFS keeps what it knows of a folder for a while
SLOW_SYNC = 0.5  # seconds
IN_MEMORY = ("tmpfs", "ramfs")
ELSEWHERE = "cd to a folder that all nodes see (home, project or scratch), or --output there; df . tells where you are"


def look(place: Place) -> Facts:
    """Collective. Each node writes a file; then each looks for the others'."""
    folder = Path.cwd()
    facts: Facts = {"folder": str(folder)}
    first = place.rank in place.firsts
    name = f".hpcml-doctor-{os.getpid()}-{place.rank}"
    try:
        if first:
            facts["kind"] = kind_of(folder)
            facts["free"] = shutil.disk_usage(folder).free
            facts.update(written(folder / name))
    except OSError as caught:
        facts["failed"] = f"{caught.strerror or caught}"
    everyones = [name] if place.comm is None else place.comm.allgather(name if first else None)
    try:
        if first:
            wanted = [other for other in everyones if other and other != name]
            facts["unseen"] = [everyones.index(other) for other in missing(folder, wanted)]
    finally:
        if place.comm is not None:
            place.comm.Barrier()
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    return facts


def written(path: Path) -> Facts:
    """Seconds of an fsync, and whether a rename replaces a file whole. Leaves ``path``. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    path.write_bytes(b"old")
    with open(beside, "wb") as file:
        file.write(b"new" * 1000)
        file.flush()
        start = time.perf_counter()
        os.fsync(file.fileno())
        seconds = time.perf_counter() - start
    os.replace(beside, path)
    return {"sync_seconds": seconds, "renames": path.read_bytes() == b"new" * 1000 and not beside.exists()}


def missing(folder: Path, wanted: list[str]) -> list[str]:
    """Those of the names that do not turn up in the folder."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        there = set(os.listdir(folder))
        absent = [name for name in wanted if name not in there]
        if not absent or time.monotonic() > deadline:
            return absent
        time.sleep(0.1)


def kind_of(folder: Path) -> str:
    """The type of the file system: of the longest mount point that leads there, and the last one on it."""
    found, longest = "unknown", -1
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4].encode().decode("unicode_escape")
        if folder.is_relative_to(point) and len(point) >= longest:
            found, longest = rest.split()[0], len(point)
    return found


def judge(world: World) -> Sequence[Finding]:
    findings: list[Finding] = []
    failed = [(node, f) for node, f in world.first_of_nodes() if "failed" in f]
    for node, facts in failed:
        findings.append(
            error(
                f"{facts['folder']} on {world.host(node)}: {facts['failed']}",
                "no run directory and no checkpoint can be written there",
                ELSEWHERE,
            )
        )
    if failed:
        return findings
    apart = [(node, facts["unseen"]) for node, facts in world.first_of_nodes() if facts["unseen"]]
    folder, kind = world.facts[0]["folder"], world.facts[0]["kind"]
    if apart:
        node, unseen = apart[0]
        findings.append(
            error(
                f"{folder} ({kind}) is each node's own: {world.host(node)} does not see what "
                f"{', '.join(sorted({world.hosts[rank] for rank in unseen}))} writes",
                "checkpoints of several nodes are never whole, and files that one rank writes are missed by the others",
                ELSEWHERE,
            )
        )
    elif kind in IN_MEMORY and len(world.nodes) == 1:
        findings.append(
            warning(f"{folder} is in memory ({kind})", "what runs write is lost when the node restarts", ELSEWHERE)
        )
    if broken := [node for node, facts in world.first_of_nodes() if not facts["renames"]]:
        findings.append(
            error(
                f"renaming a file over another on {world.host(broken[0])} does not replace it",
                "a crash could leave half-written checkpoints and models",
                ELSEWHERE,
            )
        )
    node, seconds = max(((n, f["sync_seconds"]) for n, f in world.first_of_nodes()), key=lambda pair: pair[1])
    if seconds > SLOW_SYNC:
        findings.append(
            warning(
                f"fsync of 3 kB takes {seconds:.1f} s on {world.host(node)}",
                "every checkpoint waits for it on every rank",
                "write to a faster file system, or less often: a larger --checkpoint-steps",
            )
        )
    free = min(facts["free"] for _, facts in world.first_of_nodes())
    if free < 1 << 30:
        findings.append(
            warning(f"{folder} has {free / 1e6:,.0f} MB free", "a full disk ends the writing of checkpoints", ELSEWHERE)
        )
    shared = ", shared by all nodes" if len(world.nodes) > 1 else ""
    told = f"{folder} ({kind}{shared}): rename replaces, fsync {seconds * 1e3:,.1f} ms, {free / 1e9:,.0f} GB free"
    return findings or [fine(told)]
