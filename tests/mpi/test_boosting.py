"""Gradient boosting over ranks: the same bits on any number of them, known answers, scikit-learn's beside it."""

import os
import pickle

import numpy as np
import pytest
from model_cases import part
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import models
from hpcml.models import GradientBoostingClassifier, GradientBoostingRegressor
from hpcml.models.trees import quantisation

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
one_rank = pytest.mark.skipif(SIZE > 1, reason="asks nothing of several ranks, which train what one does")

SMALL = dict(n_estimators=6, max_leaf_nodes=8, min_samples_leaf=5)
CASES = {
    "two classes": GradientBoostingClassifier(**SMALL),
    "four classes": GradientBoostingClassifier(**SMALL),
    "squared error": GradientBoostingRegressor(**SMALL),
    "absolute error": GradientBoostingRegressor(**SMALL, loss="absolute_error"),
    "quantile": GradientBoostingRegressor(**SMALL, loss="quantile", alpha=0.9),
    "sampled": GradientBoostingClassifier(**SMALL, subsample=0.6, max_features=0.5, random_state=3),
    "deep": GradientBoostingRegressor(4, max_leaf_nodes=None, max_depth=6, min_samples_leaf=1, l2_regularization=1.0),
    "monotone": GradientBoostingRegressor(**SMALL, monotonic_cst=[1, 0, 0, -1, 0, 0]),
    "few bins": GradientBoostingClassifier(**SMALL, max_bins=7),
    "stopping": GradientBoostingClassifier(20, max_leaf_nodes=4, n_iter_no_change=2, learning_rate=0.7),
}
every_case = pytest.mark.parametrize("case", CASES)


def fresh(estimator, **changes):
    return type(estimator)(**{**estimator.get_params(), **changes})


