"""Arguments that say how a training is watched. They change nothing of what is computed."""

from __future__ import annotations

import argparse

#: Their names: a run that goes on takes them as they are given then.
NAMES = ("metrics", "tensorboard", "alert_command", "alert_webhook")


def add_watching_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the watch").add_argument
    add(
        "--metrics",
        type=where,
        metavar="WHERE",
        help="figures for Prometheus: PORT (for this machine alone) or HOST:PORT serves them at /metrics; FILE.prom is "
        "for the node exporter",
    )
    add("--tensorboard", action="store_true", help="figures for TensorBoard, in DIR/tensorboard")
    add(
        "--alert-command",
        type=command_line,
        metavar="COMMAND",
        help="run it, without a shell, with an alert as JSON on stdin: the loss is NaN or diverges, samples per second "
        "drop, a rank lags, the disk fills, the time limit is near",
    )
    add("--alert-webhook", type=web_address, metavar="URL", help="post alerts there as JSON")


def where(text: str) -> str:
    """A type for argparse, as the two below: the text itself, which is kept with the run, if it will do."""
    from hpcml.runs.prometheus import target

    try:
        target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def command_line(text: str) -> str:
    """Words that a shell would take, one at least."""
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}: {error}") from None
    if not words:
        raise argparse.ArgumentTypeError("found no word, expected a program and its arguments")
    return text


def web_address(text: str) -> str:
    """http or https; no file."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an address that begins with http:// or https://")
    return text
