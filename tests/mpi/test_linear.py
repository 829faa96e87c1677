"""Linear models that are solved for: known answers, scikit-learn beside them, one rank equals p ranks, the same bits."""

import numpy as np
import pytest
from model_cases import blobs, fresh, part
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import models
from hpcml.models import LinearSVC, LinearSVR, LogisticRegression, Ridge

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
sparse = pytest.importorskip("scipy.sparse")


def numbers(rows=150, columns=6, seed=3):
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, columns)) * np.linspace(0.5, 2, columns)
    return X, X @ np.arange(1.0, columns + 1) + 5 + random.normal(size=rows) * 0.5


def problem(model, rows=150):
    return numbers(rows) if model.kind == "regressor" else blobs(3, rows)


EXACT = 1e-8
MACHINES = [
    LinearSVC(0.3, tol=EXACT),
    LinearSVC(0.3, loss="hinge", tol=1e-6),
    LinearSVC(0.3, loss="hinge", tol=1e-4, solver="dual", max_iter=5000),
    LinearSVC(0.3, tol=1e-6, solver="dual", max_iter=5000),
    LinearSVR(0.2, C=0.3, tol=1e-6),
    LinearSVR(0.2, C=0.3, tol=1e-4, solver="dual", max_iter=5000),
    LinearSVR(0.2, C=0.3, tol=EXACT, loss="squared_epsilon_insensitive"),
    LinearSVR(0.2, C=0.3, tol=1e-6, loss="squared_epsilon_insensitive", solver="dual", max_iter=5000),
]
OTHERS = [LogisticRegression(0.5, tol=1e-9), Ridge(0.7)]


def named(model):
    if not hasattr(model, "loss"):
        return type(model).__name__
    return f"{type(model).__name__}-{model.loss}" + ("-dual" if model.solver == "dual" else "")


every_machine = pytest.mark.parametrize("model", MACHINES, ids=named)
every_model = pytest.mark.parametrize("model", MACHINES + OTHERS, ids=named)


def objective(model, X, y, coef, intercept):
    """P of `hpcml.models.linear_svm`, for one score, in float64."""
    scores = X @ coef + intercept
    if model.kind == "regressor":
        beyond = np.maximum(0, abs(y - scores) - model.epsilon)
    else:
        beyond = np.maximum(0, 1 - y * scores)
    power = 2 if model.loss.startswith("squared") else 1
    return 0.5 * (coef @ coef + intercept**2) + model.C * (beyond**power).sum()


def test_two_points_have_the_widest_margin():
    """x = ±2 with labels ±1, without an intercept: w = ½ at the margin; the hinge's optimum has C ≥ α = ⅛."""
    X, y = np.array([[2.0], [-2.0]]), np.array([1, -1])
    rows = part(X, y)
    model = LinearSVC(10, loss="hinge", fit_intercept=False, tol=EXACT).fit(*rows)
    assert model.coef_[0, 0] == pytest.approx(0.5, abs=1e-7) and model.intercept_[0] == 0
    # With C below ⅛ both α are C, and w = Σ α y x = 4C.
    model = LinearSVC(0.05, loss="hinge", fit_intercept=False, tol=EXACT).fit(*rows)
    assert model.coef_[0, 0] == pytest.approx(0.2, abs=1e-7)
    # Squared: w = 4·α with α = 2C(1 − 2w), so that w = 8C/(1 + 16C).
    model = LinearSVC(1, fit_intercept=False, tol=EXACT).fit(*rows)
    assert model.coef_[0, 0] == pytest.approx(8 / 17, abs=1e-7)


