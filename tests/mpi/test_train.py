"""`hpcml train` and `hpcml predict` on several ranks: the same run as on one, or one message and nothing left
behind."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from hpcml import models
from hpcml.cli import main
from hpcml.commands.predict import load_run
from hpcml.data.parts import load_parts
from hpcml.data.source import read
from hpcml.data.table import Options

comm = MPI.COMM_WORLD
DATA = os.environ.get("HPCML_TEST_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="HPCML_TEST_DATA names no folder of data sets")
pytest.importorskip("sklearn")

RUN_FILES = ["config.json", "curves.png", "metrics.jsonl", "model.npz", "summary.json"]


@pytest.fixture(autouse=True)
def folder():
    """One working directory for all ranks, removed when all are done."""
    made = tempfile.TemporaryDirectory() if comm.rank == 0 else None
    before = os.getcwd()
    path = Path(comm.bcast(made.name if made else None))
    os.chdir(path)
    yield path
    os.chdir(before)
    comm.barrier()
    if made:
        made.cleanup()


def run(*arguments):
    """The command's exit status, the same on every rank."""
    statuses = comm.allgather(main([str(argument) for argument in arguments]))
    assert len(set(statuses)) == 1
    return statuses[0]


def write(path, text):
    if comm.rank == 0:
        path.write_text(text)
    comm.barrier()
    return path


def printed(capsys):
    """What all ranks printed, stdout and stderr."""
    found = capsys.readouterr()
    return ["".join(texts) for texts in zip(*comm.allgather((found.out, found.err)), strict=True)]


def test_train_writes_a_run_and_tells_its_end(folder, capsys):
    assert run("train", "--data", "digits", "--epochs", 3, "--output", "deep/run") == 0
    out, err = printed(capsys)
    path = folder / "deep" / "run"
    assert sorted(os.listdir(path)) == RUN_FILES
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["loss"] < records[0]["loss"]
    config = json.loads((path / "config.json").read_text())
    assert config["ranks"] == comm.size and sum(config["hosts"].values()) == comm.size
    assert config["arguments"]["epochs"] == 3 and config["model"]["epochs"] == 3
    rows = {"training_rows": 1259, "validation_rows": 179, "test_rows": 359}
    shape = {"features": 64, "classes": list(range(10)), "target": None}
    assert {**config["data"], "columns": None} == {**rows, **shape, "columns": None}
    assert len(config["data"]["columns"]) == 64
    assert out.count("digits: 10 classes, 64 features; 1,259 rows to train on, 179 to validate, 359 to test") == 1
    summary = json.loads((path / "summary.json").read_text())
    assert summary["communication_seconds"] == sum(record["communication_seconds"] for record in records)
    assert out.count("test accuracy") == 1 and f"{summary['test_accuracy']:.4f} on 359 held-out rows" in out
    assert "deep/run" in out
    assert err.count("epoch 3/3") == 1


@pytest.mark.parametrize(
    "model, optimizer, data",
    [
        ("mlp", "adam", "digits"),
        ("mlp", "momentum", "digits"),
        ("logistic", "sgd", "breast_cancer"),
        ("svm", "adam", "wine"),
    ],
)
def test_any_number_of_ranks_trains_the_same_model(folder, model, optimizer, data):
    arguments = ["--model", model, "--optimizer", optimizer, "--data", data, "--epochs", 4, "--seed", 5]
    assert run("train", *arguments, "--output", "run", "--progress", "none") == 0
    trained, encoding = load_run("run", comm)
    parts = load_parts(data, Options(), MPI.COMM_SELF, seed=5, validation=0.1, test=0.2)
    assert np.allclose(encoding.mean, parts.encoding.mean, rtol=1e-12)
    alone = type(trained)(**{**trained.get_params(), "comm": MPI.COMM_SELF})
    alone.fit(parts.training.X, parts.training.y, validation=(parts.validation.X, parts.validation.y))
    # float32 sums in another order, over some hundred steps: the last digits differ, the trajectory does not.
    losses = [[record["loss"] for record in fitted.history_] for fitted in (trained, alone)]
    assert np.allclose(*losses, rtol=2e-3)
    accuracy = json.loads((folder / "run" / "summary.json").read_text())["test_accuracy"]
    assert abs(accuracy - alone.score(parts.test.X, parts.test.y)) <= 0.005


