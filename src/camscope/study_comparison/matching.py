"""Match the images and patients of two studies: the same image by its hash, the same truth of a label."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from camscope.cohort.store import FAILED
from camscope.errors import StoreError
from camscope.report.results import Results
from camscope.statistics.hypotheses import patient_index

_IMAGE = ("image_sha256", "frame", "turn")
_AREA_DIFFERS = 1e-6


@dataclass(frozen=True)
class MatchedImages:
    """The images that two studies share.

    Attributes:
        pairs: one row per shared image: ``case_a``, ``case_b`` and ``patient``, numbered from 0.
        only_a: number of images that only the first study has.
        only_b: number of images that only the second study has.
        unread: number of images of both studies that could not be read, so that they have no hash.
        patients: number of patients of the shared images; images that share a patient in either study share one here.
        patients_differ: whether the studies assign the shared images to different patients.
        changed: names of the images that both studies have by their path alone: their files differ.
    """

    pairs: pl.DataFrame = field(repr=False)
    only_a: int
    only_b: int
    unread: int
    patients: int
    patients_differ: bool
    changed: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class MatchedLabel:
    """The images of one label that can be compared.

    Attributes:
        rows: one row per image with a score in both studies and the same known truth: ``case_a``, ``case_b``,
            ``patient``, ``truth``, ``log_odds_a`` and ``log_odds_b``; and ``mass`` and ``area`` of regions with the
            suffixes ``_a`` and ``_b``, null without a map.
        truth_differs: number of shared images whose truth differs; they are left out.
        truth_unknown: number of shared images whose truth is unknown in a study; they are left out.
        unscored: number of shared images without a score in a study; they are left out.
        masks_differ: region -> number of images in which its mask differs; they are left out for this region.
        windows_differ: number of images of which the networks see different parts.
        layers: target layers of the maps of the first and of the second study.
    """

    rows: pl.DataFrame = field(repr=False)
    truth_differs: int
    truth_unknown: int
    unscored: int
    masks_differ: dict[str, int]
    windows_differ: int
    layers: tuple[list[str], list[str]]


def match_images(first: Results, second: Results) -> MatchedImages:
    """Match the images of two studies by the hash of their files; frames of one file by their number.

    An image that a table lists twice is matched in the order of the rows.

    Raises:
        StoreError: the studies have no image in common.
    """
    a, b = _images(first), _images(second)
    pairs = a.join(b, on=_IMAGE, how="inner", suffix="_b", nulls_equal=True).rename({"case": "case_a"}).sort("case_a")
    left_a, left_b = a.filter(~pl.col("case").is_in(pairs["case_a"])), b.filter(~pl.col("case").is_in(pairs["case_b"]))
    changed = tuple(sorted(set(left_a["image"]) & set(left_b["image"])))
    if not len(pairs):
        same = f", and {len(changed)} images with the same path have other files" if changed else ""
        raise StoreError(
            f"{first.folder} and {second.folder} have no image in common (images are matched by the hash of their "
            f"files{same}): name two studies of one cohort"
        )
    of_a, of_b = patient_index(pairs["patient"].to_list()), patient_index(pairs["patient_b"].to_list())
    shape = (int(of_a.max()) + 1, int(of_b.max()) + 1)
    links = coo_array((np.ones(len(pairs)), (of_a, of_b + shape[0])), shape=(sum(shape), sum(shape)))
    number, component = connected_components(links, directed=False)
    return MatchedImages(
        pairs.select("case_a", "case_b").with_columns(patient=pl.Series(component[of_a].astype(np.int64))),
        only_a=len(a) - len(pairs),
        only_b=len(b) - len(pairs),
        unread=len(first.cases) + len(second.cases) - len(a) - len(b),
        patients=int(number),
        patients_differ=not number == shape[0] == shape[1],
        changed=changed,
    )


def _images(results: Results) -> pl.DataFrame:
    """Return one row per image with a hash; ``turn`` counts rows with the same image."""
    frame = pl.col("image").str.extract(r"#(\d+)$").alias("frame")
    cases = results.named.filter(pl.col("image_sha256").is_not_null())
    images = cases.select("case", "patient", "image", "image_sha256", frame).sort("case")
    return images.with_columns(turn=pl.int_range(pl.len()).over("image_sha256", "frame"))


def match_label(
    first: Results, second: Results, label: str, *, images: MatchedImages, method: str | None
) -> MatchedLabel:
    """Match the rows of a label.

    Args:
        first: a study with the label.
        second: another one.
        label: the label.
        images: the shared images.
        method: the method whose maps are compared; None for the first of each study.
    """
    regions = [name for name in first.regions if name in second.regions]
    a, b = (
        _rows(results, label, method or results.methods[0], regions).select(pl.all().name.suffix(f"_{end}"))
        for results, end in ((first, "a"), (second, "b"))
    )
    rows = images.pairs.join(a, on="case_a", maintain_order="left").join(b, on="case_b", maintain_order="left")
    unknown = pl.col("truth_a").is_null() | pl.col("truth_b").is_null()
    differs = ~unknown & (pl.col("truth_a") != pl.col("truth_b"))
    scored = pl.col("log_odds_a").is_finite().fill_null(False) & pl.col("log_odds_b").is_finite().fill_null(False)
    truths = rows.select(unknown.alias("unknown"), differs.alias("differs"), scored.alias("scored"))
    kept = rows.filter(~unknown & ~differs & scored)
    other_window = kept.filter(pl.col("window_a") != pl.col("window_b"))
    masks_differ = {}
    for region in regions:
        area_a, area_b = pl.col(f"area:{region}_a"), pl.col(f"area:{region}_b")
        other = (pl.col("window_a") == pl.col("window_b")) & ((area_a - area_b).abs() > _AREA_DIFFERS)
        if number := len(kept.filter(other)):
            masks_differ[region] = number
            kept = kept.with_columns(
                pl.when(other.fill_null(False))
                .then(None)
                .otherwise(pl.col(f"{what}:{region}_{end}"))
                .alias(f"{what}:{region}_{end}")
                for what in ("mass", "area")
                for end in "ab"
            ).with_columns(other.fill_null(False).alias(f"differs:{region}"))
    return MatchedLabel(
        kept.rename({"truth_a": "truth"}).drop("truth_b", "window_a", "window_b", "layer_a", "layer_b"),
        truth_differs=int(truths["differs"].sum()),
        truth_unknown=int(truths["unknown"].sum()),
        unscored=len(rows.filter(~unknown & ~differs & ~scored)),
        masks_differ=masks_differ,
        windows_differ=len(other_window),
        layers=tuple(sorted(kept[f"layer_{end}"].drop_nulls().unique().to_list()) for end in "ab"),  # type: ignore[arg-type]
    )


def _rows(results: Results, label: str, method: str, regions: list[str]) -> pl.DataFrame:
    """Return the rows of a label and method with their windows, without rows that failed."""
    columns = [f"{what}:{region}" for region in regions for what in ("mass", "area")]
    scan = pl.scan_parquet(list(results.shards)).filter(
        (pl.col("label") == label) & (pl.col("method") == method) & (pl.col("status") != FAILED)
    )
    return scan.select("case", "truth", "log_odds", "window", "layer", *columns).collect()
