"""Reading on several ranks: together they hold the file's rows, each once and in order, or all raise the same error."""

import csv
import gzip
import os
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.data import share as share_module
from hpcml.data.encoding import Encoding, fit_encoding
from hpcml.data.parts import load_parts
from hpcml.data.share import share
from hpcml.data.source import read
from hpcml.data.split import split_rows
from hpcml.data.table import Options

comm = MPI.COMM_WORLD
DATA = os.environ.get("HPCML_TEST_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="HPCML_TEST_DATA names no folder of data sets")


@pytest.fixture
def folder():
    """One folder for all ranks, removed when all are done."""
    made = tempfile.TemporaryDirectory() if comm.rank == 0 else None
    yield Path(comm.bcast(made.name if made else None))
    comm.barrier()
    if made:
        made.cleanup()


def write(path, content):
    """Rank 0 writes; all ranks go on when it is there."""
    if comm.rank == 0:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    comm.barrier()
    return str(path)


def whole(table):
    """All ranks' rows: numbers, string columns as strings, labels."""
    words = [np.array(column.categories, dtype=object)[column.codes] for column in table.words]
    parts = comm.allgather((table.numbers, words, table.labels, table.first))
    assert [part[3] for part in parts] == [sum(len(p[0]) for p in parts[:rank]) for rank in range(comm.size)]
    numbers = np.concatenate([part[0] for part in parts])
    assert len(numbers) == table.total
    columns = [np.concatenate(column).tolist() for column in zip(*(part[1] for part in parts), strict=True)]
    labels = None if table.labels is None else np.concatenate([part[2] for part in parts])
    return numbers, columns, labels


@contextmanager
def same_error(*said):
    """All ranks raise CollectiveError with one message, which says these things."""
    with pytest.raises(hc.CollectiveError) as caught:
        yield
    messages = comm.allgather(str(caught.value))
    assert len(set(messages)) == 1
    for words in said:
        assert words in messages[0]


@pytest.fixture(params=[64, 1 << 22], ids=["small blocks", "one block"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(share_module, "BLOCK_NBYTES", request.param)


MIXED = "size, colour ,weight,kind\n" + "".join(
    f'{i}, "{("red", "light, blue", "?", "")[i % 4]}" ,{i / 7:.6f},{("a", "b")[i % 3 == 0]}\n' + "\n" * (i % 5 == 0)
    for i in range(53)
)


@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())], ids=["plain", "gzip"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_of_numbers_and_strings(folder, blocks, pack, ending):
    table = read(write(folder / "d", pack(MIXED.replace("\n", ending))), Options(), comm)
    numbers, (colours,), labels = whole(table)
    rows = [row for row in csv.reader(MIXED.split("\n")[1:], skipinitialspace=True) if row]
    assert numbers.tolist() == [[float(row[0]), float(row[2])] for row in rows]
    assert colours == [row[1].strip() or "?" for row in rows]
    assert labels.tolist() == [row[3] for row in rows]
    assert [column.name for column in table.schema.columns] == ["size", "colour", "weight"]


def test_csv_of_numbers_alone(folder, blocks):
    expected = np.random.default_rng(0).normal(size=(101, 4))
    text = "".join(",".join(map(repr, row)) + f",{i % 3}\n" for i, row in enumerate(expected.tolist()))
    numbers, _, labels = whole(read(write(folder / "d", text), Options(), comm))
    assert np.array_equal(numbers, expected)
    assert labels.dtype == np.int64 and labels.tolist() == [i % 3 for i in range(101)]


def test_fewer_rows_than_ranks(folder):
    numbers, _, labels = whole(read(write(folder / "d", "1;2;x\n3;4;y\n"), Options(), comm))
    assert numbers.tolist() == [[1, 2], [3, 4]] and labels.tolist() == ["x", "y"]


@pytest.mark.parametrize(
    "labels, expected",
    [
        (["yes.", "no.", "yes."], ["yes", "no", "yes"]),
        (["etc.", "no", "no"], ["etc.", "no", "no"]),
        (["+1", "-1", "1.0"], [1, -1, 1]),
        (["1", "2", "x"], ["1", "2", "x"]),
    ],
)
def test_labels_are_alike_on_all_ranks(folder, labels, expected):
    found = read(write(folder / "d", "".join(f"{i},{y}\n" for i, y in enumerate(labels))), Options(), comm).labels
    assert set(comm.allgather(found.dtype)) == {np.array(expected).dtype}
    assert np.concatenate(comm.allgather(found)).tolist() == expected


GOOD = "".join(f"{i},{i + 1},a\n" for i in range(40))


@pytest.mark.parametrize(
    "text, options, said",
    [
        (GOOD + "1,2\n", {}, ["line 41", "found 2 fields, expected 3"]),
        ("p,q,y\n" + GOOD + "1,2,3,4\n" + GOOD, {}, ["line 42", "found 4 fields, expected 3"]),
        ("p,q,y\n\n" + GOOD + "1,oops,a\n", {}, ["line 43", "column 'q'", "'oops'"]),
        (GOOD + "nan,2,a\n" + GOOD, {}, ["line 41", "column 'column 0'", "'nan'", "finite"]),
        (GOOD + "1,inf,a\n", {}, ["line 41", "'inf'"]),
        (GOOD + "1_0,2,a\n", {}, ["line 41", "'1_0'"]),
        (GOOD + "1,,a\n", {}, ["line 41", "column 'column 1'", "''"]),
        (GOOD + "1,2,\n", {}, ["line 41", "label is missing"]),
        (GOOD + '1,2,"a\n1,2,b"\n', {}, ["line 41", "quoted field"]),
        (GOOD, {"target": "kind"}, ["no target column 'kind'", "0 to 2"]),
        ("1,2\n2,2.5\n3,1\n", {}, ["not whole", "2.5"]),
        ("a,b\n", {"header": "yes"}, ["no row below the header"]),
        ("", {}, ["the file is empty"]),
        ("1 1:2 2:3\n-1 2:x\n", {}, ["line 2", "'2:x'"]),
        ("1 1:2 3:3\n-1 2:1\n1 3:1 2:4\n", {}, ["line 3", "index 2 comes after index 3"]),
        ("\0\1\2\3binary", {}, ["binary"]),
    ],
)
def test_bad_files_give_one_error_on_every_rank(folder, blocks, text, options, said):
    path = write(folder / "bad", text)
    with same_error(path, *said):
        read(path, Options(**options), comm)


def test_a_gzip_file_that_is_not_complete(folder, blocks):
    random = np.random.default_rng(0).normal(size=20_000)
    packed = gzip.compress("".join(f"{x},{y}\n" for x, y in random.reshape(-1, 2).tolist()).encode())
    with same_error("cut.csv.gz", "damaged or not complete"):
        read(write(folder / "cut.csv.gz", packed[: len(packed) // 2]), Options(), comm)


def test_missing_file_and_folder(folder):
    with same_error("no data file", "digits"):
        read(str(folder / "absent"), Options(), comm)
    with same_error("is a folder"):
        read(str(folder), Options(), comm)


def test_a_file_that_is_shorter_on_one_node(folder):
    # Each rank has "its own disk": the last rank's copy lacks the last line.
    own = folder / str(comm.rank)
    own.mkdir()
    text = GOOD if comm.rank in (0, comm.size - 2) or comm.size == 1 else GOOD[:-7]
    (own / "d.csv").write_text(text)
    before = os.getcwd()
    os.chdir(own)
    try:
        if comm.size == 1 or all(comm.allgather(text == GOOD)):
            assert read("d.csv", Options(), comm).total == 40
        else:
            with same_error("bytes here", "on rank 0"):
                read("d.csv", Options(), comm)
    finally:
        os.chdir(before)


def test_libsvm(folder, blocks):
    rng = np.random.default_rng(1)
    expected = np.where(rng.random((61, 9)) < 0.3, rng.normal(size=(61, 9)), 0).astype(np.float32)
    expected[0, 8] = 1
    text = "".join(
        f"{(-1) ** i:+d} " + " ".join(f"{j + 1}:{v!r}" for j, v in enumerate(row) if v) + " # comment\n"
        for i, row in enumerate(expected.tolist())
    )
    table = read(write(folder / "d", text), Options(), comm)
    numbers, _, labels = whole(table)
    assert np.array_equal(numbers, expected)
    assert labels.tolist() == [(-1) ** i for i in range(61)]
    smaller = read(write(folder / "e", "1 2:5\n"), Options(), comm, table.schema)
    assert whole(smaller)[0].tolist() == [[0, 5, 0, 0, 0, 0, 0, 0, 0]]
    with same_error("indices up to 10", "9, from 1 to 9"):
        read(write(folder / "f", "1 10:5\n"), Options(), comm, table.schema)
    counted_from_0 = read(write(folder / "g", "1 1:5\n" * 9 + "2 0:4\n"), Options(), comm)
    assert whole(counted_from_0)[0].tolist() == [[0, 5]] * 9 + [[4, 0]]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(folder, save):
    X, y = np.arange(39 * 3, dtype=np.float32).reshape(39, 3), np.array(["u", "v", "w"] * 13)
    path = folder / "d.npz"
    if comm.rank == 0:
        save(path, X=np.asfortranarray(X) if save is np.savez_compressed else X, y=y)
    comm.barrier()
    numbers, _, labels = whole(read(str(path), Options(), comm))
    assert np.array_equal(numbers, X) and numbers.dtype == np.float32
    assert labels.tolist() == y.tolist()
    with same_error("no target array 'z'", "X, y"):
        read(str(path), Options(target="z"), comm)


def test_npy_with_labels_beside_it_or_within(folder):
    X, y = np.arange(40.0).reshape(10, 2, 2), np.arange(10) % 3
    if comm.rank == 0:
        np.save(folder / "train_X.npy", X)
        np.save(folder / "train_y.npy", y)
        np.save(folder / "all.npy", np.column_stack([y, X.reshape(10, 4)]))
        np.save(folder / "nan.npy", np.where(np.arange(40).reshape(20, 2) == 25, np.nan, 1.0))
    comm.barrier()
    for name, options in [("train_X.npy", {}), ("all.npy", {"target": "0"})]:
        numbers, _, labels = whole(read(str(folder / name), Options(**options), comm))
        assert np.array_equal(numbers, X.reshape(10, 4)) and labels.tolist() == y.tolist()
    with same_error("row 12, column 1 holds nan"):
        read(str(folder / "nan.npy"), Options(target="0"), comm)
    with same_error("no target column '5'", "0 to 4"):
        read(str(folder / "all.npy"), Options(target="5"), comm)
    with same_error("labels have shape (20, 2)"):
        read(str(folder / "all.npy"), Options(labels=str(folder / "nan.npy")), comm)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx(folder, pack):
    pixels = np.random.default_rng(2).integers(0, 256, (23, 4, 3), np.uint8)
    labels = np.arange(23, dtype=np.uint8) % 10
    images = write(
        folder / "t-images-idx3-ubyte.gz", pack(struct.pack(">4B3I", 0, 0, 8, 3, 23, 4, 3) + pixels.tobytes())
    )
    with same_error("no labels file beside it"):
        read(images, Options(), comm)
    write(folder / "t-labels-idx1-ubyte", pack(struct.pack(">4BI", 0, 0, 8, 1, 23) + labels.tobytes()))
    table = read(images, Options(), comm)
    found, _, named = whole(table)
    assert table.schema.one_unit
    assert np.array_equal(found, pixels.reshape(23, 12)) and named.tolist() == labels.tolist()
    write(folder / "t-labels-idx1-ubyte", struct.pack(">4BI", 0, 0, 8, 1, 22) + labels[:22].tobytes())
    with same_error("(22,)", "expected (23,)"):
        read(images, Options(), comm)
    write(folder / "t-labels-idx1-ubyte", struct.pack(">4BI", 0, 0, 8, 1, 23) + labels[:5].tobytes())
    with same_error("ends after row", "promises 23"):
        read(images, Options(), comm)


def test_idx_of_numbers_of_two_bytes(folder):
    values = np.arange(-12, 12, dtype=np.int16).reshape(8, 3)
    labels = write(folder / "y", struct.pack(">4BI", 0, 0, 8, 1, 8) + bytes([0, 1] * 4))
    rows = write(folder / "x", struct.pack(">4B2I", 0, 0, 11, 2, 8, 3) + values.astype(">i2").tobytes())
    table = read(rows, Options(labels=labels), comm)
    assert np.array_equal(whole(table)[0], values) and table.numbers.dtype == np.dtype(np.int16)


@pytest.mark.parametrize("name, rows, features", [("digits", 1797, 64), ("iris", 150, 4)])
def test_named(name, rows, features):
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = getattr(datasets, f"load_{name}")()
    numbers, _, labels = whole(read(name, Options(), comm))
    assert numbers.shape == (rows, features)
    assert np.array_equal(numbers, bunch.data) and np.array_equal(labels, bunch.target)


@needs_data
@pytest.mark.parametrize(
    "name, target, rows, numbers, words, labels",
    [
        ("a9a.t.svm", None, 16281, 122, 0, [-1, 1]),
        ("adult-train.csv", None, 32561, 6, 8, ["<=50K", ">50K"]),
        ("adult-test.csv", None, 16281, 6, 8, ["<=50K", ">50K"]),
        ("higgs.train.tsv", "0", 7000, 28, 0, [0, 1]),
        ("winequality-white.csv", None, 4898, 11, 0, [3, 4, 5, 6, 7, 8, 9]),
        ("t10k-images-idx3-ubyte.gz", None, 10000, 784, 0, list(range(10))),
    ],
)
def test_real_files(name, target, rows, numbers, words, labels):
    table = read(str(Path(DATA) / name), Options(target=target), comm)
    assert (table.total, table.numbers.shape[1], len(table.words)) == (rows, numbers, words)
    assert sorted(set().union(*comm.allgather(set(table.labels.tolist())))) == labels


def test_encoding_is_that_of_all_ranks_rows(folder):
    table = read(write(folder / "d", MIXED), Options(), comm)
    encoding = fit_encoding(table, comm)
    assert encoding.categories == (("?", "light, blue", "red"),)
    encoded = np.concatenate(comm.allgather(encoding.encode(table, "float64")))
    numbers, (colours,), _ = whole(table)
    # The bound: two passes of 53 additions, a root and a division, each rounded once.
    assert np.allclose(encoded[:, :2], (numbers - numbers.mean(0)) / numbers.std(0), rtol=0, atol=1e-13)
    assert encoded[:, 2:].tolist() == [[float(c == known) for known in encoding.categories[0]] for c in colours]
    assert encoding.encode(table).dtype == np.float32
    again = Encoding.from_json(encoding.as_json(), encoding.mean, encoding.deviation)
    assert np.array_equal(again.encode(table), encoding.encode(table)) and again.schema == table.schema


def test_encoding_of_unknown_strings_constant_columns_and_one_unit(folder):
    trained = read(write(folder / "d", "a,b,s,y\n5,1,red,0\n5,3,blue,1\n"), Options(), comm)
    encoding = fit_encoding(trained, comm)
    asked = read(write(folder / "e", "a,b,s\n5,2,green\n6,3,red\n"), Options(), comm, trained.schema)
    assert asked.labels is None
    assert np.concatenate(comm.allgather(encoding.encode(asked))).tolist() == [[0, 0, 0, 0], [1, 1, 0, 1]]
    together = fit_encoding(trained, comm, "whole")
    assert together.mean.tolist() == [3.5, 3.5] and np.ptp(together.deviation) == 0
    left = fit_encoding(trained, comm, "none")
    assert np.concatenate(comm.allgather(left.encode(trained)))[:, :2].tolist() == [[5, 1], [5, 3]]


def test_strings_as_codes(folder):
    """For trees: one column each, −1 for what was never seen; a column of too many strings stays one-hot."""
    names = [f"n{i}" for i in range(300)]
    lines = [f"{i},{'red' if i % 2 else 'blue'},{name},{i % 3}\n" for i, name in enumerate(names)]
    trained = read(write(folder / "d", "a,s,t,y\n" + "".join(lines)), Options(), comm)
    encoding = fit_encoding(trained, comm, "none", coded=True)
    assert (encoding.width, encoding.codes, encoding.names[:3]) == (302, (1,), ["a", "s", "t=n0"])
    asked = read(write(folder / "e", "a,s,t\n5,green,n0\n6,red,n1\n7,blue,n7\n"), Options(), comm, trained.schema)
    again = Encoding.from_json(encoding.as_json(), encoding.mean, encoding.deviation)
    encoded = np.concatenate(comm.allgather(again.encode(asked)))
    assert encoded[:, :3].tolist() == [[5, -1, 1], [6, 1, 0], [7, 0, 0]]
    assert encoded[:, 2:].sum() == 3


def test_rank_without_rows_encodes_to_no_rows():
    table = read("iris", Options(), comm)
    alone = table.take(np.arange(len(table)) if comm.rank == comm.size - 1 else np.arange(0))
    encoding = fit_encoding(alone, comm)
    assert encoding.encode(alone).shape == (len(alone), 4)
    numbers = comm.bcast(table.numbers, root=comm.size - 1)
    assert np.allclose(encoding.mean, numbers.mean(0), rtol=1e-14)


def test_parts_are_encoded_by_what_the_training_rows_show():
    pytest.importorskip("sklearn")
    parts = load_parts("iris", Options(), comm, seed=0, validation=0.1, test=0.2)
    assert [part.total for part in (parts.training, parts.validation, parts.test)] == [105, 15, 30]
    training = np.concatenate(comm.allgather(parts.training.X))
    # float32 of magnitude 1, 105 of them averaged.
    assert np.abs(training.mean(0)).max() < 1e-6 and np.abs(training.std(0) - 1).max() < 1e-6
    assert np.abs(np.concatenate(comm.allgather(parts.test.X)).mean(0)).max() > 1e-3


LABELS = np.array([0] * 60 + [7] * 61 + [3] * 29)  # sorted by class, as some files are


def split_over_ranks(labels, seed, counts=None, **parts):
    """The global rows of training, validation and test, from all ranks."""
    total = len(labels)
    if counts is None:
        start, stop = share(total, comm.rank, comm.size)
    else:
        start, stop = sum(counts[: comm.rank]), sum(counts[: comm.rank + 1])
    split = split_rows(labels[start:stop], start, total, seed, comm, **parts)
    return [np.concatenate(comm.allgather(rows + start)).tolist() for rows in split]


@pytest.mark.parametrize("labels", [LABELS, np.array(["b", "a", "a"])[LABELS % 3]], ids=["numbers", "strings"])
def test_split_is_the_same_on_any_number_of_ranks(labels):
    alone = [rows.tolist() for rows in split_rows(labels, 0, 150, 3, MPI.COMM_SELF, validation=0.1, test=0.2)]
    assert split_over_ranks(labels, 3, validation=0.1, test=0.2) == alone
    all_on_the_last = [0] * (comm.size - 1) + [150]
    assert split_over_ranks(labels, 3, all_on_the_last, validation=0.1, test=0.2) == alone
    training, validation, test = alone
    assert sorted(training + validation + test) == list(range(150))
    assert all(rows == sorted(rows) for rows in alone)


def test_split_has_the_classes_in_proportion():
    training, validation, test = split_over_ranks(LABELS, 0, validation=0.1, test=0.2)
    assert [np.count_nonzero(LABELS[test] == c) for c in (0, 7, 3)] == [12, 12, 6]
    assert [np.count_nonzero(LABELS[validation] == c) for c in (0, 7, 3)] == [6, 6, 3]
    # Within a class the rows are drawn from all over it: of 12 out of 60, 12 from one half would be 1 in
    # 5,000.
    assert 1 <= np.count_nonzero(np.array(test) < 30) <= 11


def test_split_depends_on_the_seed_and_keeps_the_test_rows_whatever_the_validation():
    one = split_over_ranks(LABELS, 0, validation=0.1, test=0.2)
    assert split_over_ranks(LABELS, 1, validation=0.1, test=0.2)[2] != one[2]
    without = split_over_ranks(LABELS, 0, validation=0, test=0.2)
    assert without[2] == one[2] and without[1] == []
    assert split_over_ranks(LABELS, 0, validation=0, test=0)[0] == list(range(150))


@pytest.mark.parametrize(
    "parts, said",
    [
        ({"validation": 0.5, "test": 0.5}, "leave none of 150 rows"),
        ({"validation": 0, "test": 0.005}, "--test 0.005 of 150 rows in 3 classes is no row"),
        ({"validation": 0.005, "test": 0.2}, "--validation 0.005 of 150 rows"),
    ],
)
def test_parts_that_leave_nothing_are_refused(parts, said):
    with same_error(said):
        split_over_ranks(LABELS, 0, **parts)
