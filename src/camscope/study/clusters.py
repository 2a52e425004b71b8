"""Cluster the maps of a cohort, test the association of clusters with metadata, and find typical cases.

Maps are rectified and divided by their sum. With d_ij^2 = 1 - cosine of the maps and s_i the distance to the 7th
nearest map of another patient, A_ij = exp(-d_ij^2 / (s_i s_j)), L = D^-1/2 A D^-1/2. The number of clusters is the
k in 1 .. most with the largest gap between the k-th and the next eigenvalue of L; k-means of the rows of the first
k eigenvectors, scaled to length 1, gives the labels.

The clusters are stable if k clusters of the distinct patients of bootstrap samples (about 63 % of the patients) agree
with them: the mean adjusted Rand index is at least ``stable``. A cluster needs 3 patients.

Limitation: a continuum, such as a focus at any height, can be divided at the same places in every sample, and is then
reported as clusters (see benchmarks/calibration.md for the frequency). Check the mean maps.

Reference:
    Lapuschkin et al., Unmasking Clever Hans predictors, Nature Communications 2019 (spectral clusters of heat maps,
    eigengap); Ng, Jordan and Weiss, On spectral clustering, NIPS 2001; Zelnik-Manor and Perona, Self-tuning
    spectral clustering, NIPS 2004; Hennig, Cluster-wise assessment of cluster stability, CSDA 2007.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from camscope.array_types import Floats, Mask
from camscope.errors import SettingError
from camscope.statistics.hypotheses import ELEMENTS, Indices, at_least_one, benjamini_hochberg, patient_index
from camscope.study.grids import unit

_NEIGHBOUR = 7
_DENSE = 600
_FEWEST_PATIENTS = 3


@dataclass(frozen=True)
class Clusters:
    """The clusters of maps; one cluster with all maps if no stable clusters were found.

    Attributes:
        labels: (n,) cluster of each case, 0 is the largest; -1 for cases that were not clustered.
        stability: mean adjusted Rand index over resampled patients, 1 is perfect, 0 is chance; NaN for one cluster.
        reason: the result in one sentence.
        empty: cases left out because their map is empty.
        not_drawn: cases left out because there are more than the limit.
    """

    labels: Indices
    stability: float
    reason: str
    empty: int
    not_drawn: int

    @property
    def number(self) -> int:
        """Return the number of clusters; 1 if there are no stable clusters."""
        return int(self.labels.max(initial=-1)) + 1


@dataclass(frozen=True)
class Association:
    """The association of a column of the metadata with the clusters.

    Attributes:
        column: name of the column.
        measure: "Cramer's V" or "eta squared of ranks".
        size: the measure, from 0 to 1; NaN if the column or the labels do not vary.
        p: p-value of the permutation test.
        adjusted: p adjusted by Benjamini and Hochberg over the columns.
        cases: number of cases with a label and a value.
        permuted: "patients" if the column is constant within each patient, else "cases".
    """

    column: str
    measure: str
    size: float
    p: float
    adjusted: float
    cases: int
    permuted: str


def cluster_maps(
    maps: npt.ArrayLike,
    patients: Iterable[Hashable],
    *,
    seed: int,
    most: int = 8,
    replicates: int = 50,
    stable: float = 0.8,
    limit: int = 5000,
) -> Clusters:
    """Compute spectral clusters of maps, and test their stability.

    >>> draw = np.random.default_rng(0)
    >>> maps = draw.random((60, 7, 7)) * 0.2
    >>> maps[:30, 1, 1] += 3
    >>> maps[30:, 5, 5] += 3
    >>> cluster_maps(maps, np.arange(60) // 2, seed=0).number
    2

    Args:
        maps: (n, h, w); negative values and NaN count as 0.
        patients: n patient ids.
        seed: random seed of k-means, the resampling and the subsample.
        most: largest number of clusters.
        replicates: number of bootstrap samples of patients.
        stable: smallest mean adjusted Rand index of stable clusters, from 0 to 1.
        limit: largest number of cases that are clustered; of more cases, whole patients are drawn at random. Memory:
            about four (n, n) arrays of float64, 0.8 GB for 5000 cases.

    Returns:
        Labels, stability and the reason; all labels are equal if there are no stable clusters.

    Raises:
        SettingError: the numbers of ids and maps differ.
    """
    shares = _flat(maps)
    index = patient_index(patients)
    if len(shares) != len(index):
        raise SettingError(f"{len(shares)} maps and {len(index)} patient ids: give one id per map")
    generator = np.random.default_rng(seed)
    filled = np.asarray(shares.any(axis=1), bool)
    selection: Mask = np.logical_and(filled, _drawn(index, filled, limit=limit, generator=generator))
    labels = np.where(selection, 0, -1)
    counts = {"empty": int((~filled).sum()), "not_drawn": int((filled & ~selection).sum())}

    def none(because: str, stability: float = float("nan")) -> Clusters:
        return Clusters(labels, stability, f"no stable clusters: {because}", **counts)

    cases = patient_index(index[selection].tolist())
    several = int(cases.max(initial=-1)) + 1
    if several < 2 * _FEWEST_PATIENTS:
        return none(f"{several} patients with a map are too few")
    distances = _distances(shares[selection])
    values, vectors = _spectrum(distances, cases, most=most)
    k = int(np.argmax(values[:-1] - values[1:])) + 1
    if k == 1:
        return none("the maps form one group (largest eigengap after the first eigenvalue)")
    partition = _partition(vectors, k, seed=seed)
    fewest = min(len(np.unique(cases[partition == cluster])) for cluster in range(k))
    if fewest < _FEWEST_PATIENTS:
        return none(f"one of the {k} clusters has only {fewest} patient{'s' * (fewest > 1)}")
    stability = _stability(distances, cases, partition, replicates=replicates, generator=generator)
    if stability < stable:
        return none(
            f"bootstrap agreement of {k} clusters (Rand index) is {stability:.2f}; {stable} is required", stability
        )
    labels[selection] = partition
    return Clusters(
        labels, stability, f"{k} clusters, with a bootstrap agreement (Rand index) of {stability:.2f}", **counts
    )


def typical(labels: npt.ArrayLike, maps: npt.ArrayLike, *, k: int) -> dict[int, Indices]:
    """Return the typical cases of each cluster, whose maps have the largest cosine with the cluster's mean map.

    >>> typical([0, 0, 0, 1], [[[1, 0]], [[3, 1]], [[0, 1]], [[0, 1]]], k=2)
    {0: array([1, 0]), 1: array([3])}

    Args:
        labels: (n,) clusters from 0; -1 for no cluster.
        maps: (n, h, w) the maps given to ``cluster_maps``.
        k: largest number of cases per cluster.

    Returns:
        Cluster -> at most k indices into ``maps``, most typical first.
    """
    shares, clusters = _flat(maps), np.asarray(labels)
    examples = {}
    for cluster in range(int(clusters.max(initial=-1)) + 1):
        members = np.flatnonzero(clusters == cluster)
        unit = _unit(shares[members])
        nearness = unit @ shares[members].mean(0)
        examples[cluster] = members[np.argsort(-nearness, kind="stable")[:k]]
    return examples


def associations(
    labels: npt.ArrayLike,
    metadata: Mapping[str, Sequence[object] | npt.NDArray[Any]],
    *,
    patients: Iterable[Hashable],
    seed: int,
    replicates: int = 10_000,
) -> tuple[Association, ...]:
    """Test the association of each metadata column with the clusters, by permuting patients.

    Numbers: eta squared of their ranks (Kruskal and Wallis's H / (n - 1)). Other values, and true and false:
    Cramer's V = sqrt(chi^2 / (n min(clusters - 1, values - 1))).

    A column that is constant within each patient (sex) is permuted between patients. Any other column (view) is
    permuted in two steps that keep the images of a patient together. First, patients with the same number of cases
    exchange all their values. Then, each patient's values are shuffled among its cases. A patient with a unique number
    of cases therefore keeps its values. p = (1 + #{as large or larger}) / (B + 1).

    >>> labels, views = [0, 0, 1, 1] * 10, ["AP", "AP", "PA", "PA"] * 10
    >>> associations(labels, {"view": views}, patients=range(40), seed=0, replicates=999)[0].p
    0.001

    Args:
        labels: (n,) clusters from 0; cases with -1 are left out.
        metadata: columns of n values; None and NaN are missing, and such cases are left out for this column.
        patients: n patient ids.
        seed: random seed of the permutations.
        replicates: number of permutations, B.

    Returns:
        One association per column, in order.

    Raises:
        SettingError: labels, patients and a column differ in length, or there is less than one replicate.

    Reference:
        Winkler et al., Multi-level block permutation, NeuroImage 2015; Kruskal and Wallis, JASA 1952; Cramer,
        Mathematical Methods of Statistics, 1946; Benjamini and Hochberg 1995.
    """
    at_least_one(replicates)
    clusters, index = np.asarray(labels, np.intp), patient_index(patients)
    results = []
    for position, (column, values) in enumerate(metadata.items()):
        if not len(clusters) == len(index) == len(values):
            counts = f"{len(clusters)} labels, {len(index)} patient ids and {len(values)} values of {column!r}"
            raise SettingError(f"{counts}: give one of each per case")
        valid = np.array([c >= 0 and v is not None and v == v for c, v in zip(clusters, values, strict=True)], bool)
        valid_values = [value for value, use in zip(values, valid, strict=True) if use]
        generator = np.random.default_rng([seed, position])
        results.append(
            _association(
                column, valid_values, clusters[valid], index[valid], replicates=replicates, generator=generator
            )
        )
    adjusted = benjamini_hochberg([result.p for result in results])
    return tuple(replace(result, adjusted=float(p)) for result, p in zip(results, adjusted, strict=True))


def _association(
    column: str,
    values: Sequence[object],
    labels: Indices,
    index: Indices,
    *,
    replicates: int,
    generator: np.random.Generator,
) -> Association:
    numbers = np.asarray(values).dtype.kind in "iuf"
    codes = stats.rankdata(np.asarray(values, np.float64)) if numbers else patient_index(values)
    labels, index = patient_index(labels.tolist()), patient_index(index.tolist())
    first = np.unique(index, return_index=True)[1]
    constant = bool((codes == codes[first][index]).all())
    size, p = float("nan"), float("nan")
    if len(set(codes.tolist())) > 1 and len(set(labels.tolist())) > 1:
        measure = _eta_squared if numbers else _cramers_v
        size = float(measure(codes[None], labels)[0])
        kinds = 1 if numbers else int(codes.max()) + 1
        rows = max(1, ELEMENTS // (len(codes) + kinds * (int(labels.max()) + 1)))
        sources = _permutations(index, replicates, constant=constant, rows=rows, generator=generator)
        larger = sum(int((measure(codes[source], labels) >= size - 1e-9).sum()) for source in sources)
        p = (1 + larger) / (1 + replicates)
    name, permuted = "eta squared of ranks" if numbers else "Cramer's V", "patients" if constant else "cases"
    return Association(column, name, size, p, p, len(codes), permuted)


def _permutations(
    index: Indices, replicates: int, *, constant: bool, rows: int, generator: np.random.Generator
) -> Iterator[Indices]:
    """Yield blocks (b, n): for each replicate and case, the index of the case whose value it receives."""
    sizes = np.bincount(index)
    starts, order = np.cumsum(sizes) - sizes, np.argsort(index, kind="stable")
    for start in range(0, replicates, rows):
        b = min(rows, replicates - start)
        if constant:
            shuffled = generator.permuted(np.tile(np.arange(len(sizes)), (b, 1)), axis=1)
            yield order[starts[shuffled[:, index]]]
            continue
        source = np.empty((b, len(index)), np.intp)
        for size in np.unique(sizes):
            members = order[starts[sizes == size][:, None] + np.arange(size)]
            blocks = members[generator.permuted(np.tile(np.arange(len(members)), (b, 1)), axis=1)]
            source[:, members.ravel()] = generator.permuted(blocks, axis=2).reshape(b, -1)
        yield source


def _cramers_v(codes: npt.NDArray[Any], labels: Indices) -> Floats:
    """Return Cramer's V of each row of (b, n) codes of values."""
    b, k, kinds = len(codes), int(labels.max()) + 1, int(codes.max()) + 1
    cells = (np.arange(b)[:, None] * k + labels) * kinds + codes
    table = np.bincount(cells.ravel(), minlength=b * k * kinds).reshape(b, k, kinds).astype(np.float64)
    expected = table.sum(2, keepdims=True) * table.sum(1, keepdims=True) / len(labels)
    chi2 = ((table - expected) ** 2 / expected).sum((1, 2))
    v: Floats = np.sqrt(chi2 / (len(labels) * (min(k, kinds) - 1)))
    return v


def _eta_squared(ranks: npt.NDArray[Any], labels: Indices) -> Floats:
    """Return eta squared of each row of (b, n) ranks."""
    inside = np.eye(int(labels.max()) + 1)[labels]
    centred = ranks - ranks.mean(1, keepdims=True)
    between = ((centred @ inside) ** 2 / inside.sum(0)).sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray(between / (centred**2).sum(1), np.float64)


def _flat(maps: npt.ArrayLike) -> Floats:
    """Return maps as rows (n, h w) of shares of their sum."""
    shares = unit(maps)
    return shares.reshape(len(shares), int(np.prod(shares.shape[1:])))


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _drawn(index: Indices, filled: Mask, *, limit: int, generator: np.random.Generator) -> Mask:
    """Return the cases of randomly drawn patients, with at most ``limit`` maps in total."""
    sizes = np.bincount(index, filled)
    if sizes.sum() <= limit:
        return np.ones_like(filled)
    order = generator.permutation(len(sizes))
    patients = order[np.cumsum(sizes[order]) <= limit]
    return np.isin(index, patients)


def _distances(shares: Floats) -> Floats:
    unit = _unit(shares)
    distances: Floats = np.maximum(1 - unit @ unit.T, 0)
    np.fill_diagonal(distances, 0)
    return distances


def _spectrum(distances: Floats, cases: Indices, *, most: int) -> tuple[Floats, Floats]:
    """Return the largest most + 1 eigenvalues of the normalised affinity, from the top, and their vectors."""
    affinity = np.where(cases[:, None] == cases, np.inf, distances)
    near = min(_NEIGHBOUR, int((len(cases) - np.bincount(cases)[cases]).min())) - 1
    scale = np.sqrt(np.maximum(np.partition(affinity, near, axis=1)[:, near], 1e-12))
    np.divide(distances, -np.outer(scale, scale), out=affinity)
    np.exp(affinity, out=affinity)
    degree = np.sqrt(affinity.sum(1))
    affinity /= np.outer(degree, degree)
    n, count = len(affinity), min(most + 1, len(affinity))
    if n > _DENSE:
        values, vectors = eigsh(affinity, count, v0=np.ones(n))
    else:
        values, vectors = eigh(affinity, subset_by_index=[n - count, n - 1])
    return values[::-1], vectors[:, ::-1]


def _partition(vectors: Floats, k: int, *, seed: int) -> Indices:
    """Return labels from 0, the largest cluster first."""
    clusters = KMeans(k, n_init=10, random_state=seed).fit_predict(_unit(vectors[:, :k]))
    order = np.argsort(-np.bincount(clusters, minlength=k), kind="stable")
    labels: Indices = np.argsort(order)[clusters]
    return labels


def _stability(
    distances: Floats, cases: Indices, labels: Indices, *, replicates: int, generator: np.random.Generator
) -> float:
    m, k, agreement = int(cases.max()) + 1, int(labels.max()) + 1, []
    for _ in range(replicates):
        sample = np.flatnonzero(np.isin(cases, generator.integers(0, m, m)))
        part = distances[np.ix_(sample, sample)]
        _, vectors = _spectrum(part, patient_index(cases[sample].tolist()), most=k)
        again = _partition(vectors, k, seed=int(generator.integers(2**31)))
        agreement.append(adjusted_rand_score(labels[sample], again))
    return float(np.mean(agreement))
