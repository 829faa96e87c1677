"""NumPy files: ``.npy`` and ``.npz`` of a matrix of features and an array of labels, memory-mapped where
possible.

A compressed ``.npz`` cannot be mapped: every rank decompresses it up to its last row, and keeps its own rows
alone.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.labels import number_labels, settle_labels
from hpcml.data.share import share
from hpcml.data.table import Column, DataError, Options, Schema, Table, Words

FEATURE_NAMES = ("X", "x", "data", "x_train", "X_train", "features")
LABEL_NAMES = ("y", "Y", "target", "y_train", "labels")

Rows = Callable[[int, int], np.ndarray]


def read_arrays(path: str, options: Options, comm: MPI.Comm, trained: Schema | None = None) -> Table:
    """This rank's rows of a NumPy file. Collective.

    ``.npz``: the arrays X and y (or data and target, ...). ``.npy``: the features; the labels are in
    ``options.labels`` or in the file beside it with y in place of X in its name, and else in the target
    column.

    Raises CollectiveError for an absent array, a wrong shape or dtype, numbers that are not finite.
    """
    with hc.all_or_none(comm):
        (total, width), rows, labels_of = open_arrays(path, options)
        start, stop = share(total, comm.rank, comm.size)
        numbers, found = rows(start, stop), None
        if not np.isfinite(numbers).all():
            row, column = np.argwhere(~np.isfinite(numbers))[0]
            raise DataError(
                f"{path}: row {start + row}, column {column} holds {numbers[row, column]}, "
                "where a finite number was expected; remove the row or fill the value in"
            )
        expected = None if trained is None else len(trained.columns)
        target: int | None = None
        if labels_of is not None:
            found = _as_labels(labels_of(start, stop), path)
        elif expected is None or width == expected + 1:
            target = _target(path, options, width, trained)
            found = number_labels(numbers[:, target])
            numbers = np.delete(numbers, target, axis=1)
        if total == 0 or numbers.shape[1] == 0:
            raise DataError(f"{path}: shape {(total, width)} leaves no row or no feature")
        if expected is not None and numbers.shape[1] != expected:
            raise DataError(f"{path}: rows of {numbers.shape[1]} features, the model expects {expected}")
    columns = tuple(Column(f"column {i}") for i in range(width) if i != target)
    return Table(
        source=path,
        schema=trained or Schema(columns, target=target),
        numbers=numbers,
        words=(),
        labels=settle_labels(found, comm, path),
        first=start,
        total=total,
    )


def open_arrays(path: str, options: Options) -> tuple[tuple[int, int], Rows, Rows | None]:
    """The shape of the features, and what reads a range of their rows, each flattened, and of the labels
    (None: they are a column of the features)."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
        features = next((name for name in FEATURE_NAMES if name in held), None)
        if features is None:
            raise DataError(f"{path}: holds the arrays {', '.join(held)}; an array X of features was expected")
        shape, rows = open_member(path, features, "biuf")
        wanted = LABEL_NAMES if options.target is None else (options.target,)
        labels = next((name for name in wanted if name in held), None)
        if options.target is not None and labels is None:
            raise DataError(f"{path}: there is no target array {options.target!r}; it holds {', '.join(held)}")
        label_file = open_member(path, labels, "biufUS") if labels is not None else None
    else:
        shape, rows = open_npy(path, "biuf")
        beside = options.labels or (labels_beside(path) if options.target is None else None)
        label_file = open_npy(beside, "biufUS") if beside is not None else None
    if len(shape) < 2:
        raise DataError(f"{path}: the features have shape {shape}; (rows, features) was expected")
    if label_file is not None and label_file[0] != shape[:1]:
        raise DataError(f"{path}: the labels have shape {label_file[0]}; {shape[:1]}, one per row, was expected")
    width = int(np.prod(shape[1:]))

    def flat(start: int, stop: int) -> np.ndarray:
        return rows(start, stop).reshape(stop - start, width)

    return (shape[0], width), flat, label_file[1] if label_file is not None else None


def labels_beside(path: str) -> str | None:
    """``y.npy`` beside ``X.npy``, ``train_y.npy`` beside ``train_X.npy``; None if there is none."""
    folder, name = os.path.split(path)
    for upper, lower in (("X", "y"), ("x", "y")):
        found = os.path.join(folder, name.replace(upper, lower, 1))
        if upper in name and os.path.isfile(found):
            return found
    return None


def open_npy(path: str, kinds: str) -> tuple[tuple[int, ...], Rows]:
    """The shape of a ``.npy`` file's array, and what copies a range of its rows out of the mapped file.
    kinds: the kinds of dtype that will do."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not a .npy file of numbers: {error}") from None
    _check_dtype(path, mapped.dtype, kinds)
    return mapped.shape, lambda start, stop: np.array(mapped[start:stop])


def open_member(path: str, name: str, kinds: str) -> tuple[tuple[int, ...], Rows]:
    """The same for one array of a ``.npz`` archive."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        shape, column_major, dtype = _read_array_header(file)
        _check_dtype(f"{path}, array {name}", dtype, kinds)
        header_nbytes = file.tell()
        entry = archive.getinfo(f"{name}.npy")
    if column_major and len(shape) > 1:

        def whole(start: int, stop: int) -> np.ndarray:
            # Its rows are spread over the whole array.
            with np.load(path, allow_pickle=False) as archive:
                return np.ascontiguousarray(archive[name][start:stop])

        return shape, whole

    row_nbytes = dtype.itemsize * int(np.prod(shape[1:]))

    def rows(start: int, stop: int) -> np.ndarray:
        own = (stop - start, *shape[1:])
        if entry.compress_type == zipfile.ZIP_STORED:
            # The local header repeats name and extra field, whose lengths stand at its bytes 26 and 28.
            with open(path, "rb") as file:
                file.seek(entry.header_offset + 26)
                name_nbytes, extra_nbytes = np.frombuffer(file.read(4), "<u2").tolist()
            begin = entry.header_offset + 30 + name_nbytes + extra_nbytes + header_nbytes
            if 0 in own:
                return np.empty(own, dtype)
            return np.array(np.memmap(path, dtype, "r", begin + start * row_nbytes, own))
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            file.seek(header_nbytes + start * row_nbytes)
            return np.frombuffer(file.read((stop - start) * row_nbytes), dtype).reshape(own)

    return shape, rows


def _read_array_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _check_dtype(path: str, dtype: np.dtype, kinds: str) -> None:
    if dtype.kind not in kinds:
        allowed = "numbers or strings" if "U" in kinds else "numbers"
        raise DataError(f"{path}: has dtype {dtype}; {allowed} were expected")


def _target(path: str, options: Options, width: int, trained: Schema | None) -> int:
    """The column of the labels, by number; the last one if none is given."""
    if options.target is None and trained is not None and trained.target is not None:
        return trained.target
    given = "-1" if options.target is None else options.target
    if not given.lstrip("-").isdigit() or not -width <= int(given) < width:
        raise DataError(f"{path}: there is no target column {given!r}; the file has the columns 0 to {width - 1}")
    return int(given) % width


def _as_labels(labels: np.ndarray, path: str) -> Words:
    if labels.dtype.kind in "US":
        distinct, codes = np.unique(labels.astype(str), return_inverse=True)
        return Words(codes.astype(np.int32), tuple(distinct.tolist()))
    return number_labels(labels)
