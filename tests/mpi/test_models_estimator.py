"""scikit-learn's conventions, and model files: parameters, clones, errors before fit; whole files or none."""

import copy
import json
import os

import numpy as np
import pytest
from model_cases import GOOD_X, GOOD_Y, blobs, every_estimator, fresh, part
from mpi4py import MPI

from hpcml import models
from hpcml.models import DecisionTreeClassifier, MLPClassifier, NotFittedError, SGDClassifier

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size


@every_estimator
def test_before_fit_everything_says_so(estimator):
    model = fresh(estimator)
    names = ["predict", "decision_function"] + ["predict_proba"] * hasattr(model, "predict_proba")
    for error in (ValueError, AttributeError, NotFittedError):
        for name in names:
            with pytest.raises(error, match=f"this {type(model).__name__} is not fitted yet: call fit"):
                getattr(model, name)(GOOD_X)
    assert not any(hasattr(model, name) for name in ("classes_", "coef_", "coefs_", "intercept_", "history_"))


def test_hinge_losses_have_no_probabilities():
    assert hasattr(SGDClassifier(), "predict_proba")
    assert not hasattr(SGDClassifier("hinge"), "predict_proba")
    assert not hasattr(models.LinearSVC(), "predict_proba")


@every_estimator
def test_parameters_are_the_constructors(estimator):
    params = estimator.get_params()
    shared = ["optimizer", "learning_rate", "rate", "warmup_epochs", "momentum", "nesterov", "weight_decay"]
    shared += ["batch_size", "epochs", "random_state", "dtype", "algorithm", "comm"]
    own = {MLPClassifier: ["hidden_layer_sizes"], SGDClassifier: ["loss", "C"]}
    if type(estimator) is MLPClassifier:
        shared[-1:] = ["reproducible", "shard", "overlap", "wire", "clip_norm", "device", "comm"]
    assert list(params) == own[type(estimator)] + shared
    model = type(estimator)(**params)
    assert model.get_params() == params
    assert model.set_params(epochs=3, batch_size=7) is model
    assert (model.epochs, model.get_params()["batch_size"]) == (3, 7)
    with pytest.raises(ValueError, match="has no parameter 'alpha'; it has .*learning_rate"):
        model.set_params(alpha=1)


def test_repr_shows_the_parameters():
    assert repr(SGDClassifier(C=0.5, comm=MPI.COMM_SELF)).startswith(
        "SGDClassifier(loss='log_loss', C=0.5, optimizer='adam', learning_rate=0.001, rate='constant'"
    )
    assert eval(repr(MLPClassifier((3, 4), epochs=2))).get_params() == MLPClassifier((3, 4), epochs=2).get_params()


def test_clones_share_the_communicator():
    base = pytest.importorskip("sklearn.base")
    half = COMM.Split(RANK % 2, RANK)
    for comm in (None, COMM, half):
        model = SGDClassifier(C=3.0, comm=comm).fit(*part(*blobs(2), comm=half))
        for twin in (base.clone(model), copy.deepcopy(model)):
            assert twin.get_params() == model.get_params()
            assert twin.comm is model.comm
            if comm is not None:
                assert twin.comm == comm and twin.comm.size == comm.size
        assert not hasattr(base.clone(model), "coef_")
        assert (copy.deepcopy(model).coef_ == model.coef_).all()
    half.Free()


def test_a_communicator_set_later_is_used():
    X, y = blobs(2)
    model = SGDClassifier(epochs=1).set_params(comm=MPI.COMM_SELF)
    if RANK == 0:  # alone: over COMM_WORLD this would wait for the others
        assert model.fit(X, y).score(X, y) > 0.5


@pytest.mark.parametrize(
    "bad, message",
    [
        (GOOD_X[0], r"X has shape \(4,\).* Reshape your data"),
        (GOOD_X[:, :2], "X has 2 features, but SGDClassifier is expecting 4"),
        (GOOD_X * np.nan, "NaN"),
    ],
)
def test_bad_rows_to_predict_are_an_error_here(bad, message):
    model = SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y)
    with pytest.raises(ValueError, match=message):
        model.predict(bad)


def test_sparse_rows_are_refused_with_what_to_do():
    sparse = pytest.importorskip("scipy.sparse")
    model = SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y)
    with pytest.raises(TypeError, match=r"X is a sparse csr_.*: pass X.toarray\(\)"):
        model.predict(sparse.csr_array(GOOD_X))


