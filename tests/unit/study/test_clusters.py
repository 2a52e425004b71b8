import numpy as np
import pytest
from scipy import stats
from scipy.stats.contingency import association as v_of_table

from camscope.errors import SettingError
from camscope.statistics.hypotheses import patient_index
from camscope.study.clusters import associations, cluster_maps, typical

SIZE = 8


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def blobs(draw, places, *, width=1.2, noise=0.3):
    """A map a case, with one focus at its place and noise."""
    y, x = np.mgrid[:SIZE, :SIZE]
    focus = [np.exp(-((y - top) ** 2 + (x - left) ** 2) / (2 * width**2)) for top, left in places]
    return np.array(focus) + noise * draw.random((len(focus), SIZE, SIZE))


def planted(draw, m=30, *, centres=((2, 2), (6, 5)), images=3):
    patients = np.repeat(np.arange(m), images)
    truth = draw.integers(0, len(centres), m)[patients]
    places = np.array(centres)[truth] + 0.4 * draw.normal(size=(len(truth), 2))
    return blobs(draw, places), patients, truth


@pytest.mark.parametrize("centres", [((2, 2), (6, 5)), ((1, 1), (1, 6), (6, 4))])
def test_planted_clusters_are_found(draw, centres):
    maps, patients, truth = planted(draw, centres=centres)
    found = cluster_maps(maps, patients, seed=0)
    assert found.number == len(centres)
    for cluster in range(len(centres)):
        assert len(set(truth[found.labels == cluster])) == 1
    assert np.all(np.diff(np.bincount(found.labels)) <= 0)
    assert found.stability > 0.9
    assert found.reason.startswith(f"{len(centres)} clusters")
    assert found.empty == found.not_drawn == 0


def test_noise_has_no_stable_clusters(draw):
    for seed in range(20):
        patients = np.repeat(np.arange(25), 3)
        own = draw.normal(size=(25, SIZE, SIZE))[patients]
        found = cluster_maps(own + draw.normal(size=own.shape), patients, seed=seed)
        assert found.number == 1
        assert set(found.labels) == {0}
        assert found.reason.startswith("no stable clusters")


def test_foci_anywhere_are_no_stable_clusters(draw):
    """The eigengap sees clusters here; the resampling does not."""
    reasons, seen = [], []
    for seed in range(10):
        patients = np.repeat(np.arange(50), 2)
        places = draw.uniform(0, SIZE - 1, (50, 2))[patients] + 0.4 * draw.normal(size=(100, 2))
        found = cluster_maps(blobs(draw, places, noise=0.1), patients, seed=seed, replicates=15)
        reasons.append(found.reason)
        seen.append(found.stability)
    assert sum(reason.startswith("no stable clusters") for reason in reasons) >= 8
    assert any("bootstrap agreement" in reason for reason in reasons)
    assert 0 < np.nanmin(seen) < 0.8


def test_a_seed_gives_one_answer_whatever_the_patients_are_called(draw):
    maps, patients, _ = planted(draw)
    one = cluster_maps(maps, patients, seed=3, replicates=10)
    other = cluster_maps(maps, [f"p{p}" for p in patients], seed=3, replicates=10)
    assert (one.labels == other.labels).all()
    assert (one.stability, one.reason) == (other.stability, other.reason)


def test_scale_sign_and_nan_of_maps_do_not_matter(draw):
    maps, patients, _ = planted(draw)
    changed = maps * draw.uniform(0.1, 9, (len(maps), 1, 1))
    changed[:, 0, 7], maps[:, 0, 7] = np.nan, 0
    changed[:, 7, 0], maps[:, 7, 0] = -5, 0
    assert (cluster_maps(changed, patients, seed=0).labels == cluster_maps(maps, patients, seed=0).labels).all()