def table(rows=500, seed=0):
    """Columns with repetitions, one value, gaps, and codes; targets that hang together with them."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 6))
    X[:, 1] = np.round(X[:, 1], 1)
    X[:, 2] = 3.0
    X[:, 4] = random.integers(0, 9, rows)
    y = X[:, 0] * np.sign(X[:, 1]) + np.isin(X[:, 4], (2, 3, 7)) + 0.3 * random.normal(size=rows)
    X[random.random(rows) < 0.2, 3] = np.nan
    return X, y + np.isnan(X[:, 3])


def labelled(case, y):
    cuts = {"four classes": [0, 0.6, 1.4]}.get(case, [0.6])
    return np.digitize(y, cuts) if CASES[case].kind == "classifier" else y


def assert_same(model, alone):
    arrays = alone.trees_.arrays() | {"cuts": alone.edges_.cuts, "start": alone.start_}
    for name, array in (model.trees_.arrays() | {"cuts": model.edges_.cuts, "start": model.start_}).items():
        assert array.tobytes() == arrays[name].tobytes(), name


def both(estimator, mine, everyones, **fitting):
    """Fitted on all ranks, and by each rank on all the rows."""
    weights = {"sample_weight": mine[2]} if len(mine) > 2 else {}
    all_weights = {"sample_weight": everyones[2]} if len(mine) > 2 else {}
    model = fresh(estimator).fit(*mine[:2], **weights, **fitting)
    return model, fresh(estimator, comm=MPI.COMM_SELF).fit(*everyones[:2], **all_weights, **fitting)


def test_there_is_something_to_compare():
    X, y = table()
    model = CASES["two classes"]
    a, b = (fresh(model, comm=MPI.COMM_SELF, random_state=s).fit(X, labelled("two classes", y)) for s in (0, 1))
    assert a.trees_.gain.tobytes() != b.trees_.gain.tobytes()
    assert (a.trees_.feature >= 0).sum() > 20


@every_case
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_p_ranks_train_what_one_does(case, weighted):
    """Uneven shards, from three ranks on one without rows, sorted by label: ranks lack classes."""
    X, y = table()
    y = labelled(case, y)
    order = np.argsort(y, kind="stable")
    rows = [X[order], y[order]]
    if weighted:
        rows.append(np.random.default_rng(1).integers(1, 5, len(y)) * 0.25)
    model, alone = both(CASES[case], part(*rows), rows)
    assert_same(model, alone)
    assert (model.predict(X) == alone.predict(X)).all()


@pytest.mark.parametrize("case", ["two classes", "four classes", "absolute error", "sampled", "deep", "stopping"])
def test_features_over_ranks_give_the_same_trees(case):
    X, y = table()
    y = labelled(case, y)
    order = np.argsort(y, kind="stable")
    rows = [X[order], y[order]]
    spread = fresh(CASES[case], parallel="feature").fit(*part(*rows))
    assert_same(spread, fresh(CASES[case], comm=MPI.COMM_SELF).fit(*rows))
    assert spread.history_[-1].get("validation_loss") is not None or case != "stopping"


@pytest.mark.parametrize("top_k", [3, 20])
def test_where_all_features_are_elected_the_trees_are_the_same(top_k):
    X, y = table()
    rows = [X, labelled("four classes", y)]
    model = fresh(CASES["four classes"], parallel="voting", top_k=top_k).fit(*part(*rows))
    assert_same(model, fresh(CASES["four classes"], comm=MPI.COMM_SELF).fit(*rows))


def wide(rows=900, columns=60):
    random = np.random.default_rng(5)
    X = random.normal(size=(rows, columns)).astype(np.float32)
    return X, (X[:, 7] + X[:, 31] - X[:, 44] + 0.3 * random.normal(size=rows) > 0).astype(int)


def test_votes_find_the_columns_that_tell():
    X, y = wide()
    rows = part(X[:600], y[:600])
    model = GradientBoostingClassifier(20, max_leaf_nodes=8, parallel="voting", top_k=3).fit(*rows)
    assert set(np.argsort(-model.feature_importances_)[:3]) == {7, 31, 44}
    assert (model.predict(X[600:]) == y[600:]).mean() > 0.85
    assert len(set(COMM.allgather(model.trees_.threshold.tobytes()))) == 1


@pytest.mark.skipif(SIZE == 1, reason="nothing is sent")
def test_what_is_sent_is_what_the_formulas_say():
    """Of one tree with two leaves: a root, and no other node that is asked for."""
    X, y = wide()
    rows = part(X, y)
    bins, record = 255, 12 * 8
    sent = {}
    for parallel in ("data", "voting", "feature"):
        model = GradientBoostingClassifier(1, max_leaf_nodes=2, parallel=parallel, top_k=3).fit(*rows)
        sent[parallel] = COMM.allreduce(model.history_[0]["sent_nbytes"])
    records = SIZE * (SIZE - 1) * record
    rows_left = SIZE * (SIZE - 1).bit_length() * 8
    assert sent["data"] == (SIZE - 1) * 60 * bins * 8 + records + rows_left
    assert sent["voting"] == (SIZE - 1) * 6 * bins * 8 + SIZE * (SIZE - 1) * 3 * 8 + records + rows_left
    sides = (SIZE - 1) * (-(-len(X) // 8))
    own = COMM.allreduce(len(rows[0]) * len(np.array_split(np.arange(60), SIZE)[RANK]))
    assert sent["feature"] == len(X) * 60 - own + (SIZE - 1) * len(X) * (8 + 4) + sides + records


@pytest.mark.skipif(SIZE > 1, reason="the same bits on any number of ranks: another test's")
def test_leaves_have_as_many_rows_as_they_tell():
    """Also where hessians differ much: late, a few hard rows have most of it."""
    X, y = table(400)
    y = (y > np.median(y)).astype(int)
    model = GradientBoostingClassifier(60, max_leaf_nodes=8, min_samples_leaf=5).fit(X, y)
    trees = model.trees_
    for tree in (0, 59):
        nodes = slice(trees.starts[tree], trees.starts[tree + 1])
        feature, left, count = trees.feature[nodes], trees.left[nodes], trees.count[nodes]
        assert count[0] == len(y)
        inner = np.flatnonzero(feature >= 0)
        assert (count[left[inner]] + count[left[inner] + 1] == count[inner]).all() and (count > 0).all()


@pytest.mark.parametrize("holder", {0, SIZE - 1})
def test_all_rows_on_one_rank(holder):
    X, y = table(200)
    none = slice(None) if holder == RANK else slice(0)
    assert_same(*both(CASES["squared error"], [X[none], y[none]], [X, y]))


@pytest.mark.parametrize("columns", [1, 2])
def test_more_ranks_than_columns(columns):
    X, y = table(200)
    rows = [X[:, :columns], y]
    assert_same(*both(CASES["squared error"], part(*rows), rows))


def test_fewer_rows_than_ranks():
    X, y = np.array([[1.0], [2.0], [np.nan]]), np.array([1.0, 2, 3])
    model, alone = both(GradientBoostingRegressor(30, min_samples_leaf=1, learning_rate=0.5), part(X, y), [X, y])
    assert_same(model, alone)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-3)


def test_two_integers_a_row_for_very_many_rows(monkeypatch):
    """The wide sums, beyond 2²² rows: the same on all ranks, and nearly what packed sums give."""
    X, y = table()
    packed = fresh(CASES["squared error"], comm=MPI.COMM_SELF).fit(X, y)
    monkeypatch.setattr(quantisation, "packed_bits", lambda rows: 0)
    for case in ("squared error", "two classes", "four classes"):
        rows = [X, labelled(case, y)]
        wide, alone = both(CASES[case], part(*rows), rows)
        assert_same(wide, alone)
        if case == "squared error":
            np.testing.assert_allclose(wide.predict(X), packed.predict(X), atol=2e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_on_an_edge_go_where_they_went_in_training(dtype):
    X, y = table(200)  # as many bins as values
    X = X.astype(dtype)
    rows = part(X, y)
    model = GradientBoostingRegressor(1, learning_rate=1, max_leaf_nodes=None, min_samples_leaf=1).fit(*rows)
    assert abs(model.predict(X) - y).max() < 1e-4  # every row has its leaf
    np.testing.assert_array_equal(model.predict(X.astype(np.float32)), model.predict(X.astype("f4").astype("f8")))


def test_gaps_that_come_later_are_a_matter_of_weight():
    """No gaps in training: they go with the heavier child. Gaps in a warm start get a direction of their own."""
    X, y = table(400)
    X[:, 3] = np.arange(400) % 7
    y = y + (X[:, 3] == 0)
    mine = part(X, y)
    model = fresh(CASES["squared error"], warm_start=True).fit(*mine)
    holed = X.copy()
    holed[::3, [0, 1, 3]] = np.nan
    assert np.isfinite(model.predict(holed)).all()
    assert not model.edges_.missing.any()
    model.set_params(n_estimators=12).fit(*part(holed, y - 5.0 * np.isnan(holed[:, 3])))
    alone = fresh(CASES["squared error"], warm_start=True, comm=MPI.COMM_SELF).fit(X, y)
    alone.set_params(n_estimators=12).fit(holed, y - 5.0 * np.isnan(holed[:, 3]))
    assert_same(model, alone)
    assert list(model.edges_.missing) == [True, True, False, True, False, False]
    assert model.predict(holed[::3]).mean() < model.predict(X).mean() - 1


def frame(X):
    pandas = pytest.importorskip("pandas")
    made = pandas.DataFrame({f"c{f}": X[:, f] for f in range(X.shape[1])})
    kinds = np.array([f"kind {k}" for k in range(9)], dtype=object)[X[:, 4].astype(int)]
    kinds[::11] = None
    made["c4"] = pandas.Categorical(kinds)
    return made


def test_categories_of_data_frames():
    """They are those of all ranks, whatever a rank's own are; a set of them is one split."""
    X, y = table(800)
    everyones = frame(X)
    here = part(np.arange(800))[0]
    mine = everyones.iloc[here].copy()
    mine["c4"] = mine["c4"].cat.remove_unused_categories()
    model, alone = both(CASES["squared error"], [mine, y[here]], [everyones, y])
    assert_same(model, alone)
    assert model.trees_.categorical.any()
    assert model.columns_.categories[4] == [f"kind {k}" for k in range(9)]
    one = everyones.iloc[[0] * 10].copy()
    one["c4"] = [f"kind {k}" for k in range(9)] + ["unheard of"]
    found = model.predict(one)
    assert {k for k in range(9) if found[k] > np.median(found[:9])} >= {2, 3, 7}
    assert found[9] == model.predict(one.iloc[9:].assign(c4=None))[0]
    reloaded = pickle.loads(pickle.dumps(model))
    assert (reloaded.predict(everyones) == model.predict(everyones)).all()


