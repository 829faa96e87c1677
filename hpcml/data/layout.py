"""How a CSV or TSV file is laid out: delimiter, header, kinds of columns, and which column is the label.

Rank 0 finds it out from the file's beginning, and all ranks then read their lines by it.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass

from hpcml.data.share import count_bytes, open_bytes
from hpcml.data.table import Column, DataError, Options, Schema

SAMPLE_NBYTES = 256 << 10
DELIMITERS = (",", "\t", ";")
MISSING = frozenset(("", "?"))


@dataclass(frozen=True)
class Layout:
    """begin: the byte after the header. width: fields per line. fields: for each feature of `schema`, in its
    order, the position of its field in a line. target: the position of the label's field, or None. names: of
    all fields."""

    path: str
    begin: int
    nbytes: int
    delimiter: str
    width: int
    fields: tuple[int, ...]
    target: int | None
    schema: Schema

    names: tuple[str, ...]

    @property
    def number_fields(self) -> list[int]:
        return [field for field, column in zip(self.fields, self.schema.columns, strict=True) if not column.words]

    @property
    def word_fields(self) -> list[int]:
        return [field for field, column in zip(self.fields, self.schema.columns, strict=True) if column.words]


def is_number(field: str) -> bool:
    """Whether a field is written as a number. Python also reads "1_000" as one, which no data file means so."""
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


def find_layout(path: str, options: Options, trained: Schema | None = None) -> Layout:
    """The layout of the file. Local: reads its first 256 KiB.

    trained: the schema of the data that a model was trained on; its columns are then looked for, by name
    where both files have a header and else by position, and a file without the label's column is fine.

    Raises DataError for an empty file, an absent target or feature column, a file of the label alone.
    """
    nbytes = count_bytes(path)
    sample, lines = _sample(path)
    delimiter = options.delimiter or _sniff_delimiter(sample)
    rows = split(sample, delimiter)
    if not rows:
        raise DataError(f"{path}: the file is empty; a CSV file of one row per line was expected")
    expected = {options.target} | {column.name for column in trained.columns} if trained else {options.target}
    has_header = options.header == "yes" or (options.header == "auto" and _looks_like_header(rows, expected))
    width = len(rows[0])
    names = tuple(rows[0]) if has_header else tuple(f"column {i}" for i in range(width))
    body = [row for row in rows[has_header:] if len(row) == width]
    begin = _end_of_first_row(sample, lines) if has_header else 0
    found = Found(path, names, has_header, body)
    fields, target, schema = (
        _choose_columns(found, options) if trained is None else _match_columns(found, options, trained)
    )
    return Layout(path, begin, nbytes, delimiter, width, fields, target, schema, names)


@dataclass(frozen=True)
class Found:
    """What the beginning of a file shows: column names, whether a header gave them, and some rows."""

    path: str
    names: tuple[str, ...]
    named: bool
    rows: list[list[str]]

    def position(self, column: str, role: str) -> int:
        """The position of a column given by name or by number (from 0; negative ones count from the end)."""
        if column in self.names:
            return self.names.index(column)
        if column.lstrip("-").isdigit() and -len(self.names) <= int(column) < len(self.names):
            return int(column) % len(self.names)
        listed = ", ".join(self.names) if self.named else f"0 to {len(self.names) - 1} (there is no header)"
        raise DataError(f"{self.path}: there is no {role} column {column!r}; the file has the columns {listed}")

    def has_words(self, position: int) -> bool:
        """Whether fewer than half of the present fields of a column, in these rows, are numbers."""
        present = [row[position] for row in self.rows if row[position] not in MISSING]
        return 2 * sum(map(is_number, present)) < len(present) or not present


def split(lines: list[str], delimiter: str) -> list[list[str]]:
    """The fields of each line that is not blank, without the blanks around them."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    rows = ([field.strip() for field in row] for row in reader)
    return [row for row in rows if any(row)]


