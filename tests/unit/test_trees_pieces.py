"""The pieces that trees are made of, each beside a plain way to compute the same."""

import numpy as np
import pytest

from hpcml.models.trees import binning, histogram, quantiles, quantisation, splitter
from hpcml.models.trees.binning import Edges
from hpcml.models.trees.elementary import exp, log
from hpcml.models.trees.partition import add_to_rows, partition
from hpcml.models.trees.splitter import Limits
from hpcml.models.trees.tree import LEAF, Predictor, Trees

numba = pytest.importorskip("numba")


@numba.njit
def exps(x):
    return np.array([exp(v) for v in x])


@numba.njit
def logs(x):
    found = np.empty_like(x)
    for i in range(len(x)):
        found[i] = log(x[i])
    return found


@numba.njit
def exps_in_a_loop(x):
    found = np.empty_like(x)
    for i in range(len(x)):
        found[i] = exp(x[i])
    return found


def test_exp_and_log_are_right_and_have_the_same_bits_wherever_they_stand():
    x = np.concatenate([np.linspace(-700, 700, 10_001), np.random.default_rng(0).normal(size=10_000)])
    np.testing.assert_allclose(exps_in_a_loop(x), np.exp(x), rtol=1e-15)
    np.testing.assert_allclose(logs(np.exp(x)), x, rtol=1e-14, atol=1e-14)
    for start in range(8):  # vector instructions take other numbers together
        assert (exps_in_a_loop(x[start : start + 1003]) == exps_in_a_loop(x)[start : start + 1003]).all()
        assert (logs(np.exp(x)[start : start + 1003]) == logs(np.exp(x))[start : start + 1003]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_values_have_a_bin_each_and_cuts_lie_between_them(dtype):
    values = np.array([0.1, 0.1, 5, np.nextafter(dtype(5), dtype(6)), -3, np.nan], dtype)
    cuts = binning._cuts(values, 255, 0)
    distinct = np.unique(values[:5])
    assert (np.searchsorted(cuts.astype(dtype), distinct) == np.arange(4)).all()
    assert len(binning._cuts(np.full(9, 2.0, dtype), 255, 0)) == 0
    assert len(binning._cuts(np.empty(0, dtype), 255, 0)) == 0


def test_many_values_have_bins_of_about_as_many_rows_and_frequent_ones_their_own():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=50_000), np.zeros(30_000)])
    cuts = binning._cuts(values, 63, 0)
    assert len(cuts) <= 62
    counts = np.bincount(np.searchsorted(cuts, values), minlength=len(cuts) + 1)
    zero = np.searchsorted(cuts, 0.0)
    assert counts[zero] == pytest.approx(30_000, abs=1000)
    others = np.delete(counts, zero)[1:-1]
    assert others.max() < 2.2 * others.min()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_where_a_search_finds_them(dtype):
    random = np.random.default_rng(1)
    X = random.normal(size=(1000, 4)).astype(dtype)
    X[random.random(X.shape) < 0.1] = np.nan
    X[:, 2] = random.integers(-1, 6, 1000)  # codes of 5 categories, and two that are none
    X[0, 0], X[1, 0] = np.inf, -np.inf
    parts = [np.sort(random.normal(size=n)).astype(dtype).astype(np.float64) for n in (254, 3, 0, 0)]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    edges = Edges(np.concatenate(parts), starts, np.array([0, 0, 5, 0]), np.array([True, True, False, True]))
    assert edges.bins.tolist() == [255, 4, 5, 1] and edges.width == 256
    found = binning.binned(X, edges)
    for f in range(4):
        expected = np.searchsorted(parts[f].astype(dtype), X[:, f])
        if f == 2:
            expected = np.where((X[:, 2] >= 0) & (X[:, 2] < 5), X[:, 2], 5)
        expected = np.where(np.isnan(X[:, f]), edges.bins[f], expected)
        assert (found.columns[f] == expected).all()
    assert (found.columns == found.rows.T).all()


