"""Compare two studies of one cohort: match their images, test all differences, write the page and its numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from camscope.audit.output import CHANGES, plain
from camscope.audit.properties import PREFIX
from camscope.audit.reliance_map import PREFIX as CELL
from camscope.cohort.store import as_written
from camscope.errors import StoreError, reason
from camscope.files import write_atomically
from camscope.progress import Progress
from camscope.report.results import Results, read_results
from camscope.study_comparison.differences import (
    EDIT,
    AucDifference,
    EffectDifference,
    HeatDifference,
    auc_difference_of,
    effect_differences,
    heat_differences,
    with_adjusted_p,
)
from camscope.study_comparison.matching import MatchedImages, match_images, match_label
from camscope.study_comparison.notes import edit_notes, row_notes, study_notes
from camscope.study_comparison.page import page_text
from camscope.study_comparison.sentences import answer

PAGE, JSON = "comparison.html", "comparison.json"
VERSION = 1

Changes = tuple[pl.DataFrame, pl.DataFrame]

_CHANGE = ("label", "case", *EDIT, "effect")


@dataclass(frozen=True)
class LabelComparison:
    """The comparison of one label.

    Attributes:
        label: the label.
        models: names of the two models.
        sentence: the answer.
        notes: what is left out, or differs, for this label.
        same: whether all scores and effects are equal.
        images: number of images that are compared.
        auc: the difference of the AUCs.
        effects: the differences of the effects of regions.
        properties: the differences of the effects of properties of the acquisition.
        heat: the differences of the heat in regions.
        verdicts: region or property -> the verdicts of the two audits; None where it was not tested.
    """

    label: str
    models: tuple[str, str]
    sentence: str
    notes: list[str]
    same: bool
    images: int
    auc: AucDifference
    effects: list[EffectDifference] = field(repr=False)
    properties: list[EffectDifference] = field(repr=False)
    heat: list[HeatDifference] = field(repr=False)
    verdicts: dict[str, tuple[str | None, str | None]] = field(repr=False)


@dataclass(frozen=True)
class StudyComparison:
    """The comparison of two studies, A and B.

    Attributes:
        folders: the folders of A and B.
        images: the images that both have.
        method: the method whose maps are compared; None if the studies have no method in common.
        notes: what is left out, or differs between the studies.
        labels: the labels that both have.
        page: the HTML page.
    """

    folders: tuple[str, str]
    images: MatchedImages
    method: str | None
    notes: list[str]
    labels: list[LabelComparison]
    page: Path


def compare_studies(
    first: str | Path,
    second: str | Path,
    *,
    out: Path | None = None,
    pseudonyms: bool = False,
    progress: Progress = lambda *_: None,
) -> StudyComparison:
    """Compare two finished studies of one cohort, such as a model before and after training against a shortcut.

    Images are matched by the hash of their files, and labels by their names. The differences are B minus A, with the
    patient as the unit: of the AUC (DeLong's test for clustered data), of each effect of the audit, and of the heat in
    regions. See ``docs/report.md``.

    Args:
        first: folder of study A, or its address.
        second: folder of study B.
        out: folder for ``comparison.html`` and ``comparison.json``; None for the folder of B.
        pseudonyms: leave out the paths of the folders.
        progress: called with the current step, the number of labels done, and the total.

    Returns:
        The comparison.

    Raises:
        StoreError: a folder has no study, the studies have no image or no label in common, or the page cannot be
            written.

    Example:
        >>> from camscope.study_comparison import compare_studies
        >>> comparison = compare_studies("before", "after")  # doctest: +SKIP
        >>> print(comparison.labels[0].sentence)  # doctest: +SKIP
        The effect of the border fell from 1.80 to 0.20 SD (difference −1.60, 95 % CI −1.90 to −1.30, p < .001) ...
    """
    a, b = map(_read, (first, second))
    labels = [label for label in a.labels if label in b.labels]
    if not labels:
        raise StoreError(
            f"no label is in both studies: {first} has {', '.join(a.labels)}, and {second} has {', '.join(b.labels)}"
        )
    images = match_images(a, b)
    method = next((name for name in a.methods if name in b.methods), None)
    folders = [Path(str(folder)).name if pseudonyms else str(folder) for folder in (first, second)]
    changes, reasons = _changes((a, b), folders)
    comparisons = []
    for count, label in enumerate(labels, 1):
        comparisons.append(_compared((a, b), label, images=images, method=method, changes=changes))
        progress("comparing labels", count, len(labels))
    out = b.folder if out is None else out
    comparison = StudyComparison(
        folders=(folders[0], folders[1]),
        images=images,
        method=method,
        notes=[*study_notes(a, b, images, method, named=not pseudonyms), *reasons],
        labels=_finished(comparisons),
        page=out / PAGE,
    )
    _write(comparison, out, page_text(comparison, [results.record for results in (a, b)]))
    return comparison


def _write(comparison: StudyComparison, out: Path, html: str) -> None:
    """Write the page and its numbers."""
    numbers: dict[str, Any] = plain(replace(comparison, images=replace(comparison.images, pairs=pl.DataFrame())))
    del numbers["page"], numbers["images"]["pairs"], numbers["images"]["changed"]
    text = json.dumps({"version": VERSION} | numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(out / PAGE, lambda file: file.write(html.encode("utf-8", "replace")))
    write_atomically(out / JSON, lambda file: file.write(text.encode("utf-8", "replace")))


def _read(folder: str | Path) -> Results:
    with as_written(folder):
        return read_results(folder)


def _changes(studies: Sequence[Results], folders: Sequence[str]) -> tuple[Changes | None, list[str]]:
    """Return the changes by all interventions of the audits, and why effects cannot be compared."""
    tables = []
    for name, results, folder in zip("AB", studies, folders, strict=True):
        if results.audit is None:
            text = f"Effects are not compared: {name} has no audit of its rows. Run `camscope audit {folder}` first."
            return None, [text]
        try:
            with (results.folder / CHANGES).open("rb") as file:
                table = pl.read_parquet(file)
            tables.append(table.select(_CHANGE).filter(~pl.col("region").str.starts_with(CELL)))
        except (OSError, pl.exceptions.PolarsError) as fault:
            old = isinstance(fault, pl.exceptions.ColumnNotFoundError)
            why = "is of an earlier version" if old else f"cannot be read: {reason(fault)}"
            return None, [f"Effects are not compared: {CHANGES} of {name} {why}. Run `camscope audit {folder}` again."]
    return (tables[0], tables[1]), []


def _compared(
    studies: tuple[Results, Results],
    label: str,
    *,
    images: MatchedImages,
    method: str | None,
    changes: Changes | None,
) -> LabelComparison:
    """Compare one label; the p-values of all labels are adjusted later."""
    matched = match_label(*studies, label, images=images, method=method)
    effects: list[EffectDifference] = []
    notes = list(row_notes(*studies, label, matched))
    if changes is not None:
        first, second = (table.filter(pl.col("label") == label) for table in changes)
        effects, few = effect_differences(matched, first, second)
        notes += edit_notes(effects, first, second, few=few)
    rows = matched.rows
    same = len(rows) > 0 and bool((rows["log_odds_a"] == rows["log_odds_b"]).all())
    names = [str(results.record["models"][label]["name"]) for results in studies]
    return LabelComparison(
        label=label,
        models=(names[0], names[1]),
        sentence="",
        notes=notes,
        same=same and all(effect.log_odds.difference.estimate == 0 for effect in effects),
        images=len(rows),
        auc=auc_difference_of(matched),
        effects=[effect for effect in effects if not effect.region.startswith(PREFIX)],
        properties=[effect for effect in effects if effect.region.startswith(PREFIX)],
        heat=[] if method is None else heat_differences(matched),
        verdicts=_verdicts(studies, label),
    )


def _verdicts(studies: tuple[Results, Results], label: str) -> dict[str, tuple[str | None, str | None]]:
    """Return region or property -> the verdicts of both audits."""
    entries = []
    for results in studies:
        content = {} if results.audit is None else results.audit["labels"].get(label, {})
        properties = {PREFIX + name: entry for name, entry in content.get("properties", {}).items()}
        entries.append(content.get("regions", {}) | properties)
    names = dict.fromkeys([*entries[0], *entries[1]])
    return {name: tuple(entry.get(name, {}).get("verdict") for entry in entries) for name in names}


def _finished(labels: Sequence[LabelComparison]) -> list[LabelComparison]:
    """Return the labels with p-values that are adjusted over all of them, and with the answers."""
    aucs = with_adjusted_p([[label.auc] for label in labels], lambda entry: entry.auc.p)
    effects = with_adjusted_p([label.effects for label in labels], lambda entry: entry.sd.p)
    properties = with_adjusted_p([label.properties for label in labels], lambda entry: entry.sd.p)
    heat = with_adjusted_p([label.heat for label in labels], lambda entry: entry.enrichment.p)
    return [
        replace(
            label,
            auc=auc,
            effects=regions,
            properties=others,
            heat=maps,
            sentence=answer(auc, [*regions, *others], same=label.same),
        )
        for label, (auc,), regions, others, maps in zip(labels, aucs, effects, properties, heat, strict=True)
    ]