def _sample(path: str) -> tuple[list[str], list[bytes]]:
    """The first lines of the file, as text and as they are."""
    with open_bytes(path) as file:
        head = file.read(SAMPLE_NBYTES)
        if head and not head.endswith(b"\n"):
            head += file.readline()
    return decode(path, 0, head), head.split(b"\n")


def decode(path: str, offset: int, block: bytes) -> list[str]:
    """The lines of a block of UTF-8 text; a byte order mark at the file's beginning is dropped."""
    try:
        text = block.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {offset + error.start} is not UTF-8 text; convert the file (iconv -t UTF-8)"
        ) from None
    return text.split("\n")


def _sniff_delimiter(lines: list[str]) -> str:
    """The delimiter by which most lines have the same number of fields, above one; on a tie, the most fields."""

    def agreement(delimiter: str) -> tuple[int, int]:
        counts = Counter(map(len, split(lines[:100], delimiter)))
        fields, agreeing = counts.most_common(1)[0] if counts else (1, 0)
        return (agreeing, fields) if fields > 1 else (0, 1)

    return max(DELIMITERS, key=agreement)


def _looks_like_header(rows: list[list[str]], expected: set[str | None]) -> bool:
    """The first row holds distinct words, and an expected column name or stands above a column of numbers."""
    first, below = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    if any(is_number(field) or field in MISSING for field in first) or len(set(first)) < len(first):
        return False
    if expected.intersection(first):
        return True
    found = Found("", tuple(first), True, below)
    return any(not found.has_words(position) for position in range(len(first)))


def _end_of_first_row(sample: list[str], lines: list[bytes]) -> int:
    """The byte after the first line that is not blank: where the rows begin below a header."""
    header = next(i for i, line in enumerate(sample) if line.strip())
    return sum(len(line) + 1 for line in lines[: header + 1])


def _choose_columns(found: Found, options: Options) -> tuple[tuple[int, ...], int, Schema]:
    """All columns but the target and the dropped ones are features."""
    target = found.position(options.target if options.target is not None else "-1", "target")
    dropped = {found.position(column, "dropped") for column in options.drop}
    categorical = {found.position(column, "categorical") for column in options.categorical}
    fields = tuple(i for i in range(len(found.names)) if i != target and i not in dropped)
    if not fields:
        raise DataError(
            f"{found.path}: no feature column is left beside the target {found.names[target]!r}; "
            f"the file has {len(found.names)} column(s): is the delimiter the right one?"
        )
    columns = tuple(Column(found.names[i], i in categorical or found.has_words(i)) for i in fields)
    schema = Schema(columns, found.named, len(found.names), fields, target, found.names[target])
    return fields, target, schema


def _match_columns(found: Found, options: Options, trained: Schema) -> tuple[tuple[int, ...], int | None, Schema]:
    """The columns that the model was trained on, in their order; the label's column if the file has it."""
    target = None if options.target is None else found.position(options.target, "target")
    if not (found.named and trained.named):
        return *_match_positions(found, trained, target), trained
    names = [column.name for column in trained.columns]
    if absent := [name for name in names if name not in found.names]:
        raise DataError(
            f"{found.path}: the model was trained with columns that are absent here: "
            f"{', '.join(absent)}; the file has {', '.join(found.names)}"
        )
    if target is None and trained.target_name in found.names:
        target = found.names.index(trained.target_name)
    return tuple(found.names.index(name) for name in names), target, trained


def _match_positions(found: Found, trained: Schema, target: int | None) -> tuple[tuple[int, ...], int | None]:
    """The same without names: a file like the one of the training, the same less its label, or the features
    alone, with or without a label (which then is where it was, or last)."""
    width, features = len(found.names), len(trained.columns)
    if target is None:
        if width == trained.width:
            return trained.fields, trained.target
        if width == trained.width - 1 and trained.target is not None:
            return tuple(field - (field > trained.target) for field in trained.fields), None
        if width == features + 1:
            target = width - 1
    fields = tuple(position for position in range(width) if position != target)
    if len(fields) != features:
        raise DataError(
            f"{found.path}: found {width} columns; the model expects {features} features, "
            f"{trained.width or features + 1} columns with the label"
        )
    return fields, target
