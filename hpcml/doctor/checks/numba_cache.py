"""Where Numba keeps what it compiled: can it be written to, and is it the same for all nodes?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hpcml.doctor.checks.storage import kind_of
from hpcml.doctor.finding import Finding, error, fine, warning
from hpcml.doctor.place import Facts, Place, World

SHARED = (
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "fuse.beegfs",
    "cephfs",
    "ceph",
    "panfs",
    "fuse.sshfs",
    "9p",
    "afs",
)
FIX = "export NUMBA_CACHE_DIR=$HOME/.cache/numba, or another folder that can be written to"


def look(place: Place) -> Facts:
    facts: Facts = {"folder": None, "kind": None, "files": 0}
    # What Numba itself would choose for a function of ours: NUMBA_CACHE_DIR, else beside the source, else the user's.
    from numba.core.caching import CompileResultCacheImpl

    import hpcml.short_floats as module  # compiles nothing by itself

    function = next(f.py_func for f in vars(module).values() if hasattr(f, "py_func"))
    try:
        folder = Path(CompileResultCacheImpl(function).locator.get_cache_path())
    except (RuntimeError, OSError):
        return {**facts, "named": os.environ.get("NUMBA_CACHE_DIR")}
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    files = sum(1 for _ in folder.glob("*.nbi")) if folder.is_dir() else 0
    return {"folder": str(folder), "kind": kind_of(existing.resolve()), "files": files}


def judge(world: World) -> Sequence[Finding]:
    without = [rank for rank, facts in enumerate(world.facts) if facts["folder"] is None]
    if without:
        named = world.facts[without[0]].get("named")
        where = f"NUMBA_CACHE_DIR={named}" if named else "neither the installation nor the home directory"
        return [
            error(
                f"Numba has no folder for what it compiles on {world.on(without)}: {where} cannot be written to",
                "hpcml's compiled functions ask for one, and importing hpcml.collectives fails",
                FIX,
            )
        ]
    folder, kind = world.facts[0]["folder"], world.facts[0]["kind"]
    if kind in SHARED and world.size >= 64 and not world.facts[0]["files"]:
        return [
            warning(
                f"{folder} ({kind}) is empty, and {world.size} ranks would fill it at once",
                "all ranks compile the same, and write it to one file server",
                "run hpcml once on one rank first: hpcml verify; or a node-local NUMBA_CACHE_DIR filled by sbcast",
            )
        ]
    return [fine(f"compiled functions are kept in {folder} ({kind})")]
