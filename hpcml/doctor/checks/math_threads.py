"""Threads of BLAS, OpenMP and Numba against the cores that ranks have."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpcml.doctor.finding import Finding, fine, warning
from hpcml.doctor.place import Facts, Place, World

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def look(place: Place) -> Facts:
    cpus = sorted(os.sched_getaffinity(0))
    set_ = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    numbers = [int(value) for name, value in set_.items() if value.isdigit() and name != "NUMBA_NUM_THREADS"]
    threads = max(numbers) if numbers else len(cpus)
    try:
        import numpy  # noqa: F401
        from threadpoolctl import threadpool_info

        pools = [pool["num_threads"] for pool in threadpool_info()]
        threads = max(pools, default=threads)
    except ImportError:
        pass
    return {"cpus": cpus, "threads": threads, "set": set_}


def judge(world: World) -> Sequence[Finding]:
    findings = []
    for node, ranks in enumerate(world.nodes):
        cores = set().union(*(world.facts[rank]["cpus"] for rank in ranks))
        running = sum(world.facts[rank]["threads"] for rank in ranks)
        if running <= max(len(cores), len(ranks)):
            continue
        fitting = max(1, len(cores) // len(ranks))
        asked = any(world.facts[rank]["set"] for rank in ranks)
        most = max(world.facts[rank]["threads"] for rank in ranks)
        findings.append(
            warning(
                f"{len(ranks)} rank{'s' * (len(ranks) > 1)} on {world.host(node)} with {most} thread"
                f"{'s' * (most > 1)} of BLAS each, on {len(cores)} core{'s' * (len(cores) > 1)}",
                "threads that want the same core stop one another"
                + ("" if asked else "; hpcml.models share cores out by themselves, code of your own does not"),
                f"export OMP_NUM_THREADS={fitting} OPENBLAS_NUM_THREADS={fitting} MKL_NUM_THREADS={fitting}, which is "
                "cores / ranks",
            )
        )
    if findings:
        return findings
    threads = sorted({facts["threads"] for facts in world.facts})
    return [fine(f"{'-'.join(map(str, threads))} thread{'s' * (threads[-1] > 1)} of BLAS per rank, within its cores")]