@pytest.mark.parametrize("C", [0.1, 1.0, 1e6])
def test_logistic_regression_finds_a_known_minimum(C):
    """x = ±1, three of four labels following its sign: b = 0, and C·N(p − ¾) + w = 0 at p = 1/(1 + e^−w)."""
    X = np.tile([[1.0], [1.0], [1.0], [1.0], [-1.0], [-1.0], [-1.0], [-1.0]], (5, 1))
    y = np.tile([1, 1, 1, 0, 0, 0, 0, 1], 5)
    low, high = 0.0, 5.0
    for _ in range(100):
        w = (low + high) / 2
        low, high = (w, high) if C * 40 * (1 / (1 + np.exp(-w)) - 0.75) + w < 0 else (low, w)
    model = LogisticRegression(C, tol=1e-12).fit(*part(X, y))
    assert model.coef_[0, 0] == pytest.approx(w, abs=1e-9) and model.intercept_[0] == pytest.approx(0, abs=1e-9)


def test_ridge_solves_the_normal_equations():
    X, y = numbers()
    model = Ridge(2.0).fit(*part(X, y))
    centred = X - X.mean(axis=0)
    w = np.linalg.solve(centred.T @ centred + 2 * np.eye(6), centred.T @ (y - y.mean()))
    np.testing.assert_allclose(model.coef_, w, rtol=1e-12)
    assert model.intercept_ == pytest.approx(y.mean() - X.mean(axis=0) @ w, rel=1e-12)


@every_machine
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_machines_are_those_of_scikit_learn(model, weighted):
    svm = pytest.importorskip("sklearn.svm")
    X, y = problem(model)
    weights = np.random.default_rng(0).integers(1, 4, len(y)).astype(float) if weighted else None
    ours = fresh(model).fit(*part(X, y), *(part(weights) if weighted else ()))
    rival = getattr(svm, type(model).__name__)(C=model.C, loss=model.loss, tol=1e-9, max_iter=10**6, dual=True)
    rival.set_params(**({"epsilon": model.epsilon} if hasattr(model, "epsilon") else {}))
    rival.fit(X, y, sample_weight=weights)
    # P is strongly convex with modulus 1: ½‖w − w*‖² ≤ P(w) − P* ≤ gap · P. The rival is as far again, at most.
    primal = ours.history_[-1]["objective"]
    bound = 2 * np.sqrt(2 * model.tol * primal) + 1e-5
    assert np.linalg.norm(ours.coef_ - rival.coef_) <= bound
    assert np.abs(ours.intercept_ - rival.intercept_).max() <= bound
    assert ours.gap_ <= model.tol


@every_machine
def test_the_gap_is_a_bound_and_the_objective_is_reported(model):
    X, y = problem(model)
    if model.kind == "classifier":
        y = np.where(y == "ant", 1, -1)
    loose = fresh(model, tol=0.05).fit(*part(X, y))
    least = fresh(model, tol=1e-9, solver="newton", comm=MPI.COMM_SELF).fit(X, y)
    coef, intercept = np.ravel(loose.coef_), float(np.ravel(loose.intercept_)[0])
    P = objective(model, X, y, coef, intercept)
    lowest = objective(model, X, y, np.ravel(least.coef_), float(np.ravel(least.intercept_)[0]))
    assert loose.history_[-1]["objective"] == pytest.approx(P, rel=1e-9)
    assert P - lowest <= loose.gap_ * P <= 0.05 * P
    assert [record["epoch"] for record in loose.history_] == list(range(1, len(loose.history_) + 1))


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_that_of_scikit_learn(classes):
    linear = pytest.importorskip("sklearn.linear_model")
    X, y = blobs(classes)
    ours, theirs = LogisticRegression(0.5, tol=1e-9), linear.LogisticRegression(C=0.5, tol=1e-9, max_iter=10**4)
    ours.fit(*part(X, y))
    theirs.fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(np.exp(ours.predict_log_proba(X)), ours.predict_proba(X), rtol=1e-12)
    assert (ours.predict(X) == theirs.predict(X)).all()


@pytest.mark.parametrize("weighting", ["balanced", {"ant": 3.0, "bee": 0.5}], ids=["balanced", "by_label"])
def test_classes_are_weighted_as_in_scikit_learn(weighting):
    linear, svm = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.svm")
    X, y = blobs(3)
    X, y = X[(y != "ant") | (np.arange(len(y)) % 4 == 0)], y[(y != "ant") | (np.arange(len(y)) % 4 == 0)]
    pairs = [
        (LogisticRegression(0.5, tol=1e-9), linear.LogisticRegression(C=0.5, tol=1e-9, max_iter=10**4)),
        (LinearSVC(0.5, tol=EXACT), svm.LinearSVC(C=0.5, tol=1e-9, max_iter=10**6)),
    ]
    for ours, theirs in pairs:
        ours.set_params(class_weight=weighting).fit(*part(X, y))
        theirs.set_params(class_weight=weighting).fit(X, y)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-4)


