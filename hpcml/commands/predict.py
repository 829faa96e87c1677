"""``hpcml predict``: what a trained model says about a data set."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hpcml.commands.reading import add_reading_arguments, options_of

HELP = "predict the labels of a data set with the model of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_path", metavar="RUN", help="a run directory, or the model.npz in one")
    parser.add_argument("data", metavar="DATA", help="a data set as for train, with or without labels")
    parser.add_argument("--output", metavar="FILE", help="where to write the predictions (default: stdout)")
    parser.add_argument("--proba", action="store_true", help="a table: prediction, probability of each class")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """One prediction per line, in the order of the rows; the accuracy on stderr where the data have labels.

    Collective over all ranks: each predicts its rows, rank 0 writes them."""
    from mpi4py import MPI

    from hpcml import collectives as hc
    from hpcml.data.parts import check_labels
    from hpcml.data.source import read

    comm = MPI.COMM_WORLD
    with hc.all_or_none(comm):
        if comm.rank == 0 and args.output is not None:
            check_output(Path(args.output))
    model, encoding = load_run(args.run_path, comm)
    if args.proba and not hasattr(model, "predict_proba"):
        raise hc.CollectiveError(f"--proba: a {type(model).__name__} has no probabilities; leave it out")
    table = read(args.data, options_of(args), comm, encoding.schema)
    if table.labels is not None:
        check_labels(table, model.classes_)
    with hc.all_or_none(comm):
        X = encoding.encode(table)
    predicted = model.predict(X)
    probabilities = model.predict_proba(X) if args.proba else None
    lines = comm.gather(format_lines(predicted, probabilities))
    with hc.all_or_none(comm):
        if lines is not None:
            header = format_header(model.classes_) if args.proba else ""
            write_lines(args.output, [header, *lines])
    if table.labels is not None:
        accuracy = model.score(X, table.labels)
        if comm.rank == 0:
            print(f"accuracy {accuracy:.4f} on {table.total:,} rows", file=sys.stderr, flush=True)
    return 0


def load_run(run_path: str, comm):
    """The model and the encoding that a run saved. Collective."""
    from hpcml import collectives as hc
    from hpcml import models
    from hpcml.data.encoding import Encoding

    path = Path(run_path)
    with hc.all_or_none(comm):
        if path.is_dir():
            path = path / "model.npz"
        if not path.is_file():
            raise FileNotFoundError(f"no trained model at {path}; a run directory of 'hpcml train' was expected")
        header, arrays = models.read(path)
        saved = (header["metadata"] or {}).get("encoding")
        if saved is None:
            raise ValueError(f"{path}: holds a model without the encoding of its data, which 'hpcml train' saves")
        encoding = Encoding.from_json(saved, arrays["array/mean"], arrays["array/deviation"])
        model = models.load(path, comm=comm)
    return model, encoding


def format_lines(predicted, probabilities) -> str:
    """A line per row: the label, and with probabilities those too, comma-separated."""
    import csv
    import io

    if probabilities is None:
        return "".join(f"{label}\n" for label in predicted.tolist())
    text = io.StringIO()
    rows = zip(predicted.tolist(), probabilities.tolist(), strict=True)
    csv.writer(text, lineterminator="\n").writerows([label, *(f"{p:.6g}" for p in row)] for label, row in rows)
    return text.getvalue()


def format_header(classes) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["prediction", *classes.tolist()])
    return text.getvalue()


def check_output(path: Path) -> None:
    """Raise ValueError where a file cannot be written: to be asked before the work. Local."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"--output {path}: is a folder, or lies in none that can be written to")


def write_lines(output: str | None, texts: list[str]) -> None:
    """To stdout, or to a file that is there whole or not at all. Local, on rank 0."""
    from hpcml.runs.wholefile import whole_file

    if output is None:
        sys.stdout.writelines(texts)
        sys.stdout.flush()
        return
    with whole_file(output) as file:
        file.writelines(text.encode() for text in texts)
