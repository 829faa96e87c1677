"""Whether a training begins, or goes on in a run directory that is there: by what was asked, and what is found."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hpcml.runs.directory import DirectoryError, read_json, refuse_taken

CONFIG = "config.json"
SUMMARY = "summary.json"

#: Arguments that say how a run is watched, kept or found, not what is computed.
FREE = (
    *("resume", "go_on", "output", "progress", "timeline", "checkpoint_steps", "keep", "elastic", "copy_steps"),
    *("metrics", "tensorboard", "alert_command", "alert_webhook"),
)


def earlier_run(args: argparse.Namespace) -> tuple[str, dict[str, Any]] | None:
    """The directory and the configuration of the run that is to go on; None where one begins. Local.

    args: of ``hpcml train``, `completed`. Raises DirectoryError where there is no run to resume, where the directory is
    taken, and, with --continue, where the run that is there has other arguments.
    """
    if args.resume is not None:
        return args.resume, read_json(Path(args.resume) / CONFIG)
    if not args.go_on:
        refuse_taken(args.output)
        return None
    if args.output is None:
        raise DirectoryError("--continue needs --output DIR, the run directory to begin, or to go on in")
    path = Path(args.output)
    if not (path / CONFIG).exists():
        if not is_unused(path):
            refuse_taken(args.output)
        return None
    config = read_json(path / CONFIG)
    given, before = json.loads(json.dumps(vars(args), default=str)), config["arguments"]
    for name in sorted((given.keys() & before.keys()) - set(FREE)):  # of another version there may be others
        if given.get(name) != before.get(name):
            option = "--" + name.replace("_", "-")
            raise DirectoryError(
                f"the run in {path} was begun with {option} {before.get(name)}, now it is {given.get(name)}: "
                "name another --output, or give the same arguments"
            )
    return args.output, config


def is_unused(path: Path) -> bool:
    """Whether it is not there, or was made and no more: by a run that was ended at once."""
    return not path.exists() or (path.is_dir() and all(name.name.startswith(".") for name in path.iterdir()))


def is_complete(path: Path) -> bool:
    return (path / SUMMARY).exists()