def some_rows(random, n=500, d=40, bins=30):
    X = random.integers(0, bins, (n, d)).astype(np.uint8)
    return X, np.sort(random.choice(n, n * 3 // 5 + 1, replace=False)).astype(np.int32)


@pytest.mark.parametrize("many", [0, 1, 2, 301])
def test_histograms_are_sums_by_bin(many):
    random = np.random.default_rng(2)
    X, rows = some_rows(random)
    rows, used = rows[:many], slice(0, many)
    packed = random.integers(-(1 << 40), 1 << 40, len(X))
    wide = random.integers(-(1 << 40), 1 << 40, (len(X), 3))
    codes, weights = random.integers(0, 4, len(X)), random.integers(0, 9, len(X))
    sums = np.zeros((40, 2, 30, 1), np.int64)
    histogram.fill_packed(X, packed, rows, 0, many, 1, sums)
    channels = np.zeros((40, 2, 30, 3), np.int64)
    histogram.fill_channels(X, wide, rows, 0, many, 1, channels)
    classes = np.zeros((40, 2, 30, 5), np.int64)
    histogram.fill_classes(X, codes, weights, rows, 0, many, 1, classes)
    for f in range(40):
        expected = np.zeros((30, 9), np.int64)
        np.add.at(expected[:, 0], X[rows[used], f], packed[rows[used]])
        np.add.at(expected[:, 1:4], X[rows[used], f], wide[rows[used]])
        np.add.at(expected[:, 4:8], (X[rows[used], f], codes[rows[used]]), weights[rows[used]])
        np.add.at(expected[:, 8], X[rows[used], f], 1)
        assert (sums[f, 1, :, 0] == expected[:, 0]).all()
        assert (channels[f, 1] == expected[:, 1:4]).all()
        assert (classes[f, 1] == expected[:, 4:]).all()
    assert not sums[:, 0].any() and not channels[:, 0].any() and not classes[:, 0].any()


def test_partitions_keep_the_order():
    random = np.random.default_rng(3)
    column = random.integers(0, 256, 1000).astype(np.uint8)
    table = random.integers(0, 2, 256).astype(np.uint8)
    rows = random.permutation(1000).astype(np.int32)
    before, spare = rows.copy(), np.empty(1000, np.int32)
    middle = partition(column, table, rows, 100, 900, spare)
    inner = before[100:900]
    goes = table[column[inner]].astype(bool)
    assert middle == 100 + goes.sum()
    assert (rows[100:900] == np.concatenate([inner[goes], inner[~goes]])).all()
    assert (rows[:100] == before[:100]).all() and (rows[900:] == before[900:]).all()
    scores = np.zeros(1000)
    add_to_rows(rows, np.array([100, middle]), np.array([middle, 900]), np.array([1.0, -1.0]), scores)
    assert (scores[inner] == np.where(goes, 1, -1)).all() and np.count_nonzero(scores) == 800


def test_integers_are_unbiased_and_do_not_depend_on_where_a_row_is():
    random = np.random.default_rng(4)
    n = 100_000
    g, h = random.normal(size=n).astype(np.float32), random.random(n).astype(np.float32)
    bits = quantisation.packed_bits(n)
    steps = (1 << bits) - 1
    units = quantisation.Units(float(abs(g).max()) / steps, float(h.max()) / steps)
    packed, wide = np.empty(n, np.int64), np.empty((n, 3), np.int64)
    quantisation.integers(g, h, units, 0, 7, packed)
    quantisation.integers(g, h, units, 0, 7, wide)
    assert (packed >> 32 == wide[:, 0]).all() and (packed & 0xFFFFFFFF == wide[:, 1]).all() and (wide[:, 2] == 1).all()
    total = packed.sum()
    assert total >> 32 == wide[:, 0].sum() and total & 0xFFFFFFFF == wide[:, 1].sum()
    # Each number is off by less than a unit, with variance at most 1/4: five deviations of the sum of n of them.
    bound = 2.5 * np.sqrt(n)
    assert abs(wide[:, 0].sum() - g.sum(dtype=float) / units.gradient) < bound
    assert abs(wide[:, 1].sum() - h.sum(dtype=float) / units.hessian) < bound
    part = np.empty(1000, np.int64)
    quantisation.integers(g[5000:6000], h[5000:6000], units, 5000, 7, part)
    assert (part == packed[5000:6000]).all()
    quantisation.integers(g[5000:6000], None, units, 5000, 7, part)
    assert (part & 0xFFFFFFFF == 1).all()


@pytest.mark.parametrize("rows, bits", [(1, 24), (128, 24), (129, 23), (1 << 20, 11), (1 << 22, 9), ((1 << 22) + 1, 0)])
def test_sums_of_packed_gradients_stay_within_31_bits(rows, bits):
    assert quantisation.packed_bits(rows) == bits
    assert rows * ((1 << bits) - 1) < 1 << 31


def test_draws_are_poisson():
    drawn = quantisation.poisson(0, 3, 200_000)
    shares = np.bincount(drawn)[:4] / len(drawn)
    np.testing.assert_allclose(shares, np.exp(-1) / np.array([1, 1, 2, 6]), atol=0.005)
    assert (quantisation.poisson(1000, 3, 50) == drawn[1000:1050]).all()


def test_keys_of_numbers_order_as_they_do():
    numbers = np.sort(np.concatenate([np.random.default_rng(5).normal(size=100), [-np.inf, -0.0, 0.0, 1e-300, np.inf]]))
    keys = quantiles.ordered(numbers)
    assert (np.diff(keys.astype(object)) >= 0).all()
    assert (quantiles.unordered(keys) == numbers).all()


# ---- splits


def score(g, h, limits, bounds):
    g, h = np.asarray(g) * limits.gradient_unit, h * limits.hessian_unit
    w = np.clip(-g / (h + limits.l2), *bounds)
    return (-2 * g * w - (h + limits.l2) * w * w).sum()


def best_by_trying(g, h, n, bins, missing, monotone, limits, bounds):
    """The gain of the best split of numbers, by trying every one."""
    totals, found = (g.sum(axis=(1, 2))[:, None] / len(h), h.sum() / len(h), n.sum() / len(h)), -np.inf
    G, H, N = totals
    own = score(G[:, 0], H, limits, bounds)
    for f in range(len(bins)):
        last = bins[f]
        for with_missing in (False, True) if missing[f] else (False,):
            for b in range(last if missing[f] and not with_missing else last - 1):
                taken = list(range(b + 1)) + ([last] if with_missing else [])
                lg, lh, ln = g[:, f, taken].sum(axis=1), h[f, taken].sum(), n[f, taken].sum()
                rg, rh, rn = G[:, 0] - lg, H - lh, N - ln
                if min(ln, rn) < limits.min_samples_leaf or min(lh, rh) <= 0:
                    continue
                if monotone[f]:
                    low, high = (
                        np.clip(-a[0] * limits.gradient_unit / (c * limits.hessian_unit + limits.l2), *bounds)
                        for a, c in ((lg, lh), (rg, rh))
                    )
                    if (high - low) * monotone[f] < 0:
                        continue
                found = max(found, score(lg, lh, limits, bounds) + score(rg, rh, limits, bounds) - own)
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["packed", "channels", "classes"])
def test_the_best_split_is_that_of_trying_all(kind, seed):
    random = np.random.default_rng(seed)
    d, width, outputs = 5, 12, 3 if kind == "classes" else 1
    bins, missing = random.integers(2, width, d), random.random(d) < 0.5
    X = np.stack([random.integers(0, bins[f] + missing[f], 300) for f in range(d)], axis=1)
    hessians = np.ones(300, np.int64) if kind == "packed" and seed % 2 else random.integers(1, 20, 300)
    if kind == "packed":
        hessians[:] = 1  # so that rows are known exactly
    codes, gradients = random.integers(0, outputs, 300), random.integers(-50, 50, 300)
    g, h, n = np.zeros((outputs, d, width + 1)), np.zeros((d, width + 1)), np.zeros((d, width + 1))
    for f in range(d):
        np.add.at(h[f], X[:, f], hessians)
        np.add.at(n[f], X[:, f], 1)
        if kind == "classes":
            np.add.at(g[:, f], (codes, X[:, f]), hessians)
        else:
            np.add.at(g[0, f], X[:, f], gradients)
    if kind == "packed":
        sums = ((g[0].astype(np.int64) << 32) + h.astype(np.int64))[:, :, None]
    elif kind == "channels":
        sums = np.stack([g[0], h, n], axis=2).astype(np.int64)
    else:
        sums = np.concatenate([np.moveaxis(g, 0, 2), n[:, :, None]], axis=2).astype(np.int64)
    monotone = random.integers(-1, 2, d) if outputs == 1 and seed % 3 == 0 else np.zeros(d, np.int64)
    bounds = (-0.3, 0.4) if outputs == 1 and seed % 4 == 1 else (-np.inf, np.inf)
    limits = Limits(0.01, 0.1, float(seed % 2), 20, 0.0, 0.0)
    node = np.array([*g[:, 0].sum(axis=1), h[0].sum()], np.int64)
    record = np.zeros(splitter.record_length(outputs), np.int64)
    everything = np.ones(d, np.bool_), np.arange(d)
    splitter.find_split(
        sums, kind == "packed", kind == "classes", node, 300, bins, missing, np.zeros(d, np.bool_), monotone,
        *everything, bounds, limits, record,
    )  # fmt: skip
    best = best_by_trying(g, h, n, bins, missing, monotone, limits, bounds)
    if not best > 1e-9:
        assert record[splitter.FEATURE] == splitter.NOWHERE
        return
    gain = record[:1].view(np.float64)[0]
    assert gain == pytest.approx(best, rel=1e-9)
    # What the record says of the left child is what its table sends there.
    table = np.zeros(256, np.uint8)
    f = record[splitter.FEATURE]
    splitter.goes_left(record, bins[f], table)
    left = table[X[:, f]].astype(bool)
    assert record[splitter.SUMS + outputs] == hessians[left].sum() and record[splitter.COUNT] == left.sum()


def test_categories_are_split_by_the_best_subset():
    random = np.random.default_rng(0)
    codes = random.integers(0, 7, 2000)
    gradients = np.array([5, -3, 4, -6, 0, 2, -1])[codes] + random.integers(-2, 3, 2000)
    sums = np.zeros((1, 8, 3), np.int64)
    np.add.at(sums[0], codes, np.stack([gradients, np.ones(2000, int), np.ones(2000, int)], axis=1))
    node = sums[0].sum(axis=0)[:2]
    limits = Limits(1.0, 1.0, 0.0, 1, 0.0, 0.0)
    record = np.zeros(splitter.record_length(1), np.int64)
    yes, none = np.ones(1, np.bool_), np.zeros(1, np.int64)
    splitter.find_split(
        sums, False, False, node, 2000, np.array([7]), ~yes, yes, none, yes, none, (-np.inf, np.inf), limits, record
    )
    table = np.zeros(256, np.uint8)
    splitter.goes_left(record, 7, table)
    G, H = sums[0, :7, 0].astype(float), sums[0, :7, 1].astype(float)

    def gain(subset):
        a = np.array([bool(subset >> k & 1) for k in range(7)])
        return G[a].sum() ** 2 / H[a].sum() + G[~a].sum() ** 2 / H[~a].sum() - G.sum() ** 2 / H.sum()

    best = max(range(1, 127), key=gain)
    chosen = sum(int(table[k]) << k for k in range(7))
    assert chosen in (best, 127 - best)
    assert record[:1].view(np.float64)[0] == pytest.approx(gain(best))


# ---- predictions


def random_trees(random, many=5, d=3, bins=20, categories=0):
    """Trees of random splits; feature 2 has categories, if any."""
    parts = []
    for _ in range(many):
        nodes = [dict(feature=LEAF, bin=0, missing_left=False, categorical=False, masks=(0, 0, 0, 0), left=0)]
        for _ in range(12):
            leaf = random.choice([i for i, node in enumerate(nodes) if node["feature"] == LEAF])
            f = int(random.integers(0, d))
            categorical = bool(categories) and f == 2
            nodes[leaf] = dict(
                feature=f,
                bin=int(random.integers(0, bins)),
                missing_left=bool(random.integers(0, 2)),
                categorical=categorical,
                masks=(int(random.integers(0, 1 << 30)), 0, 0, 0) if categorical else (0, 0, 0, 0),
                left=len(nodes),
            )
            nodes += [dict(feature=LEAF, bin=0, missing_left=False, categorical=False, masks=(0,) * 4, left=0)] * 2
        m = len(nodes)
        kinds = dict(feature="i4", bin="i4", missing_left="?", categorical="?", masks="u8", left="i4")
        arrays = {name: np.array([node[name] for node in nodes], kind) for name, kind in kinds.items()}
        rest = dict(gain=np.zeros(m), weight=np.zeros(m), count=np.zeros(m, np.int64), threshold=np.zeros(m))
        parts.append(Trees(**arrays, **rest, value=random.normal(size=(m, 2)), starts=np.array([0, m])))
    return Trees.joined(parts)


def descend(trees, edges, t, bins):
    node = start = trees.starts[t]
    while trees.feature[node] != LEAF:
        f = trees.feature[node]
        b = int(bins[f])
        if trees.categorical[node]:
            left = bool(int(trees.masks[node][b >> 6]) >> (b & 63) & 1)
        else:
            left = bool(trees.missing_left[node]) if b == edges.bins[f] else b <= trees.bin[node]
        node = start + trees.left[node] + (not left)
    return node - start


@pytest.mark.parametrize("categories", [0, 25])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_are_those_of_going_down(categories, dtype):
    random = np.random.default_rng(6)
    edges = Edges(
        np.tile(np.linspace(-2, 2, 20), 2 if categories else 3),
        np.array([0, 20, 40, 40 if categories else 60]),
        np.array([0, 0, categories]),
        np.array([True, False, True]),
    )
    trees = random_trees(random, categories=categories)
    X = random.normal(size=(1003, 3)).astype(dtype)
    if categories:
        X[:, 2] = random.integers(-1, categories + 2, len(X))
    X[random.random(X.shape) < 0.1] = np.nan
    bins = binning.binned(X, edges).rows
    predictor = Predictor(trees, edges)
    leaves = np.array([[descend(trees, edges, t, row) for t in range(len(trees))] for row in bins])
    assert (predictor.leaves(bins) == leaves).all()
    expected = np.tile([1.0, -1.0], (len(X), 1))
    for t in range(len(trees)):
        expected += trees.value[trees.starts[t] + leaves[:, t]]
    assert (predictor.sums(X, np.array([1.0, -1.0])) == expected).all()
    first = Trees.joined([trees.first(2)])
    assert len(first) == 2 and (Predictor(first, edges).leaves(bins) == leaves[:, :2]).all()