@every_model
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_p_ranks_find_what_one_rank_does(model, kind):
    X, y = problem(model)
    X[:, 1] = 3.0  # a constant column
    X, y = np.repeat(X, 2, axis=0), np.repeat(y, 2)  # and duplicates
    X = X * (np.abs(X) > 0.3)
    ours = fresh(model)
    mine, labels = part(np.arange(len(y)), y)
    given = X[mine] if kind == "dense" else sparse.csr_array(X[mine])
    ours.fit(given, labels)
    alone = fresh(model, comm=MPI.COMM_SELF).fit(X, y)
    # Both are within the gap of the same minimum (see above); without one, rounding of the sums makes the difference.
    bound = 2 * np.sqrt(2 * model.tol * ours.history_[-1]["objective"]) if model in MACHINES else 1e-6
    assert np.linalg.norm(ours.coef_ - alone.coef_) <= bound
    assert len(set(COMM.allgather(ours.coef_.tobytes()))) == 1
    if model.kind == "regressor":
        np.testing.assert_allclose(ours.predict(sparse.csr_array(X)), ours.predict(X), rtol=1e-12)
    else:
        np.testing.assert_array_equal(ours.predict(sparse.csr_array(X)), ours.predict(X))


@every_model
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_reproducible_models_have_the_same_bits_on_any_ranks(model, kind):
    X, y = problem(model, 211)
    X = X * (np.abs(X) > 0.3)
    if kind == "sparse":
        X = sparse.csr_array(X)
    options = dict(reproducible=True) | ({"tol": 1e-3} if model in MACHINES else {})
    weights = np.arange(len(y)) % 3 + 0.5
    alone = fresh(model, **options, comm=MPI.COMM_SELF).fit(X, y, weights)
    mine, labels, heavy = part(np.arange(len(y)), y, weights)
    ours = fresh(model, **options).fit(X[mine], labels, heavy)
    np.testing.assert_array_equal(ours.coef_, alone.coef_, strict=True)
    np.testing.assert_array_equal(ours.intercept_, alone.intercept_)
    # All rows on the last rank, which is another spread.
    mine = slice(0, len(y) if RANK == SIZE - 1 else 0)
    last = fresh(model, **options).fit(X[mine], y[mine], weights[mine])
    np.testing.assert_array_equal(last.coef_, alone.coef_, strict=True)


def many_columns(rows=300, columns=1500, seed=0):
    random = np.random.default_rng(seed)
    X = sparse.random_array((rows, columns), density=0.02, rng=random, format="csr")
    truth = random.normal(size=columns)
    return X, X @ truth + 0.1 * random.normal(size=rows)


MANY = [LinearSVC(tol=1e-3), LinearSVC(loss="hinge", tol=1e-3), LogisticRegression(tol=1e-6), Ridge(0.1, tol=1e-10)]


@pytest.mark.parametrize("model", MANY, ids=named)
def test_many_columns_take_other_ways_to_the_same_minimum(model):
    """Conjugate gradients, and coordinate descent; reproducible with the same bits, too."""
    X, y = many_columns()
    y = y if model.kind == "regressor" else (y > 0).astype(int) + (y > 1)
    mine, labels = part(np.arange(len(y)), y)
    ours = fresh(model).fit(X[mine], labels)
    alone = fresh(model, comm=MPI.COMM_SELF).fit(X.toarray(), y)
    if isinstance(model, LinearSVC):
        bound = 2 * np.sqrt(2 * model.tol * ours.history_[-1]["objective"])
        assert ours.gap_ <= model.tol
    else:
        bound = 1e-3
    assert np.linalg.norm(ours.coef_ - alone.coef_) <= bound
    exact = [fresh(model, reproducible=True, comm=comm) for comm in (None, MPI.COMM_SELF)]
    exact[0].fit(X[mine], labels)
    exact[1].fit(X, y)
    np.testing.assert_array_equal(exact[0].coef_, exact[1].coef_, strict=True)


