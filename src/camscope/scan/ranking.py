"""Rank images by how odd they are: one reason in words, with its numbers, per finding.

A finding is worth up to 10 points, and the oddness of an image is their sum. Measurements are compared with those of
all images of the scan: z is the distance from the median in robust standard deviations (1.4826 times the median
absolute deviation), and a finding from 3.5 on (Iglewicz and Hoaglin 1993) is worth min(z, 10) points. Findings on the
image itself need no model, so images on which the model fails have them too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from camscope.acquisition import PROPERTIES
from camscope.array_types import Floats
from camscope.cohort.store import FAILED, OK
from camscope.images.source import split
from camscope.page.words import number
from camscope.scan.features import REGIONS
from camscope.study.clusters import cluster_maps
from camscope.study.grids import stacked, unit

Finding = tuple[int, float, str]
"""Position of the image, points, and the reason."""

FAR, MOST = 3.5, 10.0
_BLANK = 0.01
_ALIKE = 6  # bits of 64 in which near duplicates may differ
_SAME_LOOK = 0.98
_OPPOSITE = -0.7  # correlation; a rotated image of the same kind is above it
_CONCENTRATED = 1.5  # share of the heat by share of the area
_FEW, _USUAL = 0.05, 0.9
_UNSURE = 0.02  # log-odds: below it, margins do not differ
_FEWEST = 10  # images: of fewer, none is odd among the others
_CLUSTERED, _COMPARED = 1500, 5000
_NEIGHBOURS = 5
_WORDS = {"border:0.10": "the outer 10 % of the image", "corner:0.15": "the corners"}


def ranked(rows: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Return the rows, the oddest first, with the columns ``oddness`` and ``reasons``.

    Args:
        rows: one row per image, see ``camscope.scan.step.SCHEMA``.
        seed: random seed of the clusters of maps.
    """
    reasons: list[list[tuple[float, str]]] = [[] for _ in range(len(rows))]
    for i in np.flatnonzero(rows["status"] == FAILED).tolist():
        reasons[i].append((MOST, f"cannot be used: {rows['message'][i]}"))
    for kept, findings in (
        (rows["spread"].is_not_null(), _image_findings),
        (rows["status"] == OK, lambda part: _model_findings(part, seed)),
    ):
        places = np.flatnonzero(kept)
        for i, points, reason in findings(rows.filter(kept)) if len(places) else ():
            reasons[int(places[i])].append((points, reason))
    for listed in reasons:
        listed.sort(key=lambda pair: -pair[0])
    columns = {
        "oddness": pl.Series([sum(points for points, _ in listed) for listed in reasons], dtype=pl.Float64),
        "reasons": pl.Series([[reason for _, reason in listed] for listed in reasons], dtype=pl.List(pl.String)),
    }
    return rows.with_columns(**columns).sort("oddness", "case", descending=[True, False])


def _image_findings(rows: pl.DataFrame) -> Iterator[Finding]:
    """Yield the findings on images that could be read."""
    blank = (rows["spread"] < _BLANK).to_numpy()
    for i in np.flatnonzero(blank).tolist():
        yield i, MOST, f"blank: the standard deviation of the grey values is {rows['spread'][i]:.3f} of the range"
    yield from _copies(rows, blank)
    if len(rows) < _FEWEST:
        return
    yield from _kinds(rows)
    yield from _notes(rows)
    yield from _tones(rows, blank)
    yield from _looks(rows, blank)


def _model_findings(rows: pl.DataFrame, seed: int) -> Iterator[Finding]:
    """Yield the findings on predictions and maps."""
    if len(rows) >= _FEWEST:
        yield from _confidence(rows)
        yield from _heat(rows, seed)


