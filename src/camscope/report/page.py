"""Write the report page: figures, tables, texts and cases in one file that loads nothing from the network."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from camscope.audit.settings import FEWEST, LEVEL
from camscope.cohort.shown_names import ShownNames
from camscope.cohort.store import FAILED, OK, as_written
from camscope.files import write_atomically
from camscope.page.lines import Drawn
from camscope.page.shell import rendered, script_json
from camscope.page.words import interval
from camscope.progress import Progress
from camscope.report.acquisition import constant_properties, property_rows, reliance_figure
from camscope.report.choice import MOST, Shown, chosen_cases
from camscope.report.figures import (
    alignment_figure,
    auc_figure,
    calibration_figure,
    decision_figure,
    effect_figure,
    enrichment_figure,
    mass_figure,
)
from camscope.report.gallery import INSIDE, gallery_data, thumbnails
from camscope.report.mean_maps import (
    LabelMaps,
    MeanPictures,
    cluster_figure,
    label_maps,
    outcome_figure,
    scale_address,
    top_of,
)
from camscope.report.methods import agreement_of_methods
from camscope.report.performance import LabelPerformance, label_performance
from camscope.report.prose import limitations, methods_text, record_rows, sampled
from camscope.report.results import Results, read_results
from camscope.report.subgroups import MEASURES
from camscope.report.tables import Slice, areas, flow, make_up, number_of, outcomes
from camscope.report.words import MEANINGS, answers, decision_sentence, region_words
from camscope.study.study import Study
from camscope.viewer import module

PAGE = "report.html"

_SCRIPT = importlib.resources.files("camscope.report").joinpath("templates/page.js")


def report(
    folder: str | Path,
    *,
    study: Study | None = None,
    out: Path | None = None,
    pseudonyms: bool = False,
    progress: Progress = lambda *_: None,
    inside: int = INSIDE,
    most: int = MOST,
) -> Path:
    """Write a study's report, one HTML page that opens from disk.

    Args:
        folder: folder of a study that has been run, with or without an audit.
        study: the study; needed if its images were moved since the run.
        out: folder for the page; None for the folder of the study.
        pseudonyms: replace names of patients with pseudonyms, and remove paths of files (see `ShownNames`).
        progress: called with the current step, the number of items done, and the total.
        inside: largest number of cases whose thumbnails are part of the page; for more cases they are separate files.
        most: largest number of cases of which the page shows all; of larger cohorts it shows a choice of this size.

    Returns:
        The path of ``report.html``. For large cohorts, the thumbnails are in ``report_files`` beside it.

    Raises:
        StoreError: the folder has no study, or the page cannot be written.
    """
    with as_written(folder):
        results = read_results(folder, study=study)
        names = ShownNames(results.named if pseudonyms else None)
        out = results.folder if out is None else out
        return write_page(results, out, names=names, progress=progress, inside=inside, most=most)


def write_page(
    results: Results, out: Path, *, names: ShownNames, progress: Progress, inside: int = INSIDE, most: int = MOST
) -> Path:
    """Write the report of results that have been read, as `report` does, with names as ``names`` shows them."""
    results = replace(results, grouped=all(names.value(group) == group for group in results.groups))
    selection = chosen_cases(results, most=most)
    means = MeanPictures(results, selection)
    addresses, reasons = thumbnails(results, selection, out=out, means=means, progress=progress, inside=inside)
    maps = []
    for count, label in enumerate(results.labels, 1):
        maps.append(label_maps(results, label))
        progress("averaging maps", count, len(results.labels))
    performance = []
    for count, label in enumerate(results.labels, 1):
        performance.append(label_performance(results, label, shown=names.value))
        progress("measuring performance", count, len(results.labels))
    data = gallery_data(results, selection, names=names, addresses=addresses, reasons=reasons)
    content = _content(results, selection, names=names, maps=maps, performance=performance, means=means)
    content |= {"data": Markup(script_json(data))}
    text = rendered(
        "page.html.j2", content, package="camscope.report", script=module(["heat"]) + _SCRIPT.read_text("utf-8")
    )
    path = out / PAGE
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "replace")))
    return path


def _content(
    results: Results,
    selection: Shown,
    *,
    names: ShownNames,
    maps: list[LabelMaps],
    performance: list[LabelPerformance],
    means: MeanPictures,
) -> dict[str, Any]:
    """Return the variables of the templates."""
    top, slices = top_of(maps), areas(results)
    label_answers = {answer.label: answer for answer in answers(results)}
    firsts = [
        {
            "label": label_map.label,
            "answer": label_answers.get(label_map.label),
            "auc": interval(vars(slices[label_map.label][0].auc)),
            "picture": Markup(means.shown(label_map, top=top)),
            "mean": label_map.whole,
            "of": label_map.of,
            "pictures": means.count(label_map.label),
            "outcomes": outcomes(results, label_map.label),
        }
        for label_map in maps
    ]
    paragraphs, references = methods_text(results)
    statuses = dict(results.rows.group_by("status").len().rows())
    return {
        "labels": results.labels,
        "firsts": firsts,
        "audit": results.audit,
        "warnings": [names.text(text) for text in results.warnings],
        "counts": {
            "patients": number_of(results.cases, "patient") if results.patients_known else None,
            "images": len(results.cases),
            "maps": statuses.get(OK, 0),
            "failed": statuses.get(FAILED, 0),
            "rows": len(results.rows),
        },
        "top": top,
        "scale": Markup(scale_address()),
        "meanings": MEANINGS,
        "region_words": region_words,
        "flow": flow(results, names),
        "make_up": make_up(results),
        "groups": results.groups,
        "group_names": results.file.cohort.group,
        "asked": results.file.explain.when,
        "methods": results.methods,
        "pairs": agreement_of_methods(results) if results.methods[1:] else [],
        "properties": list(property_rows(results.audit, shown=names.value)),
        "constant_properties": constant_properties(results.audit),
        "drawn": _figures(results, maps, slices, performance, top=top),
        "performance": performance,
        "decision_sentence": decision_sentence,
        "measures": MEASURES,
        "fewest": FEWEST,
        "level": LEVEL,
        "limitations": limitations(results),
        "paragraphs": paragraphs,
        "references": references,
        "record": record_rows(results, pseudonyms=names.pseudonyms),
        "pseudonyms": names.pseudonyms,
        "shown": names.value,
        "part": selection.sentence,
        "sampled": sampled(results),
    }


def _figures(
    results: Results,
    maps: list[LabelMaps],
    slices: Mapping[str, Sequence[Slice]],
    performance: list[LabelPerformance],
    *,
    top: float,
) -> dict[str, list[Drawn]]:
    """Return the figures of each section; sections without data have no figures."""
    audited: dict[str, Any] = {} if results.audit is None else results.audit["labels"]
    delta = 0.0 if results.audit is None else float(results.audit["settings"]["delta"])
    cues: dict[str, dict[str, Any]] = {}
    for label, content in audited.items():
        for cue, alignment in content["alignment"].items():
            cues.setdefault(cue, {})[label] = alignment
    figures: dict[str, Iterable[Drawn | None]] = {
        "reliance": [
            reliance_figure(label_map, audited.get(label_map.label, {}), name=f"cells{n}")
            for n, label_map in enumerate(maps)
        ],
        "auc": [auc_figure(label, slices[label], name=f"auc{n}") for n, label in enumerate(results.labels)],
        "calibration": [calibration_figure(entry, name=f"calibration{n}") for n, entry in enumerate(performance)],
        "decision": [decision_figure(entry, name=f"decision{n}") for n, entry in enumerate(performance)],
        "maps": [outcome_figure(label_map, top=top, name=f"map{n}") for n, label_map in enumerate(maps)],
        "clusters": [cluster_figure(label_map, top=top, name=f"cluster{n}") for n, label_map in enumerate(maps)],
        "enrichment": [
            enrichment_figure(label, entry, name=f"heat{n}") for n, (label, entry) in enumerate(audited.items())
        ],
        "effects": [
            effect_figure(label, entry, delta=delta, name=f"effect{n}")
            for n, (label, entry) in enumerate(audited.items())
        ],
        "alignment": [
            alignment_figure(cue, cue_entries, name=f"cue{n}") for n, (cue, cue_entries) in enumerate(cues.items())
        ],
        "mass": [
            mass_figure(label, results.of(label), results.regions, name=f"mass{n}")
            for n, label in enumerate(results.labels)
        ],
    }
    return {
        section: [Drawn(d.title, Markup(d.svg), d.columns, d.rows) for d in panels if d is not None]
        for section, panels in figures.items()
    }
