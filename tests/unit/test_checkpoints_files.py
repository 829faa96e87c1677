"""The files of a checkpoint: what was written is read back, and a change to any byte of them is found out."""

import json
import zlib

import ml_dtypes
import numpy as np
import pytest

from hpcml.checkpoints import CheckpointError, Slice, manifest, places, rankfile
from hpcml.checkpoints.checkpoint import Checkpoint
from hpcml.checkpoints.dtypes import dtype_of, name_of
from hpcml.checkpoints.manifest import Manifest
from hpcml.checkpoints.parts import Entry, Layout, described, laid_out
from hpcml.checkpoints.staging import Staging, Stored

STATE = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=np.int16),
    "empty": np.zeros((0, 3)),
}


def write_checkpoint(folder, arrays, ranks, step=7):
    """As a store of that many ranks would."""
    given = [described(arrays)] * ranks
    for rank in range(ranks):
        layout = laid_out(given, rank)
        data, pieces = Staging().copy(layout.pieces, arrays)
        rankfile.write(places.rank_file(folder, rank, ranks), step, rank, ranks, data, pieces)
    manifest.write(folder, Manifest(step, ranks, {"epoch": 2}, layout.entries))


def opened(folder):
    known = manifest.read(folder)
    files = [places.rank_file(folder, rank, known.ranks) for rank in range(known.ranks)]
    return Checkpoint(folder, known, [rankfile.verified(path) for path in files])


@pytest.mark.parametrize("ranks", [1, 2, 3, 40])
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_arrays_come_back(tmp_path, monkeypatch, ranks, block):
    monkeypatch.setattr(rankfile, "BLOCK_NBYTES", block)
    monkeypatch.setattr(rankfile, "BEGIN_NBYTES", 3 * block)
    write_checkpoint(tmp_path, STATE, ranks)
    found = opened(tmp_path)
    assert (found.step, found.facts, found.names) == (7, {"epoch": 2}, ["b", "empty", "w"])
    for name, array in STATE.items():
        assert found.dtype(name) == array.dtype and found.shape(name) == array.shape
        read = found.read(name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
        for start in range(array.size + 1):
            for stop in range(start, array.size + 1):
                np.testing.assert_array_equal(found.read(name, start=start, stop=stop), array.ravel()[start:stop])


def test_a_flipped_bit_in_any_byte_of_a_rank_file_is_found(tmp_path):
    write_checkpoint(tmp_path, STATE, 2)
    path = places.rank_file(tmp_path, 1, 2)
    content = path.read_bytes()
    rankfile.verified(path)
    for at in range(len(content)):
        for bit in (0, 7):
            path.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
            with pytest.raises(CheckpointError, match="rank-00001-of-00002.bin is (damaged|cut short)"):
                rankfile.verified(path)


@pytest.mark.parametrize("change", [lambda content, n: content[:n], lambda content, n: content[n:]])
def test_a_rank_file_that_is_cut_anywhere_is_found(tmp_path, change):
    write_checkpoint(tmp_path, STATE, 1)
    path = places.rank_file(tmp_path, 0, 1)
    content = path.read_bytes()
    for n in range(len(content) + 1):
        if change(content, n) != content:
            path.write_bytes(change(content, n))
            with pytest.raises(CheckpointError):
                rankfile.read_index(path)


def test_a_flipped_bit_in_any_byte_of_the_manifest_is_found(tmp_path):
    write_checkpoint(tmp_path, STATE, 1)
    path = tmp_path / manifest.NAME
    content = path.read_bytes()
    assert json.loads(content)["checkpoint"]["facts"] == {"epoch": 2}, "it is plain JSON"
    for at in range(len(content)):
        for changed in (content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], content[:at]):
            path.write_bytes(changed)
            with pytest.raises(CheckpointError, match="manifest.json is damaged"):
                manifest.read(tmp_path)


def test_a_change_after_a_checkpoint_was_found_whole_is_an_error_of_read(tmp_path):
    write_checkpoint(tmp_path, STATE, 1)
    found = opened(tmp_path)
    path = places.rank_file(tmp_path, 0, 1)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    for part in ({}, {"start": 1, "stop": 2}):
        with pytest.raises(CheckpointError, match="rank-00000-of-00001.bin is damaged: bytes 0 to 57"):
            found.read("w", **part)


def test_a_manifest_of_a_later_version_says_so(tmp_path):
    write_checkpoint(tmp_path, STATE, 1)
    path = tmp_path / manifest.NAME
    body = path.read_bytes()[manifest.HEAD_NBYTES : -2].replace(b'"version": 1', b'"version": 2')
    path.write_bytes(b'{"crc32": "%08x", "checkpoint": ' % zlib.crc32(body) + body + b"}\n")
    with pytest.raises(CheckpointError, match="version 2; this hpcml reads 'hpcml checkpoint', version 1"):
        manifest.read(tmp_path)


