"""The arguments that say how a data set is read, which several commands share."""

from __future__ import annotations

import argparse

from hpcml.data.table import Options

# fmt: off


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how the data are read").add_argument
    add("--target", metavar="COLUMN",
        help="the label's column, by name or number from 0 (default: the last); for .npz the array")
    add("--labels", metavar="FILE", help="the file of labels for .npy and idx, if not found beside the data")
    add("--header", choices=("auto", "yes", "no"), default="auto",
        help="whether the first line of a CSV file names the columns (default: find out)")
    add("--delimiter", type=delimiter, metavar="CHARACTER",
        help="of a CSV file, or 'tab' (default: find out among comma, semicolon and tab)")
    add("--categorical", metavar="COLUMNS", type=columns, default=(),
        help="columns of numbers that are categories, comma-separated")
    add("--drop", metavar="COLUMNS", type=columns, default=(), help="columns to leave out, comma-separated")


# fmt: on


def columns(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def delimiter(text: str) -> str:
    character = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"found {text!r}, expected one character, or 'tab'")
    return character


def options_of(args: argparse.Namespace) -> Options:
    return Options(args.target, args.labels, args.header, args.delimiter, args.categorical, args.drop)
