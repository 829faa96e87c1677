"""SVC over ranks: known answers, scikit-learn's LIBSVM beside it, one rank equal to p ranks, the same bits."""

import warnings

import numpy as np
import pytest
from model_cases import blobs, part
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import models
from hpcml.models import SVC

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
EXACT = 1e-9  # tolerance


def rings(rows=200, seed=3, dtype="f8"):
    """Two classes at distances around 1 and 2, one in ten astray; off the origin; and a constant column."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, rows)
    angle, radius = random.uniform(0, 2 * np.pi, rows), 1 + y + random.normal(0, 0.35, rows)
    X = np.stack([radius * np.cos(angle) + 5, radius * np.sin(angle), np.full(rows, 7.0)], axis=1)
    return X.astype(dtype), y


def skewed(*arrays):
    """This rank's rows: in order, most of them on rank 0, none on the last of several."""
    total = len(arrays[0])
    cuts = [0, *(total - total // 2 ** (r + 2) for r in range(SIZE - 1)), total]
    if SIZE > 1:
        cuts[-2] = total
    return [array[cuts[RANK] : cuts[RANK + 1]] for array in arrays]


def attributes(model):
    names = ("support_", "support_vectors_", "n_support_", "dual_coef_", "intercept_", "n_iter_", "probA_", "probB_")
    return {name: getattr(model, name) for name in names if hasattr(model, name)}


def libsvm(X, y, sample_weight=None, **options):
    svm = pytest.importorskip("sklearn.svm")
    return svm.SVC(**{"tol": EXACT, **options}).fit(X, y, sample_weight)


def test_two_points_are_separated_half_way():
    """α = 2 / |x − z|² for a hard margin; with equal rows they share it."""
    X, y = np.array([[1.0, 0], [4.0, 4], [1.0, 0]]), np.array([0, 1, 0])
    model = SVC(C=10, kernel="linear", tol=EXACT).fit(*part(X, y))
    np.testing.assert_allclose(model.decision_function(X), [-1, 1, -1], atol=1e-8)
    np.testing.assert_allclose(np.abs(model.dual_coef_).sum(), 2 * 2 / 25, rtol=1e-7)
    assert model.support_[-1] == 1 and model.fit_status_ == 0
    np.testing.assert_allclose(model.history_[-1]["objective"], -2 / 25, rtol=1e-6)


def test_exclusive_or_by_a_polynomial():
    X, y = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]), np.array(["no", "yes", "yes", "no"])
    model = SVC(C=10, kernel="poly", degree=2, gamma=1.0, coef0=1.0, tol=EXACT).fit(*part(X, y))
    # Haykin, Neural Networks, section 6.6: α = 1/8 for each point, and f(x) = −x₁x₂.
    np.testing.assert_allclose(np.abs(model.dual_coef_), np.full((1, 4), 1 / 8), rtol=1e-7)
    np.testing.assert_allclose(model.decision_function(X), [-1, 1, 1, -1], rtol=1e-7)


KERNELS = [
    dict(kernel="rbf", C=3.0),
    dict(kernel="rbf", gamma="auto", C=0.3, class_weight="balanced"),
    dict(kernel="linear", C=0.1, class_weight={1: 2.5}),
    dict(kernel="poly", degree=2, gamma=0.1, coef0=0.5),
    dict(kernel="sigmoid", gamma=0.01, coef0=0.1),
]


@pytest.mark.parametrize("options", KERNELS, ids=lambda o: o["kernel"])
def test_the_model_is_libsvms(options):
    X, y = rings()
    model, theirs = SVC(tol=EXACT, **options).fit(*part(X, y)), libsvm(X, y, **options)
    # LIBSVM keeps kernel values, here up to 55 for poly, in float32.
    bound = 3e-4 if options["kernel"] == "poly" else 1e-5
    np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(X), atol=bound)
    np.testing.assert_allclose(model.intercept_, theirs.intercept_, atol=bound)
    np.testing.assert_array_equal(model.support_vectors_, X[model.support_])
    if options["kernel"] == "rbf":  # elsewhere, in few dimensions, many choices of support vectors are optimal
        np.testing.assert_array_equal(model.support_, theirs.support_)
        np.testing.assert_array_equal(model.n_support_, theirs.n_support_)
    last = model.history_[-1]
    assert last["violation"] <= EXACT and (0 <= last["gap"] < 1e-7 or options["kernel"] == "sigmoid")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_at_the_usual_tolerance_the_objective_is_libsvms(dtype):
    X, y = rings(900, dtype=dtype)
    exact = SVC(tol=1e-6).fit(*part(X.astype("f8"), y)).history_[-1]["objective"]
    model = SVC().fit(*part(X, y))
    assert abs(model.history_[-1]["objective"] / exact - 1) < 1e-5
    assert model.support_vectors_.dtype == dtype
    assert np.mean(model.predict(X) == libsvm(X, y, tol=1e-3).predict(X)) > 0.998


