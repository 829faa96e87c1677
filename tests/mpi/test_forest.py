"""Trees and forests over ranks: the same bits on any number of them, known answers, scikit-learn beside them."""

import pickle

import numpy as np
import pytest
from model_cases import part
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml import models
from hpcml.models import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from hpcml.models.trees import forest
from hpcml.models.trees.quantiles import quantiles

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size

ESTIMATORS = [
    DecisionTreeClassifier(),
    DecisionTreeClassifier("entropy", max_leaf_nodes=12),
    RandomForestClassifier(7),
    DecisionTreeRegressor(),
    DecisionTreeRegressor(max_leaf_nodes=12),
    RandomForestRegressor(5, max_features=0.5, min_samples_leaf=3),
]
every_estimator = pytest.mark.parametrize(
    "estimator", ESTIMATORS, ids=lambda e: f"{type(e).__name__}{'-best-first' * (e.max_leaf_nodes is not None)}"
)


def fresh(estimator, **changes):
    return type(estimator)(**{**estimator.get_params(), **changes})


def table(rows=600, seed=0):
    """Columns of numbers, with gaps and repetitions, and targets that hang together with them."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 6))
    X[:, 1] = np.round(X[:, 1], 1)
    X[:, 2] = 3.0
    y = X[:, 0] * np.sign(X[:, 1]) + 0.3 * random.normal(size=rows)
    X[random.random(rows) < 0.2, 3] = np.nan
    return X, y


def labelled(estimator, y):
    return np.digitize(y, [-0.7, 0, 0.8]) if estimator.kind == "classifier" else y


def arrays(model):
    return {**model.trees_.arrays(), "cuts": model.edges_.cuts}


def assert_same(model, alone):
    for name, array in arrays(alone).items():
        assert array.tobytes() == arrays(model)[name].tobytes(), name


@every_estimator
@pytest.mark.parametrize("few", [20_000, 60], ids=["few", "many"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_p_ranks_grow_what_one_does(estimator, few, weighted, monkeypatch):
    """Above 60 rows histograms are summed over ranks; the results are compared with those of one rank, bit by bit."""
    monkeypatch.setattr(forest, "FEW", few)
    X, y = table()
    y = labelled(estimator, y)
    w = np.random.default_rng(1).integers(0, 4, len(y)) * 0.25 if weighted else np.ones(len(y))
    order = np.argsort(y, kind="stable")  # each rank has classes of its own
    X, y, w = X[order], y[order], w[order]
    mine = part(X, y, w)
    model = fresh(estimator).fit(*mine[:2], sample_weight=mine[2] if weighted else None)
    alone = fresh(estimator, comm=MPI.COMM_SELF).fit(X, y, sample_weight=w if weighted else None)
    assert_same(model, alone)
    assert (model.predict(X) == alone.predict(X)).all()
    assert model.score(*mine[:2]) == pytest.approx(alone.score(X, y), rel=1e-12)


@every_estimator
def test_rows_on_one_rank_alone(estimator):
    X, y = table(80)
    y = labelled(estimator, y)
    last = RANK == SIZE - 1
    model = fresh(estimator).fit(X if last else X[:0], y if last else y[:0])
    assert_same(model, fresh(estimator, comm=MPI.COMM_SELF).fit(X, y))


@pytest.mark.parametrize("max_leaf_nodes", [None, 50])
def test_xor_needs_a_split_that_gains_nothing(max_leaf_nodes):
    X = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]] * 5)
    y = np.array([0, 1, 1, 0] * 5)
    model = DecisionTreeClassifier(max_leaf_nodes=max_leaf_nodes).fit(*part(X, y))
    assert model.score(*part(X, y)) == 1.0
    assert len(model.trees_.feature) == 7


def test_a_tree_is_scikit_learns():
    """With distinct gains at every node both are the same tree."""
    tree = pytest.importorskip("sklearn.tree")
    X, y = table(200, seed=3)
    X = np.nan_to_num(X[:, :2])
    X[:, 1] += np.arange(len(X)) * 1e-6
    for ours, theirs, target in (
        (DecisionTreeRegressor(max_depth=4), tree.DecisionTreeRegressor(max_depth=4), y),
        (DecisionTreeClassifier(max_depth=3), tree.DecisionTreeClassifier(max_depth=3), np.digitize(y, [0])),
        (
            DecisionTreeClassifier("entropy", max_depth=3),
            tree.DecisionTreeClassifier(criterion="entropy", max_depth=3),
            np.digitize(y, [0]),
        ),
    ):
        ours.fit(*part(X, target))
        theirs.fit(X, target)
        if ours.kind == "regressor":
            np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-12)
        found, split = theirs.tree_, theirs.tree_.children_left >= 0
        weighted = found.impurity * found.weighted_n_node_samples
        gains = (weighted - weighted[found.children_left] - weighted[found.children_right])[split]
        # Which of two features that gain the same is taken differs, so the gains are compared, whatever their features.
        np.testing.assert_allclose(np.sort(ours.trees_.gain[ours.trees_.feature >= 0]), np.sort(gains), rtol=1e-6)


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "diabetes"])
def test_real_data_beside_scikit_learn(name):
    datasets = pytest.importorskip("sklearn.datasets")
    import sklearn.ensemble

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y, cut = X[order], y[order], len(X) * 2 // 3
    if name == "diabetes":
        ours, theirs = RandomForestRegressor(60), sklearn.ensemble.RandomForestRegressor(60, random_state=0)
        spread = 0.05
    else:
        ours, theirs = RandomForestClassifier(60), sklearn.ensemble.RandomForestClassifier(60, random_state=0)
        spread = 0.016  # a standard deviation of an accuracy near 0.96 on the smaller test set, 190 rows
    found = ours.fit(*part(X[:cut], y[:cut])).score(*part(X[cut:], y[cut:]))
    expected = COMM.bcast(theirs.fit(X[:cut], y[:cut]).score(X[cut:], y[cut:]) if RANK == 0 else None)
    assert found >= expected - spread


def test_limits_are_kept():
    X, y = table()
    y = np.digitize(y, [0])
    model = DecisionTreeClassifier(max_depth=3, min_samples_leaf=20).fit(*part(X, y))
    trees = model.trees_
    assert trees.depths().max() <= 3
    assert trees.count[trees.feature < 0].min() >= 20
    assert trees.count[0] == len(X) and trees.count[trees.feature < 0].sum() == len(X)
    few = DecisionTreeClassifier(max_leaf_nodes=5).fit(*part(X, y)).trees_
    assert (few.feature < 0).sum() == 5
    split = DecisionTreeClassifier(min_samples_split=100).fit(*part(X, y)).trees_
    assert split.count[split.feature >= 0].min() >= 100
    grown = DecisionTreeClassifier().fit(*part(X, y)).trees_
    pruned = DecisionTreeClassifier(min_impurity_decrease=0.002).fit(*part(X, y)).trees_
    assert 1 < len(pruned.feature) < len(grown.feature)


def test_categories_and_gaps_are_split_natively():
    pandas = pytest.importorskip("pandas")
    random = np.random.default_rng(4)
    colours = np.array(["red", "green", "blue", "grey", "pink"])[random.integers(0, 5, 400)]
    size = random.normal(size=400)
    y = np.isin(colours, ["red", "grey"]) ^ np.isnan(np.where(random.random(400) < 0.3, np.nan, size))
    gaps = y ^ np.isin(colours, ["red", "grey"])
    frame = pandas.DataFrame({"colour": pandas.Categorical(colours), "size": np.where(gaps, np.nan, size)})
    first, last = (len(frame) * RANK // SIZE, len(frame) * (RANK + 1) // SIZE)
    mine = frame[first:last]
    mine = mine.assign(colour=mine["colour"].cat.remove_unused_categories())  # as a rank would read them
    model = DecisionTreeClassifier().fit(mine, y[first:last])
    assert (model.predict(frame) == y).all()
    assert len(model.trees_.feature) == 7, "one split of colours on each side of the gaps"
    assert model.feature_names_in_.tolist() == ["colour", "size"]
    unknown = pandas.DataFrame({"colour": pandas.Categorical(["violet"]), "size": [0.0]})
    assert model.predict(unknown).shape == (1,)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["size", "colour"]])
    many = np.arange(300.0)[:, None]
    with pytest.raises(hc.ArgumentError, match="column 0 has 300 categories; at most 255"):
        DecisionTreeClassifier(categorical_features=[0]).fit(many, np.arange(300) % 2)


@every_estimator
def test_models_are_saved_and_pickled_whole(estimator, tmp_path):
    X, y = table(150)
    y = labelled(estimator, y)
    model = fresh(estimator).fit(*part(X, y))
    models.save(tmp_path / "model.npz", model)
    for twin in (models.load(tmp_path / "model.npz", comm=MPI.COMM_SELF), pickle.loads(pickle.dumps(model))):
        assert_same(twin, model)
        assert (twin.predict(X) == model.predict(X)).all()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(criterion="mse"), "criterion='mse'; expected one of gini, entropy"),
        (dict(max_depth=0), "max_depth=0; expected a whole number of at least 1"),
        (dict(max_features=1.5), "max_features=1.5; expected"),
        (dict(max_features="half"), "max_features='half'; expected"),
        (dict(max_bins=300), "max_bins=300; expected at most 255"),
        (dict(class_weight="even"), "class_weight='even'; expected 'balanced'"),
        (dict(class_weight={7: 2.0}), "class_weight has 7, which is no class"),
    ],
)
def test_wrong_parameters_are_one_error_on_every_rank(change, message):
    X, y = table(60)
    with pytest.raises(hc.CollectiveError, match=message):
        DecisionTreeClassifier(**change).fit(*part(X, np.digitize(y, [0])))


def test_balanced_classes_weigh_the_same():
    X, y = table()
    y = np.digitize(y, [1.0])
    plain = RandomForestClassifier(10, max_depth=4).fit(*part(X, y))
    balanced = RandomForestClassifier(10, max_depth=4, class_weight="balanced").fit(*part(X, y))
    assert balanced.predict(X).mean() > plain.predict(X).mean()


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.7, 0.93, 1.0])
def test_quantiles_are_exact(level):
    random = np.random.default_rng(5)
    numbers = np.concatenate([random.normal(size=300), -np.exp(random.normal(size=300) * 20), np.zeros(40)])
    groups = random.integers(0, 4, len(numbers))
    groups[groups == 2] = 1  # nothing in group 2
    mine = part(numbers, groups)
    found = quantiles(*mine, 4, level, None, COMM)
    for k in (0, 1, 3):
        assert found[k] == np.quantile(numbers[groups == k], level, method="averaged_inverted_cdf")
    assert found[2] == 0
    even = np.arange(10.0)
    middle = quantiles(*part(even, np.zeros(10, np.int64)), 1, level, None, COMM)
    assert middle[0] == np.quantile(even, level, method="averaged_inverted_cdf")
    weights = random.integers(1, 5, len(numbers)).astype(float)
    found = quantiles(*mine, 4, level, part(weights)[0], COMM)
    repeated = np.repeat(numbers[groups == 3], weights[groups == 3].astype(int))
    # Weights are counted in parts of the largest, here exact.
    assert found[3] == np.quantile(repeated, level, method="averaged_inverted_cdf")