def test_a_kernel_machine_tells_its_iterations_and_is_judged_at_the_end(folder, capsys):
    arguments = ["--model", "kernel-svm", "--kernel", "poly", "--degree", 2, "--C", 10, "--reproducible", 1]
    assert run("train", *arguments, "--data", "wine", "--output", "run") == 0
    out, err = printed(capsys)
    assert sorted(os.listdir(folder / "run")) == RUN_FILES
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    pairs = [record["pair"] for record in records[:-1]]
    assert sorted(map(tuple, {str(pair): pair for pair in pairs}.values())) == [(0, 1), (0, 2), (1, 2)]
    assert pairs == sorted(pairs)
    for pair in ([0, 1], [0, 2], [1, 2]):
        course = [record for record in records[:-1] if record["pair"] == pair]
        assert course[0]["loss"] == pytest.approx(1) and course[-1]["loss"] < 0.3 and 0 <= course[-1]["gap"] < 0.01
    trained, encoding = load_run("run", comm)
    assert (trained.kernel, trained.degree, trained.C, trained.reproducible) == ("poly", 2, 10, True)
    parts = load_parts("wine", Options(), comm, seed=0, validation=0.1, test=0.2)
    assert records[-1]["accuracy"] == trained.score(parts.training.X, parts.training.y) > 0.9
    assert records[-1]["validation_accuracy"] == trained.score(parts.validation.X, parts.validation.y)
    assert err.count("iteration ") == len(records) and "gap" in err and "test accuracy" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "svm", "--kernel", "rbf"], "--kernel: only with --model kernel-svm"),
        (["--model", "kernel-svm", "--trees", 3], "--trees: only with --model tree, forest, boosting"),
        (["--model", "kernel-svm", "--batch-size", 8], "--batch-size: not with --model kernel-svm"),
        (["--model", "kernel-svm", "--shard"], "--shard: only with --model mlp"),
    ],
)
def test_options_of_another_model_are_refused(folder, capsys, arguments, message):
    assert run("train", "--data", "wine", *arguments) == 2
    assert message in "".join(printed(capsys))


@pytest.mark.parametrize("model, solver", [("logistic", "LogisticRegression"), ("svm", "LinearSVC")])
def test_linear_models_are_solved_for_unless_mini_batches_are_asked_for(folder, capsys, model, solver):
    arguments = ["--model", model, "--data", "breast_cancer", "--seed", 3]
    assert run("train", *arguments, "--reproducible", 1, "--output", "exact") == 0
    out, err = printed(capsys)
    trained, _ = load_run("exact", comm)
    assert type(trained).__name__ == solver and trained.reproducible
    records = [json.loads(line) for line in (folder / "exact" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))
    assert records[-1]["gap"] <= trained.tol and records[-1]["loss"] < records[0]["loss"] / 2
    assert err.count("iteration ") == len(records) and "gap" in err and "epoch" not in err
    assert sorted(os.listdir(folder / "exact")) == RUN_FILES
    assert json.loads((folder / "exact" / "summary.json").read_text())["test_accuracy"] >= 0.92
    assert out.count("test accuracy") == 1
    assert run("train", *arguments, "--batch-size", 32, "--epochs", 2, "--output", "batches", "--progress", "none") == 0
    assert type(load_run("batches", comm)[0]).__name__ == "SGDClassifier"


