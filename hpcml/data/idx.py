"""The idx format of MNIST: a magic number, the dimensions, then the bytes of an array; often gzip-compressed.

Format: http://yann.lecun.com/exdb/mnist ("THE IDX FILE FORMAT"). Big-endian: two zero bytes, a type code, the
number of dimensions, then the dimensions as 32-bit integers.
"""

from __future__ import annotations

import os

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data.labels import number_labels, settle_labels
from hpcml.data.share import open_bytes, share
from hpcml.data.table import Column, DataError, Options, Schema, Table

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_idx(head: bytes) -> bool:
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in DTYPES and 1 <= head[3] <= 8


def read_idx(path: str, options: Options, comm: MPI.Comm, trained: Schema | None = None) -> Table:
    """This rank's images, flattened to (rows, pixels), and their labels. Collective.

    A plain file is read from the rank's first row on; a gzip one is decompressed up to its last row, of which
    only the rank's own rows are kept. The labels are in ``options.labels``, or in the file named as MNIST's
    are.

    Raises CollectiveError for a missing or short file, and for numbers of labels and images that differ.
    """
    with hc.all_or_none(comm):
        shape = read_header(path)[1]
        beside = options.labels or labels_beside(path)
        if beside is None and trained is None:
            raise DataError(
                f"{path}: no labels file beside it ('images' in its name replaced by 'labels', "
                f"idx{len(shape)} by idx1); name it with --labels"
            )
        start, stop = share(shape[0], comm.rank, comm.size)
        images = read_rows(path, start, stop).reshape(stop - start, -1)
        if not np.isfinite(images).all():
            row, pixel = np.argwhere(~np.isfinite(images))[0]
            raise DataError(f"{path}: row {start + row} is not finite at position {pixel}")
        labels = None
        if beside is not None:
            counted = read_header(beside)[1]
            if counted != shape[:1]:
                raise DataError(f"{beside}: holds an array of shape {counted}, expected {shape[:1]}, one per image")
            labels = number_labels(read_rows(beside, start, stop))
    if shape[0] == 0:
        raise hc.CollectiveError(f"{path}: the file holds no row")
    width = images.shape[1] if trained is None else len(trained.columns)
    if images.shape[1] != width:
        raise hc.CollectiveError(f"{path}: rows of {images.shape[1]} numbers, the model expects {width}")
    columns = tuple(Column(f"pixel {i}") for i in range(width))
    return Table(
        source=path,
        schema=trained or Schema(columns, one_unit=True),
        numbers=images,
        words=(),
        labels=settle_labels(labels, comm, path),
        first=start,
        total=shape[0],
    )


def labels_beside(path: str) -> str | None:
    """The labels file that belongs to an images file by MNIST's naming, compressed or not; None if there is none."""
    folder, name = os.path.split(path)
    if "images" not in name:
        return None
    name = name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    plain = os.path.join(folder, name.removesuffix(".gz"))
    return next((found for found in (os.path.join(folder, name), plain, plain + ".gz") if os.path.isfile(found)), None)


def read_header(path: str) -> tuple[np.dtype, tuple[int, ...], int]:
    """The dtype and shape of the array in an idx file, and the byte where its numbers begin."""
    with open_bytes(path) as file:
        head = file.read(4)
        if not is_idx(head):
            raise DataError(f"{path}: not an idx file: begins with {head!r}, expected two zero bytes, type, dimensions")
        shape = np.frombuffer(file.read(4 * head[3]), ">u4")
        if len(shape) != head[3]:
            raise DataError(f"{path}: ends within its header")
        return np.dtype(DTYPES[head[2]]), tuple(int(extent) for extent in shape), 4 + 4 * head[3]


def read_rows(path: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of the array, in the machine's byte order."""
    dtype, shape, begin = read_header(path)
    row_nbytes = dtype.itemsize * int(np.prod(shape[1:]))
    with open_bytes(path) as file:
        file.seek(begin + start * row_nbytes)
        data = file.read((stop - start) * row_nbytes)
    if len(data) != (stop - start) * row_nbytes:
        raise DataError(f"{path}: ends after row {start + len(data) // row_nbytes}; its header promises {shape[0]}")
    return np.frombuffer(data, dtype).reshape(stop - start, *shape[1:]).astype(dtype.newbyteorder("="), copy=False)