@every_estimator
@pytest.mark.parametrize("classes", [2, 3])
def test_shapes_of_predictions(estimator, classes):
    X, y = blobs(classes)
    model = fresh(estimator, epochs=1).fit(*part(X, y))
    scores = model.decision_function(X[:5])
    assert scores.shape == ((5,) if classes == 2 else (5, classes))
    chosen = (scores > 0).astype(int) if classes == 2 else scores.argmax(axis=1)
    assert (model.predict(X[:5]) == model.classes_[chosen]).all()
    if hasattr(model, "predict_proba"):
        p = model.predict_proba(X[:5])
        assert p.shape == (5, classes) and (model.classes_[p.argmax(axis=1)] == model.predict(X[:5])).all()
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(np.exp(model.predict_log_proba(X[:5])), p, rtol=1e-5)
    if hasattr(model, "coef_"):
        assert model.coef_.shape == (1 if classes == 2 else classes, 4)
        np.testing.assert_allclose((X[:5] @ model.coef_.T + model.intercept_).reshape(scores.shape), scores, rtol=1e-4)
    assert model.n_features_in_ == 4


@every_estimator
def test_a_saved_model_comes_back_whole(estimator, tmp_path):
    X, y = blobs(3)
    model = fresh(estimator, epochs=2).fit(*part(X, y))
    path = tmp_path / "model.npz"
    models.save(path, model, metadata={"columns": ["a", "b"]}, arrays={"mean": X.mean(axis=0)})
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]
    twin = models.load(path, comm=MPI.COMM_SELF)
    assert type(twin) is type(model) and twin.comm == MPI.COMM_SELF
    assert {**twin.get_params(), "comm": None} == model.get_params()
    assert twin.classes_.tolist() == model.classes_.tolist() and twin.history_ == model.history_
    np.testing.assert_array_equal(twin.decision_function(X), model.decision_function(X))
    header, arrays = models.read(path)
    assert header["metadata"] == {"columns": ["a", "b"]} and header["class"] == type(model).__name__
    np.testing.assert_array_equal(arrays["array/mean"], X.mean(axis=0))
    assert len(twin.set_params(epochs=3).fit(X, y).history_) == 3, "it can be trained anew"


def test_numpy_parameters_can_be_saved(tmp_path):
    model = MLPClassifier(
        np.array([3, 2]).tolist(), epochs=np.int64(1), learning_rate=np.float32(0.5), dtype=np.float64
    )
    models.save(tmp_path / "m.npz", model.fit(GOOD_X, GOOD_Y))
    twin = models.load(tmp_path / "m.npz")
    assert (twin.hidden_layer_sizes, twin.epochs, twin.dtype) == ((3, 2), 1, "float64")


@pytest.mark.parametrize("weights", [{0: 2.0, 1: 0.5}, {"a": 3, "b": 1}, {np.int64(3): 1.0, 4: 2}])
def test_weights_of_classes_come_back_as_they_were(weights, tmp_path):
    """The keys are labels, which JSON would make strings of."""
    X, y = np.arange(16.0).reshape(8, 2), np.array(list(weights) * 4)
    model = DecisionTreeClassifier(class_weight=weights).fit(X, y)
    models.save(tmp_path / "m.npz", model)
    twin = models.load(tmp_path / "m.npz")
    assert twin.class_weight == weights
    assert (twin.fit(X, y).predict(X) == model.predict(X)).all()


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.npz"
    with pytest.raises(NotFittedError):
        models.save(path, SGDClassifier())
    model = SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y)
    models.save(path, model)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        models.save(path, model, metadata={"x": object()})
    with pytest.raises(TypeError, match="array/x holds Python objects"):
        models.save(path, model, arrays={"x": np.array([{}])})
    with pytest.raises(FileNotFoundError):
        models.save(tmp_path / "nowhere" / "model.npz", model)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "model.npz"
    model = SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y)
    models.save(path, model)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        models.save(path, model)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["model.npz"]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    models.save(path, SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y))
    whole = path.read_bytes()
    for damage in (b"", b"text", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="not a model file of hpcml, or is damaged"):
            models.load(path)
    np.savez(path, x=np.ones(3))
    with pytest.raises(ValueError, match="not a model file"):
        models.load(path)
    np.savez(path, header=np.array([{}], object))
    with pytest.raises(ValueError, match="not a model file"):
        models.load(path)
    with pytest.raises(FileNotFoundError):
        models.load(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 2}, "version 2 of the model format, this hpcml reads up to 1: install a newer"),
        ({"class": "Oracle"}, "holds a 'Oracle'; this hpcml knows .*MLPClassifier"),
        ({"format": "other"}, "format 'other'; expected 'hpcml model'"),
    ],
)
def test_headers_of_another_kind_are_refused(tmp_path, change, message):
    path = tmp_path / "model.npz"
    models.save(path, SGDClassifier(epochs=1).fit(GOOD_X, GOOD_Y))
    with np.load(path) as file:
        contents = dict(file)
    header = {**json.loads(contents["header"].tobytes()), **change}
    contents["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **contents)
    with pytest.raises(ValueError, match=message):
        models.load(path)