@one_rank
@pytest.mark.parametrize("classify", [False, True])
def test_monotone_columns_are(classify):
    random = np.random.default_rng(0)
    X = random.uniform(-2, 2, (600, 3))
    X[random.random(600) < 0.1, 2] = np.nan
    y = X[:, 0] + np.sin(4 * X[:, 0]) - X[:, 1] ** 3 / 4 + np.sin(5 * X[:, 1]) + random.normal(size=600) * 0.4
    kind, y = (GradientBoostingClassifier, y > 0) if classify else (GradientBoostingRegressor, y)
    settings = dict(n_estimators=30, min_samples_leaf=3, max_leaf_nodes=16)

    def steps(model):
        """Differences of the scores along columns 0 and 1, for some values of the others."""
        Z = np.repeat(X[:40], 200, axis=0).reshape(40, 200, 3)
        score = model.decision_function if classify else model.predict
        for f in (0, 1):
            along = Z.copy()
            along[:, :, f] = np.linspace(-2.5, 2.5, 200)
            yield np.diff(score(along.reshape(-1, 3)).reshape(40, 200), axis=1)

    free = kind(**settings).fit(*part(X, y))
    assert [(step < 0).any() and (step > 0).any() for step in steps(free)] == [True, True]
    model = kind(**settings, monotonic_cst=[1, -1, 0]).fit(*part(X, y))
    rising, falling = steps(model)
    assert (rising >= 0).all() and (rising > 0).any()
    assert (falling <= 0).all() and (falling < 0).any()


