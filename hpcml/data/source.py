"""What `--data` names: a data set that ships with scikit-learn, or a file, whose format its content tells."""

from __future__ import annotations

import os

from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.arrays import read_arrays
from hpcml.data.delimited import read_delimited
from hpcml.data.idx import is_idx, read_idx
from hpcml.data.libsvm import is_libsvm, read_libsvm
from hpcml.data.named import NAMES, read_named
from hpcml.data.share import open_bytes
from hpcml.data.table import DataError, Options, Schema, Table


def read(source: str, options: Options, comm: MPI.Comm, trained: Schema | None = None) -> Table:
    """This rank's rows of a data set. Collective: every rank gets its table, or the same CollectiveError.

    source: one of `NAMES`, or the path of a CSV, TSV, ``.npy``, ``.npz``, LIBSVM or idx file (text and idx
    may be gzip-compressed). trained: the schema of the data that a model was trained on, which this one has
    to match.
    """
    if source in NAMES:
        return read_named(source, comm, trained)
    with hc.all_or_none(comm):
        kind = detect(source)
    kind = comm.bcast(kind)
    if kind == "array":
        return read_arrays(source, options, comm, trained)
    if kind == "idx":
        return read_idx(source, options, comm, trained)
    if kind == "libsvm":
        return read_libsvm(source, comm, trained)
    return read_delimited(source, options, comm, trained)


def detect(path: str) -> str:
    """The format of a file by its first bytes: "array", "idx", "libsvm" or else "delimited". Local.

    Raises DataError for a file that is missing, a folder, unreadable, empty, or binary of no format known
    here.
    """
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder; a file, or one of {', '.join(NAMES)}, was expected")
    try:
        with open_bytes(path) as file:
            head = file.read(64 << 10)
    except FileNotFoundError:
        raise DataError(f"no data file {path!r}; a path, or one of {', '.join(NAMES)}, was expected") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not head.strip():
        raise DataError(f"{path}: the file is empty")
    if head.startswith((b"\x93NUMPY", b"PK\x03\x04")):
        return "array"
    if is_idx(head):
        return "idx"
    if b"\0" in head:
        raise DataError(
            f"{path}: is binary, of a format not known here; CSV, TSV, LIBSVM, .npy, .npz or idx was expected"
        )
    return "libsvm" if is_libsvm(head) else "delimited"