def test_more_classes_are_scikit_learns():
    X, y = blobs(4)
    for options in (dict(), dict(class_weight="balanced", C=0.2), dict(decision_function_shape="ovo")):
        model, theirs = SVC(tol=EXACT, **options).fit(*part(X, y)), libsvm(X, y, **options)
        np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(X), atol=1e-5)
        np.testing.assert_array_equal(model.support_, theirs.support_)
        np.testing.assert_allclose(model.dual_coef_, theirs.dual_coef_, atol=1e-4)
        np.testing.assert_array_equal(model.predict(X), theirs.predict(X))
    assert model.n_iter_.shape == model.intercept_.shape == (6,)


def test_weights_of_rows_scale_c_and_rows_without_any_are_left_out():
    X, y = rings()
    weights = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    model = SVC(gamma=0.3, tol=EXACT).fit(*part(X, y, weights))
    theirs = libsvm(X, y, weights, gamma=0.3)
    np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(X), atol=1e-5)
    assert (weights[model.support_] > 0).all()
    with pytest.raises(hc.CollectiveError, match="zero for every row of class 1"):
        SVC().fit(*part(X, y, np.where(y == 1, 0.0, 1.0)))


def test_small_working_sets_and_a_small_cache_find_the_same(monkeypatch):
    from hpcml.models.svm import solver

    X, y = rings(500)
    expected = SVC(gamma=0.5, tol=1e-7).fit(*part(X, y)).decision_function(X)
    monkeypatch.setitem(solver.optimise.__kwdefaults__, "working", 16)
    for cache_size in (500, 1e-9):
        model = SVC(gamma=0.5, tol=1e-7, cache_size=cache_size).fit(*part(X, y))
        assert len(model.history_) > 30
        np.testing.assert_allclose(model.decision_function(X), expected, atol=1e-6)


def test_ranks_find_what_one_rank_does():
    X, y = blobs(3)
    alone = SVC(tol=1e-6, comm=MPI.COMM_SELF).fit(X, y)
    for spread in (part, skewed):
        model = SVC(tol=1e-6).fit(*spread(X, y))
        np.testing.assert_allclose(model.decision_function(X), alone.decision_function(X), atol=1e-5)
        assert model.score(*spread(X, y)) == alone.score(X, y)
    sorted_by_class = np.argsort(y, kind="stable")  # most ranks lack a class
    model = SVC(tol=1e-6).fit(*part(X[sorted_by_class], y[sorted_by_class]))
    np.testing.assert_allclose(model.decision_function(X), alone.decision_function(X), atol=1e-5)


REPRODUCIBLE = [
    dict(kernel="rbf"),
    dict(kernel="poly", coef0=1.0),
    dict(kernel="sigmoid", gamma=0.01),
    dict(kernel="rbf", probability=True),
]