@one_rank
def test_a_weight_of_two_is_a_row_twice():
    X, y = table()
    w = np.random.default_rng(1).integers(0, 3, len(y))
    weighted = fresh(CASES["squared error"]).fit(*part(X, y), sample_weight=part(w)[0])
    twice = fresh(CASES["squared error"]).fit(*part(np.repeat(X, w, axis=0), np.repeat(y, w)))
    # Rows are counted by their weight and rounded at random: a few splits may differ.
    assert np.median(abs(weighted.predict(X) - twice.predict(X))) < 0.02
    assert np.corrcoef(weighted.predict(X), twice.predict(X))[0, 1] > 0.98


@one_rank
def test_rows_without_weight_do_not_matter():
    X, y = table()
    w = (np.arange(len(y)) % 3 > 0).astype(float)
    wrong = np.where(w == 0, 1e3 * y, y)
    model = fresh(CASES["squared error"]).fit(*part(X, wrong), sample_weight=part(w)[0])
    assert abs(model.predict(X)).max() < 5
    assert model.start_[0] == pytest.approx(y[w > 0].mean())


@one_rank
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_quantiles_cover(alpha):
    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, (6000, 3))
    y = X[:, 0] + (1 + X[:, 1]) * random.exponential(size=6000)
    train, test = slice(0, 3000), slice(3000, 6000)
    model = GradientBoostingRegressor(40, loss="quantile", alpha=alpha, max_leaf_nodes=8)
    model.fit(*part(X[train], y[train]))
    assert (y[test] <= model.predict(X[test])).mean() == pytest.approx(alpha, abs=0.035)
    truth = X[test, 0] - (1 + X[test, 1]) * np.log(1 - alpha)
    assert abs(model.predict(X[test]) - truth).mean() < 0.4  # of up to 4.6


