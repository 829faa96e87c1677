"""A file is there whole or not at all."""

import os

import pytest

from hpcml.runs.wholefile import whole_file


def test_the_file_appears_when_it_is_complete(tmp_path):
    with whole_file(tmp_path / "f") as file:
        file.write(b"new")
        file.flush()
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_a_failure_keeps_what_was_there(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "f") as file:
        file.write(b"half of the n")
        raise KeyboardInterrupt
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]