def test_read_says_what_is_there(tmp_path):
    write_checkpoint(tmp_path, STATE, 2)
    found = opened(tmp_path)
    with pytest.raises(KeyError, match="no array 'v' in the checkpoint of step 7; it has b, empty, w"):
        found.read("v")
    for out in (np.zeros((4, 3), "f4"), np.zeros((3, 4))):
        with pytest.raises(ValueError, match=r"out for 'w' is .*, but the result is float32\[3, 4\]"):
            found.read("w", out=out)
    with pytest.raises(ValueError, match=r"no elements 3 to 13 of 'w': it is <f4\[3, 4\]"):
        found.read("w", start=3, stop=13)
    with pytest.raises(ValueError, match="no elements -1 to 5"):
        found.read("b", start=-1)


def test_read_writes_into_any_layout(tmp_path):
    write_checkpoint(tmp_path, STATE, 3)
    out = np.full((4, 6), -1, "f4", order="F").T[::2]
    assert out.shape == (3, 4)
    assert opened(tmp_path).read("w", out=out) is out
    np.testing.assert_array_equal(out, STATE["w"])


@pytest.mark.parametrize("code", [*"?bBhHiIlLqQefdgFDG", ">f8", ">i2", "bfloat16"])
def test_names_of_data_types_come_back(code):
    dtype = np.dtype(ml_dtypes.bfloat16 if code == "bfloat16" else code)
    assert dtype_of(name_of(dtype)) == dtype


@pytest.mark.parametrize("code", ["O", "U3", "S3", "M8[s]", "V4", [("a", "f4")]])
def test_other_data_types_are_refused(code):
    with pytest.raises(TypeError, match="a checkpoint cannot hold dtype"):
        name_of(np.dtype(code))
    with pytest.raises(CheckpointError):
        dtype_of(str(code))


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 64])
def test_ranks_write_even_parts_that_have_each_element_once(ranks):
    random = np.random.default_rng(ranks)
    sizes = random.integers(0, 1000, 20)
    arrays = {f"{i}": np.zeros(size, random.choice(["f4", "f8", "i2", "c16"])) for i, size in enumerate(sizes)}
    layouts = [laid_out([described(arrays)] * ranks, rank) for rank in range(ranks)]
    nbytes = [sum(piece.length * arrays[piece.name].itemsize for piece in layout.pieces) for layout in layouts]
    assert max(nbytes) - min(nbytes) <= 2 * 16, "even up to an element at each end"
    for name, array in arrays.items():
        seen = [np.arange(p.start, p.start + p.length) for layout in layouts for p in layout.pieces if p.name == name]
        assert np.concatenate([*seen, []]).tolist() == list(range(array.size))


def test_the_order_in_which_ranks_name_their_arrays_does_not_matter():
    there = described(STATE)
    back = dict(reversed(there.items()))
    assert laid_out([there, back], 1) == laid_out([back, there], 1)


def test_ranks_may_have_empty_slices_or_none():
    whole = np.arange(10.0)
    given = [
        described({"m": Slice(whole[4:], 4, (2, 5))}),
        described({}),
        described({"m": Slice(whole[:0], 3, (2, 5))}),
        described({"m": Slice(whole[:4], 0, (2, 5))}),
    ]
    layouts = [laid_out(given, rank) for rank in range(4)]
    assert {len(layout.pieces) for layout in layouts} == {0, 1}
    assert layouts[0] == Layout({"m": Entry("<f8", (2, 5))}, [("m", 4, 6)])


