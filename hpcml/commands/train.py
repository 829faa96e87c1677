"""``hpcml train``: from a data set to a run directory with a trained model."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hpcml.commands.reading import add_reading_arguments, options_of
from hpcml.commands.settings import (
    TREES,
    add_data_arguments,
    add_model_arguments,
    add_output_arguments,
    build_model,
    completed,
)
from hpcml.commands.watching import NAMES as WATCHING
from hpcml.commands.watching import add_watching_arguments
from hpcml.runs.followers import followers

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcml.data.parts import Parts
    from hpcml.runs.interruption import Interruption
    from hpcml.runs.recovery import Recovery

HELP = "train a classifier on a data set, over all ranks"
TIME = "%Y-%m-%dT%H:%M:%S%z"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    add_reading_arguments(parser)
    add_model_arguments(parser)
    add_output_arguments(parser)
    add_watching_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train, judge, save. Collective over all ranks; every one returns the same status, or raises.

    Where ranks can outlive the death of another, those that are left do it again, from where the training was.
    """
    from mpi4py import MPI

    from hpcml import collectives as hc
    from hpcml.checkpoints import Neighbours
    from hpcml.collectives.failures import survivable
    from hpcml.runs.earlier import earlier_run, is_complete
    from hpcml.runs.interruption import Interruption
    from hpcml.runs.recovery import Recovery

    comm = MPI.COMM_WORLD
    earlier: tuple[str, dict] | None = None
    complete = False
    with hc.all_or_none(comm):
        if comm.rank == 0:
            earlier = earlier_run(args if args.resume else completed(args))
            complete = args.go_on and earlier is not None and is_complete(Path(earlier[0]))
    earlier, complete = comm.bcast((earlier, complete))
    if complete:
        if comm.rank == 0:
            print(f"the run in {args.output} is complete: there is nothing to go on with", flush=True)
        return 0
    there, config = earlier if earlier is not None else (None, {})
    if config:
        own = {name: getattr(args, name) for name in ("go_on", "progress", "elastic", "copy_steps", *WATCHING)}
        args = argparse.Namespace(**{**config["arguments"], **own, "resume": there})
    args = completed(args)
    elastic = survivable() if args.elastic is None else args.elastic
    if elastic and not survivable():
        raise hc.CollectiveError(
            "--elastic: here all ranks are ended when one dies; it takes Open MPI, and 'mpiexec --with-ft ulfm …'"
        )
    status = 0
    with Interruption(keeps=not args.exact) as interruption, ExitStack() as stack:
        if not elastic:
            return train_once(args, config, comm, Recovery(stack, None), interruption)
        recovery = Recovery(stack, Neighbours(args.copy_steps))
        for attempt in hc.resilient():
            with attempt as living:
                recovery.attempt = attempt
                status = train_once(args, config, living, recovery, interruption)
    return status


def train_once(
    args: argparse.Namespace, config: dict, comm: MPI.Intracomm, recovery: Recovery, interruption: Interruption
) -> int:
    """Train, judge, save, on the ranks of ``comm``; go on from where those were that are left of others.

    config: of the run that goes on; empty where one begins.
    """
    from hpcml import collectives as hc
    from hpcml.data.parts import load_parts
    from hpcml.models.resuming import Checkpoints
    from hpcml.runs.directory import write_json
    from hpcml.runs.earlier import CONFIG
    from hpcml.runs.interruption import STATUS, Interrupted
    from hpcml.runs.monitor import Monitor
    from hpcml.runs.progress import choose_display
    from hpcml.runs.timeline import Timeline
    from hpcml.runs.world import describe_world

    again = recovery.attempt is not None and recovery.attempt.number > 0
    started = time.perf_counter()
    parts = load_parts(
        args.data,
        options_of(args),
        comm,
        seed=args.seed,
        validation=args.validation,
        test=args.test,
        test_source=args.test_data,
        scale=args.scale,
        exact=args.reproducible is not None,
        coded=args.model in TREES,
    )
    model = build_model(args, parts.training.total, comm, parts.encoding.codes)
    world = describe_world(comm)
    reading_seconds = time.perf_counter() - started
    classes = sorted(set().union(*comm.allgather(set(parts.training.y.tolist()))))
    first = comm.rank == 0
    label = f"{args.model}-{Path(args.data).name.split('.')[0]}"
    path = recovery.directory(args.resume if config else None, args.output, label, comm, args.go_on)
    with hc.all_or_none(comm):
        if first:
            recovery.lock()
            if not (again and (path / CONFIG).exists()):
                this = {"time": time.strftime(TIME), "ranks": comm.size}
                resumed = {**config, "resumed": [*config.get("resumed", []), this]}
                write_json(path / CONFIG, resumed if config else configuration(args, model, parts, classes, world))
        display = choose_display(args.progress, args.epochs, sys.stderr) if first else None
        watching = [recovery.teller(comm.size), *followers(args, path, comm.size)] if first else []
        monitor = Monitor(path / "metrics.jsonl" if first else None, *watching, display)
    validation = parts.validation and (parts.validation.X, parts.validation.y)
    checkpoints = Checkpoints(
        path / "checkpoints", args.checkpoint_steps, args.keep, interruption, recovery.copies, recovery.goes_on
    )
    timeline = Timeline(comm) if args.timeline else None
    note = timeline.note if timeline else None
    more = {} if args.exact else {"checkpoints": checkpoints, "note": note}
    try:
        with monitor:
            model.fit(parts.training.X, parts.training.y, validation=validation, monitor=monitor, **more)
    except Interrupted as ended:
        reason = interruption.said(comm)  # collective; also, none leaves before all are here
        if first:
            print(interrupted(reason, ended.step, path), file=sys.stderr, flush=True)
        comm.barrier()
        return STATUS
    if timeline is not None:
        timeline.write(Path(args.timeline))
    accuracy = model.score(parts.test.X, parts.test.y) if parts.test else None
    summary = {
        "test_accuracy": accuracy,
        "test_rows": parts.test.total if parts.test else 0,
        "validation_accuracy": model.history_[-1].get("validation_accuracy"),
        "training_accuracy": model.history_[-1]["accuracy"],
        "reading_seconds": reading_seconds,
        "training_seconds": sum(record["seconds"] for record in model.history_),
        **totals(model.history_),
    }
    with hc.all_or_none(comm):
        if first:
            save_run(path, model, parts, args, summary)
    if first:
        print(closing(summary, found(args, parts, classes), path, comm.size), flush=True)
    return 0


