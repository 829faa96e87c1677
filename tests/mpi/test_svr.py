"""SVR, Nystroem and RBFSampler over ranks: scikit-learn beside them, one rank equal to p ranks."""

import numpy as np
import pytest
from model_cases import blobs, part
from mpi4py import MPI

from hpcml import models
from hpcml.models import SVC, SVR, Nystroem, RBFSampler

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size


def waves(rows=200):
    random = np.random.default_rng(5)
    X = random.uniform(-3, 3, (rows, 2))
    return X, np.sin(X[:, 0]) + 0.3 * X[:, 1] + random.normal(0, 0.1, rows)


@pytest.mark.parametrize("options", [{}, dict(kernel="linear", C=0.5), dict(epsilon=0.0, C=10), dict(epsilon=5.0)])
def test_the_regression_is_libsvms(options):
    svm = pytest.importorskip("sklearn.svm")
    X, z = waves()
    model = SVR(tol=1e-9, **options).fit(*part(X, z))
    theirs = svm.SVR(tol=1e-9, **options).fit(X, z)
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), atol=5e-5)
    np.testing.assert_array_equal(model.support_, theirs.support_)
    np.testing.assert_allclose(model.dual_coef_, theirs.dual_coef_, atol=1e-3)
    assert abs(model.score(*part(X, z)) - theirs.score(X, z)) < 1e-5


def test_regressions_have_the_bits_of_one_rank(tmp_path):
    X, z = waves(400)
    alone = SVR(reproducible=True, comm=MPI.COMM_SELF).fit(X, z)
    model = SVR(reproducible=True).fit(*part(X, z))
    for name in ("support_", "support_vectors_", "dual_coef_", "intercept_"):
        np.testing.assert_array_equal(getattr(model, name), getattr(alone, name), err_msg=name, strict=True)
    models.save(tmp_path / f"{RANK}.npz", model)
    np.testing.assert_array_equal(models.load(tmp_path / f"{RANK}.npz").predict(X), model.predict(X))


@pytest.mark.parametrize("make", [Nystroem, RBFSampler], ids=["Nystroem", "RBFSampler"])
def test_features_are_those_of_one_rank_and_come_back_from_files(make, tmp_path):
    X, _ = blobs(3)
    alone = make(gamma=0.1, n_components=40, comm=MPI.COMM_SELF).fit(X)
    model = make(gamma=0.1, n_components=40).fit(*part(X))
    np.testing.assert_allclose(model.transform(X), alone.transform(X), atol=1e-8)
    assert list(model.get_feature_names_out()[:2]) == [f"{make.__name__.lower()}{i}" for i in range(2)]
    models.save(tmp_path / f"{RANK}.npz", model)
    np.testing.assert_array_equal(models.load(tmp_path / f"{RANK}.npz").transform(X), model.transform(X))


def test_products_of_features_approximate_the_kernel():
    X, _ = blobs(3)
    K = np.exp(-0.1 * ((X[:, None] - X) ** 2).sum(axis=2))
    few, all_rows = (Nystroem(gamma=0.1, n_components=n).fit(*part(X)) for n in (60, len(X)))
    assert np.abs(few.transform(X) @ few.transform(X).T - K).mean() < 0.01
    np.testing.assert_allclose(all_rows.transform(X) @ all_rows.transform(X).T, K, atol=1e-6)
    np.testing.assert_array_equal(few.components_, X[few.component_indices_])
    features = RBFSampler(gamma=0.1, n_components=4000).fit(*part(X)).transform(X)
    assert np.abs(features @ features.T - K).max() < 0.1


def test_features_of_sparse_rows_are_those_of_dense_ones():
    sparse = pytest.importorskip("scipy.sparse")
    X, _ = blobs(3)
    X = np.where(X > 0, X, 0)
    (places,) = part(np.arange(len(X)))
    for make in (Nystroem, RBFSampler):
        dense = make(n_components=20).fit(X[places])
        model = make(n_components=20).fit(sparse.csr_array(X[places].reshape(-1, 4)))
        np.testing.assert_allclose(model.transform(sparse.csr_array(X)), dense.transform(X), atol=1e-10)


def test_a_linear_machine_on_features_is_nearly_the_kernel_machine():
    X, y = blobs(3)
    features = Nystroem(gamma=0.1, n_components=60)
    mine, labels = part(X, y)
    linear = SVC(kernel="linear", C=10).fit(features.fit_transform(mine), labels)
    kernel = SVC(gamma=0.1, C=10).fit(mine, labels)
    assert np.mean(linear.predict(features.transform(X)) == kernel.predict(X)) > 0.98