@one_rank
def test_absolute_errors_are_deaf_to_outliers():
    X, y = table(800)
    broken = np.where(np.arange(800) % 20 == 0, y + 1000, y)
    errors = {}
    for loss in ("absolute_error", "squared_error"):
        model = GradientBoostingRegressor(60, loss=loss, max_leaf_nodes=8).fit(*part(X, broken))
        errors[loss] = abs(model.predict(X) - y).mean()
    assert errors["absolute_error"] < 0.6 < 10 < errors["squared_error"]


@one_rank
def test_absolute_errors_beside_scikit_learn():
    """On rows that neither has seen; single draws differ by 15 % either way, so the mean of five is compared."""
    ensemble = pytest.importorskip("sklearn.ensemble")
    theirs = ensemble.HistGradientBoostingRegressor(loss="absolute_error", max_iter=60, max_leaf_nodes=8)
    errors = []
    for seed in range(5):
        X, y = table(1600, seed)
        broken = np.where(np.arange(800) % 20 == 0, y[:800] + 1000, y[:800])
        ours = GradientBoostingRegressor(60, loss="absolute_error", max_leaf_nodes=8).fit(*part(X[:800], broken))
        theirs.fit(X[:800], broken)
        errors.append([abs(model.predict(X[800:]) - y[800:]).mean() for model in (ours, theirs)])
    found, expected = np.mean(errors, axis=0)
    assert found < 1.1 * expected


@pytest.mark.parametrize("given", [False, True], ids=["share", "given"])
def test_stopping_early_keeps_the_best(given):
    random = np.random.default_rng(0)
    X = random.normal(size=(600, 4))
    y = (X[:, 0] + random.normal(0, 2, 600) > 0).astype(int)
    settings = dict(n_estimators=80, learning_rate=0.5, max_leaf_nodes=8, n_iter_no_change=3)
    validation = dict(validation=part(X[400:], y[400:])) if given else {}
    model = GradientBoostingClassifier(**settings).fit(*part(X[:400], y[:400]), **validation)
    losses = [record["validation_loss"] for record in model.history_]
    assert len(losses) < 80
    assert len(model.trees_) == model.n_estimators_ == int(np.argmin(losses)) + 1 == len(losses) - 3
    if given:
        scores = model.decision_function(X[400:])
        found = np.mean(np.logaddexp(0, scores) - scores * y[400:])
        assert found == pytest.approx(min(losses), rel=1e-12)


@pytest.mark.parametrize("case", ["two classes", "four classes", "quantile", "sampled"])
def test_warm_start_goes_on_as_if_never_stopped(case):
    X, y = table()
    mine = part(X, labelled(case, y))
    begun = fresh(CASES[case], warm_start=True, n_estimators=5).fit(*mine)
    before = begun.trees_
    begun.set_params(n_estimators=11).fit(*mine)
    assert len(begun.trees_) > len(before)
    assert_same(begun, fresh(CASES[case], n_estimators=11).fit(*mine))
    assert [record["epoch"] for record in begun.history_] == list(range(1, 12))


def test_warm_start_wants_the_same_classes():
    X, y = table()
    model = fresh(CASES["two classes"], warm_start=True).fit(*part(X, y > 0))
    with pytest.raises(hc.ArgumentError, match="other classes than before"):
        model.fit(*part(X, np.where(y > 0, 5, 6)))


@pytest.mark.parametrize(
    "parameter",
    [
        dict(n_estimators=0),
        dict(max_bins=256),
        dict(subsample=0),
        dict(subsample=1.1),
        dict(max_leaf_nodes=1),
        dict(loss="hinge"),
        dict(alpha=1),
        dict(monotonic_cst=[2, 0, 0, 0, 0, 0]),
        dict(monotonic_cst=[1]),
        dict(categorical_features=[6]),
    ],
    ids=lambda p: next(iter(p)),
)
def test_wrong_parameters_are_named_on_every_rank(parameter):
    with pytest.raises(hc.CollectiveError, match=next(iter(parameter))):
        GradientBoostingRegressor(**parameter).fit(*part(*table()))


