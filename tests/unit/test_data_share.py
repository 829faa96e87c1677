"""Every line of a file goes to exactly one rank, in order, wherever the byte ranges are cut."""

import gzip

import pytest

from hpcml.data import share as share_module
from hpcml.data.share import count_bytes, line_blocks, line_number, open_bytes, share

TEXTS = [
    b"",
    b"a",
    b"a\n",
    b"\n\n\n",
    b"one\ntwo\n\nthree",
    b"a much longer line than the others are\nb\nc\n",
    b"".join(b"%d," % i * (i % 5) + b"\n" for i in range(40)),
]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 64])
@pytest.mark.parametrize("total", [0, 1, 6, 7, 8, 1000])
def test_share_covers_everything_once_and_evenly(total, size):
    parts = [share(total, rank, size) for rank in range(size)]
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(total))
    counts = [stop - start for start, stop in parts]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 50])
@pytest.mark.parametrize("block_nbytes", [1, 7, 1 << 20])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_line_belongs_to_one_rank(tmp_path, monkeypatch, text, block_nbytes, size, pack):
    monkeypatch.setattr(share_module, "BLOCK_NBYTES", block_nbytes)
    path = str(tmp_path / "text")
    (tmp_path / "text").write_bytes(pack(text))
    assert count_bytes(path) == len(text)
    found = b""
    for rank in range(size):
        for offset, block in line_blocks(path, *share(len(text), rank, size)):
            assert offset == len(found)  # blocks follow each other: nothing twice, nothing left out
            assert line_number(path, offset) == found.count(b"\n") + 1
            assert offset == 0 or found.endswith(b"\n")
            found += block
    assert found == text


def test_open_bytes_tells_gzip_by_content_not_by_name(tmp_path):
    (tmp_path / "plain.gz").write_bytes(b"not compressed")
    (tmp_path / "packed.csv").write_bytes(gzip.compress(b"compressed"))
    with open_bytes(str(tmp_path / "plain.gz")) as plain, open_bytes(str(tmp_path / "packed.csv")) as packed:
        assert (plain.read(), packed.read()) == (b"not compressed", b"compressed")
