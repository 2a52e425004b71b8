"""camscope report: write the report of a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camscope.cli.options import StudyFileOption, StudyFolder, progress, steps
from camscope.cli.terminal import one_line
from camscope.errors import SettingError

if TYPE_CHECKING:
    from camscope.study.study import Study


OtherStudy = Annotated[
    str | None,
    typer.Argument(metavar="DIR_B", help="Another study of these images: compare the two instead.", show_default=False),
]
ComparisonFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="With DIR_B: folder for comparison.html.", show_default="DIR_B")
]


def report(
    folder: StudyFolder,
    other: OtherStudy = None,
    out: ComparisonFolder = None,
    study: StudyFileOption = None,
    pseudonyms: Annotated[
        bool, typer.Option("--pseudonyms", help="Leave out the names of patients and the paths of files.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Write DIR/rows.csv instead: the rows, for Excel and other spreadsheets.")
    ] = False,
    fiftyone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Add predictions, heat maps and verdicts to this dataset of FiftyOne instead."
        ),
    ] = None,
) -> None:
    """Write the report of a study: DIR/report.html, one page that loads nothing from the network.

    The report has the cohort, the scores, the maps and every case, and the verdicts if `camscope audit` has been run.
    With more than 300 cases, the thumbnails are written to DIR/report_files.

    With two studies of one cohort, such as a model before and after training against a shortcut, compare them: a
    paired test of the AUC, of every effect of the audits, and of the heat in regions. It writes
    DIR_B/comparison.html and comparison.json.

    Example: camscope report results
    Example: camscope report before after
    """
    if other is not None and (study is not None or as_csv or fiftyone is not None):
        raise SettingError("--study, --csv and --fiftyone cannot be combined with two studies: name one study")
    if other is not None:
        _compare(folder, other, out=out, pseudonyms=pseudonyms)
        return
    if out is not None:
        raise SettingError("--out is the folder of a comparison: name a second study, or leave it out")
    from camscope.study.csv_export import write_csv
    from camscope.study.study import Study

    if fiftyone is not None and (pseudonyms or as_csv):
        raise SettingError("--fiftyone cannot be combined with --pseudonyms or --csv: samples have the paths of images")
    if as_csv:
        print(write_csv(folder, pseudonyms=pseudonyms))
        return
    opened = None if study is None else Study.read(study)
    if fiftyone is not None:
        from camscope.report.fiftyone_export import write_fiftyone

        count = write_fiftyone(folder, fiftyone, study=opened)
        print(f"{count} samples of the dataset {fiftyone!r} have the study's results")
        return
    print(reported(folder, study=opened, pseudonyms=pseudonyms))


def _compare(folder: str, other: str, *, out: Path | None, pseudonyms: bool) -> None:
    """Compare two studies; print one sentence per label."""
    from camscope.study_comparison import compare_studies

    with progress() as bar:
        comparison = compare_studies(folder, other, out=out, pseudonyms=pseudonyms, progress=steps(bar))
    for text in comparison.notes:
        print(f"note: {one_line(text)}", file=sys.stderr)
    for label in comparison.labels:
        for text in label.notes:
            print(f"note: {one_line(f'{label.label}: {text}')}", file=sys.stderr)
        print(one_line(f"{label.label}: {label.sentence}"))
    print(comparison.page)


def reported(folder: str | Path, *, study: Study | None = None, pseudonyms: bool = False) -> Path:
    """Write the report with a progress display; return its path."""
    from camscope.report import report as write

    with progress() as bar:
        return write(folder, study=study, pseudonyms=pseudonyms, progress=steps(bar))