def _copies(rows: pl.DataFrame, blank: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    """Yield images of the same file, and images that look the same."""
    names = rows["image"].to_list()
    groups: dict[tuple[str, int | None], list[int]] = {}
    for i, sha in enumerate(rows["image_sha256"].to_list()):
        groups.setdefault((sha, split(names[i])[1]), []).append(i)  # frames of one file are different images
    for members in groups.values():
        for i in members if members[1:] else ():
            j = members[members[0] == i]  # the first, and of the first the second
            same = f"the same file as {names[j]}" if names[j] != names[i] else "it is listed more than once"
            yield i, 8.0, f"duplicate: {same}"
    distinct = np.array([members[0] for members in groups.values() if not blank[members[0]]], np.intp)
    bits = rows["perceptual_hash"].to_numpy()
    looks = _standardised(np.stack(rows["look"].to_list()))
    told: set[int] = set()
    for k, i in enumerate(distinct.tolist()):
        others = distinct[:k]
        alike = others[np.bitwise_count(bits[others] ^ bits[i]) <= _ALIKE]
        for j in alike[looks[alike] @ looks[i] >= _SAME_LOOK].tolist():
            apart = int(np.bitwise_count(bits[i] ^ bits[j]))
            for one, other in ((i, j), (j, i)):
                if one not in told:
                    told.add(one)
                    text = f"{apart} of 64 bits of the perceptual hash differ"
                    yield one, 6.0, f"near duplicate: looks like {names[other]} ({text})"


def _kinds(rows: pl.DataFrame) -> Iterator[Finding]:
    """Yield images whose size or colours few others have."""
    sizes = list(zip(rows["height"].to_list(), rows["width"].to_list(), strict=True))
    (usual, count), *_ = Counter(sizes).most_common(1)
    if count >= _USUAL * len(rows):
        for i, size in enumerate(sizes):
            if size != usual:
                others = f"{count} of {len(rows)} images have {usual[0]} x {usual[1]}"
                yield i, 5.0, f"other size: {size[0]} x {size[1]} pixels, where {others}"
    else:
        shape = np.log2(np.array([height / width for height, width in sizes]))
        for i, points, z in _far(shape, both=True, least=0.1):
            yield i, points, f"other shape: {sizes[i][0]} x {sizes[i][1]} pixels ({z})"
    coloured = rows["colour"].to_numpy()
    for members, words in ((coloured, "colours: {} of {} images have them"), (~coloured, "grey: {} of {} images are")):
        if _is_few(members):
            for i in np.flatnonzero(members).tolist():
                yield i, 6.0, words.format(int(members.sum()), len(rows))


def _notes(rows: pl.DataFrame) -> Iterator[Finding]:
    """Yield what the reader says about images, unless it says something about most of them."""
    notes = rows["notes"].to_list()
    if 2 * sum(map(bool, notes)) <= len(rows):
        for i, texts in enumerate(notes):
            for text in texts:
                yield i, 6.0, text


def _tones(rows: pl.DataFrame, blank: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    """Yield inverted images, and images of another brightness or contrast."""
    patterns = np.stack(rows["pattern"].to_list()).astype(float)
    values = PROPERTIES["inversion"].compare(list(patterns))[1]
    inverted = np.flatnonzero((values > 0) & ~blank)
    if _is_few(values > 0) and ((values == 0) & ~blank).any():
        mean = _lengthened(patterns[(values == 0) & ~blank].mean(0, keepdims=True))[0]
        for i in inverted.tolist():
            r = float(patterns[i] @ mean)  # both have mean 0 and length 1
            if r < _OPPOSITE:
                yield i, 8.0, f"perhaps inverted: correlation {number(r)} with the mean image"
    for name, words in (("brightness", "mean grey value"), ("spread", "standard deviation of the grey values")):
        column = np.where(blank, np.nan, rows[name].to_numpy())
        for i, points, z in _far(column, both=True, least=0.02):
            middle = number(float(np.nanmedian(column)))
            yield i, points, f"{words} {number(float(column[i]))}, median {middle} ({z})"


def _looks(rows: pl.DataFrame, blank: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    """Yield images unlike the others: far from the images that are most like them."""
    kept = np.flatnonzero(~blank)
    if len(kept) < _FEWEST:
        return
    looks = _standardised(np.stack(rows["look"].to_list()))[kept]
    compared = np.arange(0, len(looks), -(-len(looks) // _COMPARED))
    distances = np.empty(len(looks))
    for start in range(0, len(looks), 1000):
        part = np.arange(start, min(start + 1000, len(looks)))
        alike = looks[part] @ looks[compared].T
        alike[part[:, None] == compared] = -np.inf  # the image itself, if it is one of the compared
        distances[part] = 1 - np.sort(alike, axis=1)[:, -_NEIGHBOURS:].mean(1)
    middle = number(float(np.median(distances)))
    for i, points, z in _far(distances, least=0.02):
        text = f"unlike the others: distance {number(float(distances[i]))} to the {_NEIGHBOURS} most similar images"
        yield int(kept[i]), points, f"{text}, median {middle} ({z})"


def _confidence(rows: pl.DataFrame) -> Iterator[Finding]:
    """Yield images on which the model is much less sure than usual."""
    margins = rows["margin"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if np.isnan(margins).any():
        return
    values = np.log(np.maximum(margins, _UNSURE))  # margins are skewed: their logarithms are compared
    middle = number(float(np.median(margins)))
    for i, points, z in _far(-values, least=0.2):
        p = f"p = {number(rows['probability'][i])} for {rows['class'][i]!r}"
        yield i, points, f"low confidence: {p}, margin {number(float(margins[i]))}, median margin {middle} ({z})"


def _heat(rows: pl.DataFrame, seed: int) -> Iterator[Finding]:
    """Yield maps that are empty, lie at borders or corners, or are far from the clusters of maps."""
    for name in REGIONS:
        mass, area = (
            rows[f"{what}:{name}"].cast(pl.Float64).fill_null(float("nan")).to_numpy() for what in ("mass", "area")
        )
        for i, points, z in _far(mass - area, least=0.02):
            if mass[i] > _CONCENTRATED * area[i]:
                shares = f"{mass[i]:.0%} of the heat is in {_WORDS[name]}, {area[i]:.0%} of the area"
                yield i, points, f"{shares.replace('%', ' %').replace('  %', ' %')} ({z})"
    empty = ~rows["grid"].list.eval(pl.element().is_finite() & (pl.element() > 0)).list.any().to_numpy()
    for i in np.flatnonzero(empty).tolist():
        yield i, 3.5, "the heat map is empty"
    shapes = rows.select("grid_height", "grid_width").unique()
    if len(shapes) > 1 or empty.all():  # maps of different grids cannot be compared cell by cell
        return
    maps = unit(stacked(rows)).reshape(len(rows), -1)
    shape = (rows["grid_height"][0], rows["grid_width"][0])
    clusters = cluster_maps(maps.reshape(-1, *shape), range(len(rows)), seed=seed, limit=_CLUSTERED)
    means = np.stack([maps[clusters.labels == label].mean(0) for label in range(clusters.number)])
    distances = np.where(empty, np.nan, 1 - (_lengthened(maps) @ _lengthened(means).T).max(1))
    middle = number(float(np.nanmedian(distances)))
    what = f"the nearest of {clusters.number} clusters of maps" if clusters.number > 1 else "the mean map"
    for i, points, z in _far(distances, least=0.02):
        yield i, points, f"unusual map: distance {number(float(distances[i]))} to {what}, median {middle} ({z})"


def _is_few(members: npt.NDArray[np.bool_]) -> bool:
    """Return whether some images are a small part of all: 5 % or one more, but not all that there are."""
    return 0 < int(members.sum()) <= _FEW * len(members) + 1


def _far(values: Floats, *, least: float, both: bool = False) -> Iterator[tuple[int, float, str]]:
    """Yield the position of values far above the median (or far from it), their points and z as text.

    Args:
        values: (n,) NaN is left out.
        least: smallest standard deviation, so that a column of nearly equal values has no odd ones.
        both: small values too.
    """
    if np.isnan(values).all():
        return
    off = values - np.nanmedian(values)
    z = off / max(1.4826 * float(np.nanmedian(np.abs(off))), least)
    z = np.abs(z) if both else z
    for i in np.flatnonzero(z >= FAR).tolist():
        yield i, float(min(z[i], MOST)), f"z = {number(float(z[i]), 1)}" if z[i] < MOST else "z above 10"


def _standardised(values: Floats) -> Floats:
    """Return rows with mean 0 and length 1; rows of one value stay 0."""
    return _lengthened(values - values.mean(1, keepdims=True))


def _lengthened(values: Floats) -> Floats:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    result: Floats = np.divide(values, lengths, out=np.zeros_like(values, dtype=float), where=lengths > 0)
    return result
