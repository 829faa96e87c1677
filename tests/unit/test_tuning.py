"""The table of `hpcml tune`: its file, and what is read from it between the measured sizes."""

import pytest

from hpcml.collectives import tuning
from hpcml.collectives.tuning import NATIVE_MARGIN, Tuning

TIMES = {
    "allreduce": {
        1 << 10: {"ring": 4e-6, "recursive_doubling": 2e-6, "native": 3e-6},
        1 << 20: {"ring": 1e-4, "recursive_doubling": 4e-4, "native": 2e-4},
    }
}


def test_a_table_comes_back_from_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCML_TUNING", str(tmp_path))
    assert tuning.read("mpich-5.0.2", 4, 2) is None
    path = tuning.path_of("mpich-5.0.2", 4, 2)
    path.write_text(tuning.text_of("mpich-5.0.2", 4, 2, TIMES))
    found = tuning.read("mpich-5.0.2", 4, 2)
    assert found is not None and found.seconds == TIMES and found.path == str(path)
    assert tuning.read("mpich-5.0.2", 4, 1) is None


@pytest.mark.parametrize("text", ["", "{}", '{"format": "hpcml-tuning-0", "seconds": {}}', '{"format": 1'])
def test_a_file_that_is_no_table_is_a_warning(tmp_path, monkeypatch, text):
    monkeypatch.setenv("HPCML_TUNING", str(tmp_path))
    tuning.path_of("openmpi-5.0.11", 2, 1).write_text(text)
    with pytest.warns(UserWarning, match="no tuning table"):
        assert tuning.read("openmpi-5.0.11", 2, 1) is None


def test_times_between_sizes_are_interpolated_on_logarithmic_axes():
    table = Tuning("", TIMES)
    assert table.ranking("allreduce", 1 << 10)[0] == (2e-6, "recursive_doubling")
    assert table.ranking("allreduce", 1 << 20)[0] == (1e-4, "ring")
    halfway = dict((name, seconds) for seconds, name in table.ranking("allreduce", 1 << 15))
    assert halfway["ring"] == pytest.approx((4e-6 * 1e-4) ** 0.5)
    assert [name for _, name in table.ranking("allreduce", 8)] == ["recursive_doubling", "native", "ring"]
    beyond = table.ranking("allreduce", 1 << 22)
    assert beyond[0] == (pytest.approx(4e-4), "ring")
    assert table.ranking("scan", 8) == []


def test_the_librarys_own_has_to_be_faster_by_more_than_noise():
    def first(native):
        return Tuning("", {"reduce": {8: {"native": native, "binomial": 1.0}}}).ranking("reduce", 8)[0][1]

    assert first(NATIVE_MARGIN + 0.01) == "binomial"
    assert first(NATIVE_MARGIN - 0.01) == "native"