def test_empty_maps_are_left_out_and_counted(draw):
    maps, patients, truth = planted(draw)
    maps[5], maps[7] = 0, -1
    found = cluster_maps(maps, patients, seed=0)
    assert found.empty == 2
    assert np.flatnonzero(found.labels < 0).tolist() == [5, 7]
    assert len(set(zip(found.labels, truth, strict=True)) - {(-1, 0), (-1, 1)}) == 2


def test_beyond_the_limit_whole_patients_are_drawn(draw):
    maps, patients, truth = planted(draw, 60)
    found = cluster_maps(maps, patients, seed=0, limit=100)
    used = found.labels >= 0
    assert 60 < used.sum() <= 100
    assert found.not_drawn == 180 - used.sum()
    assert not set(patients[used]) & set(patients[~used])
    assert len(set(zip(found.labels[used], truth[used], strict=True))) == 2


def test_one_patient_is_not_a_cluster(draw):
    patients = np.repeat(np.arange(20), 5)
    places = np.where((patients == 3)[:, None], (1, 1), (6, 6)) + 0.2 * draw.normal(size=(100, 2))
    found = cluster_maps(blobs(draw, places, noise=0.05), patients, seed=0)
    assert found.number == 1
    few = cluster_maps(blobs(draw, places[:25]), patients[:25], seed=0)
    assert few.reason == "no stable clusters: 5 patients with a map are too few"


def test_an_id_for_each_map(draw):
    with pytest.raises(SettingError, match="2 maps and 1 patient ids"):
        cluster_maps(np.ones((2, 3, 3)), ["a"], seed=0)
    nothing = cluster_maps(np.zeros((4, 3, 3)), range(4), seed=0)
    assert (nothing.number, nothing.empty) == (0, 4)
    assert cluster_maps(np.zeros((0, 3, 3)), [], seed=0).number == 0


def test_many_cases_go_another_way_to_the_same_answer(draw, monkeypatch):
    maps, patients, _ = planted(draw)
    one = cluster_maps(maps, patients, seed=0, replicates=10)
    monkeypatch.setattr("camscope.study.clusters._DENSE", 10)
    other = cluster_maps(maps, patients, seed=0, replicates=10)
    assert (one.labels == other.labels).all()
    assert one.stability == pytest.approx(other.stability)


def test_typical_cases_are_nearest_to_the_mean_map(draw):
    maps, patients, _ = planted(draw)
    labels = cluster_maps(maps, patients, seed=0).labels
    labels[labels == 1] = np.where(np.arange((labels == 1).sum()) % 5 == 0, -1, 1)
    chosen = typical(labels, maps, k=4)
    assert sorted(chosen) == [0, 1]
    for cluster, indices in chosen.items():
        assert (labels[indices] == cluster).all()
        shares = maps / maps.sum((1, 2), keepdims=True)
        mean = shares[labels == cluster].mean(0)
        cosine = (shares * mean).sum((1, 2)) / np.linalg.norm(shares, axis=(1, 2))
        best = sorted(np.flatnonzero(labels == cluster), key=lambda i: -cosine[i])[:4]
        assert indices.tolist() == best
    assert len(typical(labels, maps, k=1000)[0]) == (labels == 0).sum()


def test_sizes_equal_scipy(draw):
    labels = draw.integers(0, 3, 80)
    colour, age = draw.choice(list("rgb"), 80), draw.normal(size=80).round(1) + 0.3 * labels
    v, eta = associations(labels, {"colour": colour, "age": age}, patients=range(80), seed=0, replicates=99)
    table = stats.contingency.crosstab(labels, colour).count
    assert v.size == pytest.approx(v_of_table(table, method="cramer"))
    assert eta.size == pytest.approx(stats.kruskal(*(age[labels == k] for k in range(3))).statistic / 79)
    assert (v.measure, eta.measure) == ("Cramer's V", "eta squared of ranks")


