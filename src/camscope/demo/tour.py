"""Write the cohort of the demo, and run its study, audit and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from camscope.audit.audit import audit
from camscope.explanation import explain_all
from camscope.files import claim, write_atomically
from camscope.phantoms.cohort import write_cohort
from camscope.phantoms.findings import FINDINGS
from camscope.progress import Progress
from camscope.render import Cell, sheet
from camscope.report import report
from camscope.report.results import read_results
from camscope.report.words import answers
from camscope.study.run import run
from camscope.study.study import Study

_SHOWN = 4


@dataclass(frozen=True)
class Tour:
    """The files of the demo.

    Attributes:
        study: the study file, in a folder with its table, images, masks and models.
        results: folder of the study's results.
        sheet: figure of some images with the token, and the maps of all models.
        answers: the answer for each label, in a few words: (label, answer).
        report: the report page.
    """

    study: Path
    results: Path
    sheet: Path
    answers: Sequence[tuple[str, str]]
    report: Path


def tour(out: Path, *, seed: int = 7, patients: int = 70, progress: Progress = lambda *_: None) -> Tour:
    """Write the phantom cohort, run its study, audit and report, and draw a figure with the maps of all models.

    Args:
        out: output folder.
        seed: random seed of the cohort.
        patients: number of patients.
        progress: called with the current step, the number of items done, and the total.

    Returns:
        The files of the demo.
    """
    claim(out, "the demo")
    file = write_cohort(
        out, seed=seed, patients=patients, progress=lambda count, total: progress("writing the cohort", count, total)
    )
    study, results = Study.read(file), out / "results"
    for _ in run(study, results, progress=lambda state: progress("explaining", state.done, state.total)):
        pass
    audit(study, results, progress=progress)
    page = report(results, study=study, progress=progress)
    said = [(answer.label, answer.headline) for answer in answers(read_results(results, study=study))]
    return Tour(file, results, _side_by_side(study, out), said, page)


def _side_by_side(study: Study, out: Path) -> Path:
    """Draw images with the token, one per row, with one column per model."""
    cases = [case for case in study.cohort.cases() if case.cues["token"]][: _SHOWN * 3 : 3]
    pictures = [case.source for case in cases]
    columns = [list(explain_all(study.model(label)[0], pictures, targets=0)) for label in FINDINGS]
    table = []
    for number, case in enumerate(cases):
        findings = [label for label, truth in case.truth.items() if truth]
        original = columns[0][number].picture
        cells = [Cell(Image.fromarray(original.rgb), f"truth: {', '.join(findings) or 'no finding'}")]
        for label, column in zip(FINDINGS, columns, strict=True):
            e = column[number]
            cells.append(Cell(e.overlay(), f"{label}: {e.certainty}"))
        table.append(cells)
    headings = ["image", *(f"model of {label}" for label in FINDINGS)]
    path = out / "models_side_by_side.png"
    image = sheet(table, column_headings=headings, title="What each model looks at (Grad-CAM)")
    write_atomically(path, lambda file: image.save(file, "PNG"))
    return path