def test_importances_are_of_the_columns_that_tell():
    X, y = table()
    found = fresh(CASES["squared error"]).fit(*part(X, y)).feature_importances_
    assert found.sum() == pytest.approx(1)
    assert found[2] == 0 and found[5] < 0.1
    assert min(found[0], found[3], found[4]) > found[5]


def test_history():
    class Monitor:
        records = []

        def epoch(self, record):
            self.records.append(record)

    X, y = table()
    monitor = Monitor()
    model = fresh(CASES["two classes"]).fit(*part(X, y > 0.6), validation=part(X, y > 0.6), monitor=monitor)
    assert monitor.records == model.history_
    assert [record["epoch"] for record in model.history_] == [1, 2, 3, 4, 5, 6]
    losses = [record["loss"] for record in model.history_]
    assert losses == sorted(losses, reverse=True)
    assert losses == [record["validation_loss"] for record in model.history_]
    last = model.history_[-1]
    assert last["validation_accuracy"] == np.mean(model.predict(X) == (y > 0.6))
    assert (last["sent_nbytes"] > 0) == (SIZE > 1)
    assert last["leaves"] == 8 and last["seconds"] > 0


@pytest.mark.parametrize("case", ["four classes", "quantile"])
def test_models_come_back_from_files(case, tmp_path):
    X, y = table()
    model = fresh(CASES[case], categorical_features=(4,)).fit(*part(X, labelled(case, y)))
    models.save(tmp_path / "model.npz", model)
    for back in (models.load(tmp_path / "model.npz"), pickle.loads(pickle.dumps(model))):
        assert_same(back, model)
        assert (back.predict(X) == model.predict(X)).all()
        assert back.history_ == model.history_
        assert back.get_params() == model.get_params()


@one_rank
@pytest.mark.parametrize("name", ["breast_cancer", "digits", "diabetes"])
def test_as_good_as_scikit_learns(name):
    sklearn = pytest.importorskip("sklearn")
    from sklearn import datasets
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    cut = len(y) * 2 // 3
    train, test = order[:cut], order[cut:]
    settings = dict(learning_rate=0.1, max_leaf_nodes=15)
    if name == "diabetes":
        ours, theirs = GradientBoostingRegressor(40, **settings), HistGradientBoostingRegressor(max_iter=40, **settings)
    else:
        ours = GradientBoostingClassifier(40, **settings)
        theirs = HistGradientBoostingClassifier(max_iter=40, early_stopping=False, **settings)
    score = ours.fit(*part(X[train], y[train])).score(*part(X[test], y[test]))
    expected = theirs.fit(X[train], y[train]).score(X[test], y[test])
    assert sklearn and score > expected - (0.03 if name == "diabetes" else 0.012)


@one_rank
def test_higgs_beside_scikit_learn():
    folder = os.environ.get("HPCML_TEST_DATA")
    if folder is None or not os.path.exists(os.path.join(folder, "higgs.train.tsv")):
        pytest.skip("HPCML_TEST_DATA names no folder with higgs.train.tsv")
    metrics = pytest.importorskip("sklearn.metrics")
    from sklearn.ensemble import HistGradientBoostingClassifier

    train, test = (np.loadtxt(os.path.join(folder, f"higgs.{part}.tsv")) for part in ("train", "test"))
    settings = dict(max_leaf_nodes=31, learning_rate=0.1)
    ours = GradientBoostingClassifier(100, **settings).fit(train[:, 1:], train[:, 0])
    theirs = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, **settings)
    theirs.fit(train[:, 1:], train[:, 0])
    found, expected = (metrics.roc_auc_score(test[:, 0], m.predict_proba(test[:, 1:])[:, 1]) for m in (ours, theirs))
    assert found > expected - 0.006