@pytest.mark.parametrize("options", REPRODUCIBLE, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_ranks_end_with_the_bits_of_one_rank(options, dtype):
    sparse = pytest.importorskip("scipy.sparse")
    X, y = blobs(3, 400)
    X = np.concatenate([X, X @ np.random.default_rng(0).normal(size=(4, 9))], axis=1).astype(dtype)
    options = {"reproducible": True, "C": 5, **options}
    alone = attributes(SVC(comm=MPI.COMM_SELF, **options).fit(X, y))
    for spread in (part, skewed):
        # A cache that holds next to nothing must change nothing either.
        for cache_size in (500, 1e-9):
            model = SVC(cache_size=cache_size, **options).fit(*spread(X, y))
            for name, array in attributes(model).items():
                np.testing.assert_array_equal(array, alone[name], err_msg=name, strict=True)
    if options["kernel"] == "poly":
        rows = sparse.csr_array(np.where(X > 0, X, 0))
        alone = SVC(comm=MPI.COMM_SELF, **options).fit(rows, y)
        model = SVC(**options).fit(*skewed_sparse(rows, y))
        np.testing.assert_array_equal(model.dual_coef_, alone.dual_coef_)
        np.testing.assert_array_equal(model.intercept_, alone.intercept_)


def skewed_sparse(rows, y):
    (places,) = skewed(np.arange(len(y)))
    return rows[places], y[places]


def test_sparse_rows_are_as_good_as_dense():
    sparse = pytest.importorskip("scipy.sparse")
    X, y = blobs(3)
    X = np.where(X > 0, X, 0)
    for kernel in ("rbf", "linear"):
        dense = SVC(kernel=kernel, tol=1e-8).fit(*part(X, y))
        (places,) = part(np.arange(len(y)))
        model = SVC(kernel=kernel, tol=1e-8).fit(sparse.csr_array(X[places].reshape(-1, 4)), y[places])
        np.testing.assert_array_equal(model.support_vectors_.toarray(), dense.support_vectors_)
        for given in (X, sparse.csr_array(X)):
            for fitted in (model, dense):
                np.testing.assert_allclose(fitted.decision_function(given), dense.decision_function(X), atol=1e-6)


def test_a_precomputed_kernel_is_as_good_as_a_computed_one():
    for X, y in (rings(), blobs(3)):
        K = np.exp(-0.4 * ((X[:, None] - X) ** 2).sum(axis=2))
        model = SVC(kernel="precomputed", tol=1e-8, probability=True).fit(*part(K, y))
        computed = SVC(gamma=0.4, tol=1e-8, probability=True).fit(*part(X, y))
        np.testing.assert_allclose(model.decision_function(K), computed.decision_function(X), atol=1e-6)
        np.testing.assert_allclose(model.predict_proba(K), computed.predict_proba(X), atol=1e-4)
        np.testing.assert_array_equal(model.support_, computed.support_)
    with pytest.raises(hc.CollectiveError, match="149 columns; the precomputed kernel of 150 rows"):
        SVC(kernel="precomputed").fit(*part(K[:, 1:], y))


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_are_those_of_a_cross_validation(classes):
    X, y = blobs(classes, 300)
    model = SVC(probability=True).fit(*part(X, y))
    p = model.predict_proba(X)
    assert p.shape == (len(X), classes) and (p > 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert np.mean(model.classes_[p.argmax(axis=1)] == y) > 0.95
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = libsvm(X, y, probability=True, random_state=0).predict_proba(X)
    # Their folds are others, and so are the sigmoids.
    assert np.abs(p - theirs).mean() < 0.02
    np.testing.assert_array_equal(model.predict_log_proba(X), np.log(p))


def test_probabilities_are_there_when_asked_for():
    X, y = rings()
    model = SVC().fit(*part(X, y))
    assert not hasattr(model, "predict_proba")
    model.set_params(probability=True)
    with pytest.raises(AttributeError, match="fitted with probability=False"):
        _ = model.predict_proba


def test_a_sigmoid_of_known_values():
    """Of values that say nothing of the class, the share of the positive; separated ones stay short of 1."""
    from hpcml.models.svm.platt import coupled, sigmoid

    values, positive = np.tile([-1.0, 1.0], 40), np.repeat([True, False], [60, 20])
    A, B = sigmoid(*part(values, positive), COMM, False)
    np.testing.assert_allclose(1 / (1 + np.exp(A * values + B)), 0.75, atol=0.02)
    A, B = sigmoid(*part(values, values > 0), COMM, False)
    np.testing.assert_allclose(1 / (1 + np.exp(A + B)), 41 / 42, atol=1e-3)
    p = np.array([0.5, 0.3, 0.2])
    pairs = np.array([[p[i] / (p[i] + p[j]) for i, j in ((0, 1), (0, 2), (1, 2))]])
    np.testing.assert_allclose(coupled(pairs, 3), [p], atol=2e-3)


def test_an_end_before_the_optimum_is_said():
    X, y = rings()
    with pytest.warns(Warning, match="stopped at a violation of .* above tol"):
        model = SVC(max_iter=5).fit(*part(X, y))
    assert model.fit_status_ == 1 and model.n_iter_[0] == 5


def test_model_files_hold_what_was_learnt(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    X, y = blobs(3)
    (places,) = part(np.arange(len(y)))
    for rows in (X, sparse.csr_array(X)):
        model = SVC(probability=True, class_weight={"ant": 2.0, "bee": 1.5}).fit(rows[places], y[places])
        path = tmp_path / f"{RANK}.npz"
        models.save(path, model)
        again = models.load(path, comm=COMM)
        assert {**again.get_params(), "comm": None} == model.get_params()
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        np.testing.assert_array_equal(again.decision_function(X), model.decision_function(X))


BAD = [
    (dict(C=0), "C=0; expected a number above 0"),
    (dict(kernel="cubic"), "kernel='cubic'; expected one of linear, poly"),
    (dict(gamma="large"), "gamma='large'; expected one of scale, auto"),
    (dict(gamma=-1), "gamma=-1"),
    (dict(tol=0), "tol=0"),
    (dict(max_iter=-2), "max_iter=-2"),
    (dict(class_weight="heavy"), "class_weight='heavy'"),
    (dict(class_weight={9: 2.0}), "class 9, which occurs on no rank"),
    (dict(cache_size=0), "cache_size=0"),
]


@pytest.mark.parametrize("bad, message", BAD, ids=lambda value: str(value).replace(" ", ""))
def test_parameters_out_of_range_are_errors_on_every_rank(bad, message):
    with pytest.raises(hc.CollectiveError, match=message):
        SVC(**bad).fit(*part(*rings()))


def test_bad_rows_on_one_rank_are_one_error_on_all():
    X, y = part(*rings())
    if RANK == 0:
        X = X.copy()
        X[0, 1] = np.nan
    model = SVC()
    with pytest.raises(hc.CollectiveError, match="NaN, infinity .* row 0, column 1") as caught:
        model.fit(X, y)
    assert len(set(COMM.allgather(str(caught.value)))) == 1 and not hasattr(model, "classes_")


def test_searches_and_pipelines_of_scikit_learn_work_on_each_rank():
    selection = pytest.importorskip("sklearn.model_selection")
    X, y = part(*rings(300))
    if SIZE > 1:  # each rank alone, on rows of its own: rows of all ranks would be cut differently
        X, y = rings(100, seed=RANK)
    search = selection.GridSearchCV(SVC(comm=MPI.COMM_SELF), {"C": [0.1, 10.0]}, cv=3).fit(X, y)
    assert search.best_params_ == {"C": 10.0} or search.best_score_ > 0.6