def test_predictions_keep_the_order_of_the_rows(folder, capsys):
    rng = np.random.default_rng(0)
    rows = [(x, rng.choice(["low", "high"]), rng.normal()) for x in rng.normal(size=120)]
    lines = [f"{x},{s},{z},{'yes' if x + (s == 'high') > 0.5 else 'no'}\n" for x, s, z in rows]
    data = write(folder / "d.csv", "x,level,noise,answer\n" + "".join(lines))
    assert run("train", "--model", "logistic", "--data", data, "--output", "run", "--progress", "none") == 0
    assert run("predict", "run", data, "--output", "labels.txt") == 0
    assert "accuracy 0.9" in printed(capsys)[1]
    model, encoding = load_run("run", MPI.COMM_SELF)
    table = read(str(data), Options(), MPI.COMM_SELF, encoding.schema)
    expected = model.predict(encoding.encode(table)).tolist()
    assert (folder / "labels.txt").read_text().splitlines() == expected
    assert set(expected) == {"yes", "no"}
    # Columns in another order, no label, a level never seen before; to stdout, from rank 0.
    other = write(folder / "e.csv", "level,x,noise\n" + "".join(f"{s},{x},{z}\n" for x, s, z in rows) + "new,3,0\n")
    comm.barrier()
    assert run("predict", "run", other) == 0
    out, err = printed(capsys)
    assert out.splitlines() == [*expected, "yes"] and err == ""
    assert run("predict", "run", data, "--proba") == 0
    header, *table_lines = printed(capsys)[0].splitlines()
    assert header == "prediction,no,yes"
    assert [line.split(",")[0] for line in table_lines] == expected
    assert all(abs(sum(map(float, line.split(",")[1:])) - 1) < 1e-5 for line in table_lines)


def test_run_directories_are_numbered_and_never_overwritten(folder, capsys):
    short = ["train", "--data", "iris", "--model", "logistic", "--epochs", 1, "--progress", "none"]
    for _ in range(3):
        assert run(*short) == 0
    names = sorted(os.listdir(folder / "runs"))
    assert [name[10:] for name in names] == ["-logistic-iris", "-logistic-iris-2", "-logistic-iris-3"]
    before = (folder / "runs" / names[0] / "model.npz").read_bytes()
    assert run(*short, "--output", folder / "runs" / names[0]) == 2
    assert "is there already" in printed(capsys)[1]
    assert (folder / "runs" / names[0] / "model.npz").read_bytes() == before


def test_separate_test_data(folder, capsys):
    text = "".join(f"{x},{int(x > 3)}\n" for x in np.linspace(0, 6, 50))
    train, test = write(folder / "a.csv", text), write(folder / "b.csv", "0,0\n1,0\n5,1\n6,0\n")
    arguments = ["--model", "logistic", "--data", train, "--test-data", test, "--output", "run"]
    assert run("train", *arguments, "--epochs", 60) == 0
    assert "0.7500 on 4 held-out rows" in printed(capsys)[0]
    assert json.loads((folder / "run" / "config.json").read_text())["data"]["training_rows"] == 44


def test_neither_validation_nor_test(folder, capsys):
    assert run("train", "--data", "iris", "--validation", 0, "--test", 0, "--epochs", 2, "--output", "run") == 0
    assert "test accuracy" not in printed(capsys)[0]
    assert sorted(os.listdir(folder / "run")) == RUN_FILES


GOOD = "".join(f"{i},{i + 1},{'ab'[i % 2]}\n" for i in range(40))


@pytest.mark.parametrize(
    "text, arguments, said",
    [
        (GOOD, ["--model", "oracle"], "invalid choice: 'oracle'"),
        (GOOD, ["--data", "absent.csv"], "no data file 'absent.csv'"),
        (GOOD + "1,2\n", [], "line 41: found 2 fields, expected 3"),
        (GOOD, ["--target", "kind"], "no target column 'kind'"),
        (GOOD + "1,nan,a\n", [], "line 41: column 'column 1' holds 'nan'"),
        ("".join(f"{i},{i + 1},a\n" for i in range(40)), [], "needs at least two"),
        (GOOD, ["--test", "0.6", "--validation", "0.5"], "leave none of 40 rows"),
        (GOOD, ["--test-data", "absent.csv"], "no data file 'absent.csv'"),
        (GOOD, ["--algorithm", "carrier-pigeon"], "carrier-pigeon"),
        (GOOD, ["--output", "data.csv"], "is there already"),
        (GOOD, ["--output", "data.csv/run"], "cannot be made"),
    ],
)
def test_bad_input_gives_one_message_and_leaves_nothing(folder, capsys, text, arguments, said):
    write(folder / "data.csv", text)
    given = arguments if "--data" in arguments else ["--data", "data.csv", *arguments]
    assert run("train", *given) == 2
    out, err = printed(capsys)
    assert err.count(said) == 1 and "Traceback" not in err and out == ""
    comm.barrier()
    left = {path.name for path in folder.rglob("*")} - {"data.csv"}
    assert left == set()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["absent", "iris"], "no trained model at absent"),
        (["run", "wine"], "wine has 13 features, the model expects 4"),
        (["run", "iris", "--output", "absent/file"], "--output absent/file"),
        (["run", "iris", "--target"], "expected one argument"),
        (["svm", "iris", "--proba"], "LinearSVC has no probabilities"),
        (["broken.npz", "iris"], "broken.npz"),
    ],
)
def test_predict_refuses_what_does_not_fit(folder, capsys, arguments, said):
    quiet = ["--progress", "none", "--data", "iris"]
    run("train", "--model", "mlp", "--epochs", 1, *quiet, "--output", "run")
    run("train", "--model", "svm", *quiet, "--output", "svm")
    write(folder / "broken.npz", "not an archive")
    printed(capsys)
    assert run("predict", *arguments) == 2
    out, err = printed(capsys)
    assert err.count(said) == 1 and "Traceback" not in err and out == ""