def test_a_sample_of_the_rows_foresees_the_hessian(monkeypatch):
    """With more rows than its sample Newton's method ends at the same minimum."""
    from hpcml.models import newton

    monkeypatch.setattr(newton, "SAMPLE", 20)
    X, y = blobs(2, 4000)
    mine = part(X, y)
    for model in (LinearSVC(tol=1e-6), LogisticRegression(tol=1e-8)):
        sampled = fresh(model).fit(*mine)
        with monkeypatch.context() as whole:
            whole.setattr(newton, "SAMPLE", 10**6)
            exact = fresh(model).fit(*mine)
        assert sampled.n_iter_ >= exact.n_iter_
        np.testing.assert_allclose(sampled.coef_, exact.coef_, atol=5e-2 if isinstance(model, LinearSVC) else 1e-5)


@every_model
def test_float32_comes_close_to_float64(model):
    X, y = problem(model)
    single = fresh(model, tol=1e-3).fit(*part(X.astype(np.float32), y))
    double = fresh(model, tol=1e-3).fit(*part(X.astype(np.float32).astype(float), y))
    # Both stop at a gap of 1e-3, perhaps at different iterations.
    assert single.score(*part(X, y)) == pytest.approx(double.score(*part(X, y)), abs=2e-3)


@every_model
def test_a_saved_model_comes_back_whole(model, tmp_path):
    X, y = problem(model)
    ours = fresh(model, tol=1e-2).fit(*part(X, y))
    models.save(tmp_path / "model.npz", ours)
    twin = models.load(tmp_path / "model.npz", comm=MPI.COMM_SELF)
    np.testing.assert_array_equal(twin.predict(X), ours.predict(X))
    assert {**twin.get_params(), "comm": None} == ours.get_params()
    assert (twin.n_iter_, twin.n_features_in_) == (ours.n_iter_, X.shape[1])


def test_pipelines_and_searches_work_on_each_rank():
    selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = blobs(3)
    pipeline = make_pipeline(StandardScaler(), LinearSVC(comm=MPI.COMM_SELF))
    search = selection.GridSearchCV(pipeline, {"linearsvc__C": [0.01, 1.0]}, cv=3).fit(X, y)
    assert search.best_score_ >= 0.95 and search.best_estimator_.score(X, y) >= 0.95


def test_an_end_before_the_gap_is_reached_is_told():
    X, y = blobs(2)
    with pytest.warns(UserWarning, match="LinearSVC ended after 1 iterations with a relative duality gap of"):
        model = LinearSVC(tol=1e-12, max_iter=1).fit(*part(X, y))
    assert model.gap_ > 1e-12


def test_a_monitor_sees_every_iteration_on_every_rank():
    class Recorder:
        def __init__(self):
            self.records = []

        def epoch(self, record):
            self.records.append(record)

    X, y = blobs(3)
    for model in (LinearSVC(), LogisticRegression()):
        seen = Recorder()
        model.fit(*part(X, y), validation=part(X[:40], y[:40]), monitor=seen)
        assert seen.records == model.history_
        assert {"loss", "gap", "accuracy", "validation_accuracy", "communication_seconds"} <= set(seen.records[0])
        last = seen.records[-1]
        assert last["accuracy"] == pytest.approx(model.score(*part(X, y)))
        assert last["validation_accuracy"] == pytest.approx(model.score(*part(X[:40], y[:40])))


def test_sparse_rows_that_are_wrong_are_one_error_on_every_rank():
    X, y = blobs(2)
    bad = X.copy()
    bad[2, 1] = np.nan
    with pytest.raises(hc.CollectiveError, match="X has NaN"):
        LinearSVC().fit(sparse.csr_array(bad if RANK == SIZE - 1 else X), y)