W = np.zeros(10)
MISFITS = {
    "dtypes": ([{"w": W}, {"w": W}, {"w": W.astype("f4")}], r"'w': <f8\[10\] on ranks 0-1, <f4\[10\] on rank 2"),
    "shapes": ([{"w": W}, {"w": W[:3]}], r"'w': <f8\[10\] on rank 0, <f8\[3\] on rank 1"),
    "names": ([{"w": W, "v": W}, {"w": W}], "'v' is an array on rank 0 and not on rank 1"),
    "kinds": ([{"w": W}, {"w": Slice(W, 0, (10,))}], "'w' is an array on rank 0 and not on rank 1"),
    "a gap": ([{"w": Slice(W[:4], 0, (10,))}, {"w": Slice(W[5:], 5, (10,))}], "elements 4 to 4 are in the slice of no"),
    "a gap at the end": ([{"w": Slice(W[:4], 0, (10,))}, {}], "elements 4 to 9 are in the slice of no rank"),
    "an overlap": (
        [{"w": Slice(W[:4], 6, (10,))}, {"w": Slice(W[:8], 0, (10,))}],
        "elements 6 to 7 are in the slices of both rank 1 and rank 0",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_what_does_not_fit_together_is_named(what):
    ranks, message = MISFITS[what]
    for rank in range(len(ranks)):
        with pytest.raises(ValueError, match=message):
            laid_out([described(arrays) for arrays in ranks], rank)


BAD = {
    "no dict": ([W], TypeError, "arrays is a list"),
    "no string": ({3: W}, TypeError, "the key 3"),
    "objects": ({"w": np.array([{}])}, TypeError, "'w' holds Python objects"),
    "strings": ({"w": np.array(["a"])}, TypeError, "'w': a checkpoint cannot hold dtype <U1"),
    "a slice outside": ({"w": Slice(W, 5, (12,))}, ValueError, r"10 elements from 5 on does not lie within <f8\[12\]"),
}


@pytest.mark.parametrize("what", BAD)
def test_arguments_that_cannot_be_saved_are_refused(what):
    arrays, error, message = BAD[what]
    with pytest.raises(error, match=message):
        described(arrays)


@pytest.mark.parametrize("order", ["C", "F", "strided", "reversed"])
def test_the_copy_has_the_elements_in_c_order(order):
    c = np.arange(60, dtype="i4").reshape(3, 4, 5)
    array = {
        "C": c,
        "F": np.asfortranarray(c),
        "strided": np.repeat(np.repeat(c, 2, axis=0), 2, axis=2)[::2, :, ::2],
        "reversed": c[:, ::-1].copy()[:, ::-1],
    }[order]
    staging = Staging()
    for ranks in range(1, 62):
        parts = []
        for rank in range(ranks):
            layout = laid_out([described({"x": array})] * ranks, rank)
            parts.append(staging.copy(layout.pieces, {"x": array})[0].view("i4").copy())
        assert np.concatenate(parts).tolist() == list(range(60))


def test_memory_is_used_again():
    staging = Staging()
    large, small = {"x": np.zeros(1 << 20)}, {"x": np.zeros(100)}

    def address(arrays):
        data, pieces = staging.copy(laid_out([described(arrays)], 0).pieces, arrays)
        assert data.nbytes == arrays["x"].nbytes and pieces == [Stored("x", 0, arrays["x"].size, 0)]
        return data.ctypes.data

    assert address(large) == address(small) == address(large)


def test_only_folders_of_checkpoints_are_places(tmp_path):
    for name in ("step-0000000012", "step-0000000002-3", "step-12345678901"):
        (tmp_path / name).mkdir()
    for name in ("step-12", "step-0000000002-1", "step-0000000002-03", "step-00000000012", "step-0000000003x", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-0000000005").write_text("a file")
    (tmp_path / "step-0000000006").symlink_to(tmp_path / "other")
    assert [place.name for place in places.found(tmp_path)] == [
        "step-0000000002-3",
        "step-0000000012",
        "step-12345678901",
    ]


def test_every_save_of_a_step_has_a_folder_of_its_own(tmp_path):
    names = []
    for _ in range(3):
        names.append(places.make(tmp_path, 4).name)
        if len(names) == 2:  # the third is the newest all the same
            (tmp_path / "step-0000000004").rmdir()
    assert names == ["step-0000000004", "step-0000000004-2", "step-0000000004-3"]


def test_removal_takes_our_files_only(tmp_path):
    folder = tmp_path / "step-0000000001"
    folder.mkdir()
    write_checkpoint(folder, STATE, 2)
    (folder / ".rank-00001-of-00002.bin.4711").write_text("half")
    (folder / ".manifest.json.12").write_text("half")
    others = ["notes.txt", "rank-1-of-2.bin", "manifest.json.old"]
    for name in others:
        (folder / name).write_text("somebody's")
    places.remove(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(others)
    for name in others:
        (folder / name).unlink()
    places.remove(folder)
    assert not folder.exists()


def test_a_place_is_whole_with_all_its_files_only(tmp_path):
    write_checkpoint(tmp_path, STATE, 3)
    assert places.is_whole(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        path.rename(tmp_path / "away")
        assert not places.is_whole(tmp_path), path
        (tmp_path / "away").rename(path)
    places.rank_file(tmp_path, 1, 3).write_bytes(places.rank_file(tmp_path, 2, 3).read_bytes())
    assert not places.is_whole(tmp_path), "the file of another rank"
