"""How far runs are, by their directories, beside the jobs that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

from hpcml.runs.record import Record
from hpcml.slurm.queue import Entry

COLUMNS = ("job", "name", "state", "epoch", "step", "loss", "rate", "kept", "run")


def rows(jobs: Sequence[Entry], runs: Sequence[Record]) -> list[tuple[str, ...]]:
    """The cells of a table: runs with their jobs, then jobs that have no run."""
    by_number = {entry.number: entry for entry in jobs}
    made: list[tuple[str, ...]] = []
    for run in runs:
        job = run.config.get("slurm_job") or ""
        entry = by_number.pop(job, None)
        state = "complete" if run.summary else entry.state if entry is not None else "ended early"
        if entry is not None and entry.restarts:
            state += f", {entry.restarts} restart{'s' * (entry.restarts > 1)}"
        record = run.metrics[-1] if run.metrics else {}
        made.append(
            (
                job,
                "" if entry is None else entry.name,
                state,
                str(record.get("epoch", "")),
                f"{record['step']:,}" if "step" in record else "",
                f"{record['loss']:.4f}" if "loss" in record else "",
                f"{record['samples_per_second']:,.0f}/s" if "samples_per_second" in record else "",
                f"{run.checkpoints[-1]:,}" if run.checkpoints else "",
                str(run.path),
            )
        )
    made += [(entry.number, entry.name, entry.state, "", "", "", "", "", "") for entry in by_number.values()]
    return made