def test_p_of_independent_cases_is_that_of_the_usual_tests(draw):
    labels = draw.integers(0, 2, 200)
    colour = np.where(draw.random(200) < 0.12, labels, draw.integers(0, 2, 200)).astype(bool)
    age = draw.normal(size=200) + 0.3 * labels
    v, eta = associations(labels, {"colour": colour, "age": age}, patients=range(200), seed=0, replicates=4000)
    table = stats.contingency.crosstab(labels, colour).count
    assert v.p == pytest.approx(stats.fisher_exact(table).pvalue, abs=0.02)
    assert eta.p == pytest.approx(stats.kruskal(age[labels == 0], age[labels == 1]).pvalue, abs=0.02)
    both = stats.false_discovery_control([v.p, eta.p])
    assert (v.adjusted, eta.adjusted) == pytest.approx(tuple(both))


@pytest.mark.parametrize("within", [False, True])
def test_patients_are_the_unit(within):
    """Labels and values that patients keep to are associated by chance; only a test over images takes that for real."""
    rejected, naive = 0, 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        patients = np.repeat(np.arange(30), draw.integers(2, 4, 30))
        labels, value = (
            np.where(draw.random(len(patients)) < 0.1 * within, draw.integers(0, 2, len(patients)), own[patients])
            for own in draw.integers(0, 2, (2, 30))
        )
        found = associations(labels, {"site": value.astype(str)}, patients=patients, seed=seed, replicates=199)[0]
        assert found.permuted == (
            "cases" if within and len(set(zip(patients, value, strict=True))) > 30 else "patients"
        )
        rejected += found.p <= 0.05
        naive += (
            stats.chi2_contingency(stats.contingency.crosstab(labels, value).count, correction=False).pvalue <= 0.05
        )
    assert stats.binomtest(rejected, 200, 0.05).pvalue > 0.01
    assert naive > 30


def test_views_within_patients_are_seen():
    patients = np.repeat(np.arange(20), 2)
    views = np.tile(["AP", "PA"], 20)
    labels = (views == "AP").astype(int)
    labels[:4] = [0, 0, 1, 1]
    found = associations(labels, {"view": views, "sex": np.where(patients < 10, "F", "M")}, patients=patients, seed=0)
    assert [one.permuted for one in found] == ["cases", "patients"]
    assert found[0].p < 0.001
    assert found[1].p > 0.5


def test_missing_values_and_columns_that_do_not_vary(draw):
    labels = np.array([0, 1] * 10 + [-1])
    columns = {
        "age": [*range(19), None, 3],
        "same": ["x"] * 21,
        "nothing": [float("nan")] * 21,
        "path": [f"{i}.png" for i in range(21)],
    }
    age, same, nothing, path = associations(labels, columns, patients=range(21), seed=0, replicates=99)
    assert (age.column, age.cases, age.measure) == ("age", 19, "eta squared of ranks")
    assert (same.cases, nothing.cases) == (20, 0)
    assert np.isnan([same.size, same.p, same.adjusted, nothing.p]).all()
    assert (path.size, path.p) == (pytest.approx(1), 1)
    assert np.isnan(associations([0] * 21, columns, patients=range(21), seed=0)[0].p)


def test_columns_are_as_long_as_labels():
    with pytest.raises(SettingError, match="2 labels, 2 patient ids and 1 values of 'age'"):
        associations([0, 1], {"age": [3]}, patients=["a", "b"], seed=0)
    with pytest.raises(SettingError, match="replicates"):
        associations([0, 1], {}, patients=["a", "b"], seed=0, replicates=0)


def test_a_seed_gives_one_p_whatever_columns_follow(draw):
    labels, age = draw.integers(0, 2, 40), draw.normal(size=40)
    patients = patient_index(draw.integers(0, 15, 40).tolist())
    alone = associations(labels, {"age": age}, patients=patients, seed=1, replicates=199)
    beside = associations(labels, {"age": age, "sex": ["F", "M"] * 20}, patients=patients, seed=1, replicates=199)
    assert alone[0].p == beside[0].p