def configuration(args: argparse.Namespace, model, parts: Parts, classes: list, world: dict) -> dict:
    """What it takes to do the run again."""
    return {
        "started": time.strftime(TIME),
        "arguments": vars(args),
        "model": {name: value for name, value in model.get_params().items() if name != "comm"},
        "data": {
            "training_rows": parts.training.total,
            "validation_rows": parts.validation.total if parts.validation else 0,
            "test_rows": parts.test.total if parts.test else 0,
            "features": parts.encoding.width,
            "columns": [column.name for column in parts.encoding.schema.columns],
            "target": parts.encoding.schema.target_name,
            "classes": classes,
        },
        **world,
    }


def save_run(path: Path, model, parts: Parts, args: argparse.Namespace, summary: dict) -> None:
    """Write the model with its encoding, the summary and the plot. Local, on rank 0."""
    from hpcml import models
    from hpcml.runs.curves import draw_curves
    from hpcml.runs.directory import checksum, write_json
    from hpcml.runs.importances import draw_importances

    encoding = parts.encoding
    models.save(
        path / "model.npz",
        model,
        metadata={"encoding": encoding.as_json()},
        arrays={"mean": encoding.mean, "deviation": encoding.deviation},
    )
    write_json(path / "summary.json", {**summary, "model_sha256": checksum(path / "model.npz")})
    title = f"{args.model} on {Path(args.data).name}, {args.optimizer or type(model).__name__}"
    try:
        if hasattr(model, "feature_importances_"):
            draw_importances(path / "importances.png", encoding.names, model.feature_importances_, title)
        draw_curves(path / "curves.png", model.history_, title, summary["test_accuracy"])
    except ImportError:
        print("hpcml: no plot without matplotlib: pip install 'hpcml[train]'", file=sys.stderr)


def totals(history: list[dict]) -> dict[str, float]:
    """Seconds of all steps, mean over the ranks, and the share of communication that was hidden."""
    names = ("compute_seconds", "communication_seconds", "bound_seconds")
    sums = {name: sum(record.get(name, 0.0) for record in history) for name in names}
    return {**sums, "hidden": sum(record.get("hidden", 0.0) for record in history) / len(history)}


def communication(summary: dict) -> str:
    """``0.49 s of waiting (12%), 85% of it hidden behind computing; 0.31 s at least, by the model``."""
    waiting, seconds, hidden = summary["communication_seconds"], summary["training_seconds"], summary["hidden"]
    text = f"{waiting:.2f} s of waiting" + (f" ({waiting / seconds:.0%})" if seconds > 0 else "")
    if hidden:
        text += f", {hidden:.0%} of communication hidden behind computing"
    return text + (f"; bound {summary['bound_seconds']:.2f} s" if summary["bound_seconds"] else "")


def found(args: argparse.Namespace, parts: Parts, classes: list) -> str:
    """What was found in the data: the features, the classes, how many rows for what."""
    rows = [f"{parts.training.total:,} rows to train on"]
    rows += [f"{part.total:,} to {use}" for part, use in ((parts.validation, "validate"), (parts.test, "test")) if part]
    target = parts.encoding.schema.target_name
    labels = f"{len(classes)} classes" + (f" in {target!r}" if target else "")
    return f"{args.data}: {labels}, {parts.encoding.width} features; {', '.join(rows)}"


def interrupted(reason: str, step: int, path: Path) -> str:
    """What an end before the end has kept, and how to go on."""
    return (
        f"hpcml: asked to end by {reason}: all {step} steps so far are kept in {path / 'checkpoints'}; "
        f"go on by 'hpcml train --resume {shlex.quote(str(path))}' (exit status 75)"
    )


def closing(summary: dict, data: str, path: Path, ranks: int) -> str:
    """The closing lines: the data, accuracy, time, communication, and where everything is."""
    rows = [("data", data)]
    if summary["test_accuracy"] is not None:
        rows.append(("test accuracy", f"{summary['test_accuracy']:.4f} on {summary['test_rows']:,} held-out rows"))
    if summary["validation_accuracy"] is not None:
        rows.append(("validation accuracy", f"{summary['validation_accuracy']:.4f}"))
    seconds = summary["training_seconds"]
    world = f"{ranks} rank{'s' * (ranks > 1)}"
    rows.append(
        ("training time", f"{seconds:.2f} s on {world}, after {summary['reading_seconds']:.2f} s of setting up")
    )
    if summary["compute_seconds"]:
        rows.append(("computing", f"{summary['compute_seconds']:.2f} s"))
        rows.append(("communication", communication(summary)))
    rows.append(("run directory", str(path)))
    return "\n".join(f"{name:20}{text}" for name, text in rows)