def test_a_run_that_is_interrupted_keeps_its_epochs_and_no_other_trace(folder):
    from hpcml.runs.directory import run_directory
    from hpcml.runs.monitor import Monitor

    with pytest.raises(KeyboardInterrupt), run_directory("early", "label", comm):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), run_directory("late", "label", comm) as path:
        with Monitor(path / "metrics.jsonl" if comm.rank == 0 else None, None) as monitor:
            monitor.epoch({"epoch": 1})
        comm.barrier()
        raise KeyboardInterrupt
    comm.barrier()
    assert not (folder / "early").exists()
    assert (folder / "late" / "metrics.jsonl").read_text() == '{"epoch": 1}\n'


@pytest.mark.skipif(comm.size > 8, reason="more ranks than virtual shards")
def test_a_run_goes_on_from_its_newest_checkpoint(folder, capsys):
    """What came after a checkpoint in the midst of the run is taken away, and done again to the same bits."""
    arguments = ["--data", "digits", "--reproducible", 8, "--epochs", 3, "--output", "run", "--keep", 100]
    assert run("train", *arguments, "--checkpoint-steps", 25, "--progress", "none") == 0
    straight = np.load("run/model.npz")
    straight = {name: straight[name] for name in straight.files if name.startswith("parameter")}
    before = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    comm.barrier()
    if comm.rank == 0:
        os.remove("run/model.npz")
        for later in sorted(Path("run/checkpoints").glob("step-*"))[4:]:
            shutil.rmtree(later)
    comm.barrier()
    assert run("train", "--resume", "run", "--progress", "none") == 0
    resumed = np.load("run/model.npz")
    for name, array in straight.items():
        np.testing.assert_array_equal(resumed[name], array, strict=True)
    after = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in after] == [1, 2, 3]
    assert after[0] == before[0] and after[2]["loss"] == pytest.approx(before[2]["loss"], rel=1e-12)
    assert [again["ranks"] for again in json.loads(Path("run/config.json").read_text())["resumed"]] == [comm.size]
    printed(capsys)
    assert run("train", "--resume", "nowhere") != 0
    assert "nowhere/config.json cannot be read" in printed(capsys)[1]


@needs_data
@pytest.mark.parametrize(
    "model, name, more, least",
    [
        ("svm", "a9a.t.svm", [], 0.84),
        ("logistic", "adult-train.csv", ["--test-data", f"{DATA}/adult-test.csv", "--epochs", 5], 0.84),
        ("mlp", "t10k-images-idx3-ubyte.gz", ["--epochs", 3, "--hidden", 64], 0.92),
    ],
)
def test_real_data_reach_their_accuracy(folder, model, name, more, least):
    data = ["--data", f"{DATA}/{name}", "--progress", "none", "--output", "run"]
    assert run("train", "--model", model, *data, *more) == 0
    assert json.loads((folder / "run" / "summary.json").read_text())["test_accuracy"] >= least
    assert isinstance(models.load("run/model.npz"), models.estimator.Estimator)
