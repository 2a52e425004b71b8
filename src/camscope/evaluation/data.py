"""Data of an evaluation: images with their patients, annotations and targets, from a folder or a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from camscope.cohort.case import Case
from camscope.cohort.cohort import Cohort
from camscope.cohort.columns import named_column
from camscope.cohort.open_table import open_table, with_header_patients
from camscope.cohort.tables import LINE, read_table
from camscope.errors import SettingError, nearest
from camscope.images import find_pictures
from camscope.study.study import Study

_NOTHING = ("", "[]")
_COLUMN = "column:"


@dataclass(frozen=True)
class EvaluationData:
    """The cases of an evaluation, and facts about the data.

    Attributes:
        path: path of the table or folder.
        cases: the cases.
        patients: whether the data name patients.
        annotated: number of images with an annotation.
    """

    path: str
    cases: Sequence[Case]
    patients: bool

    @property
    def annotated(self) -> int:
        """Return the number of images with an annotation."""
        return sum(bool(case.masks) for case in self.cases)


def read_data(
    data: str | Path,
    *,
    masks: str | None = None,
    boxes: str | None = None,
    target: str | None = None,
    image: str | None = None,
    patient: str | None = None,
    exclude: Sequence[Path] = (),
) -> EvaluationData:
    """Find the images of a folder or table, with their annotations, patients and targets.

    Args:
        data: a folder, a table (see `read_table` for both), or a study file; paths in a table are relative to it.
        masks: column with masks, boxes or run lengths (of a folder with its own masks, ``mask``); of a study file the
            name of a mask or label; or a folder with one mask per image, of the image's name.
        boxes: column with boxes.
        target: the class of every image, by name or index; "column:NAME" to read it from a column; None for the
            predicted class.
        image: column with the images; None: recognised by its name (see `find_column`).
        patient: column with the patients; None: recognised by its name.
        exclude: folders to skip, such as that of the results.

    Raises:
        TableError: a table that cannot be read.
        PictureError: a folder without images.
        SettingError: a column or folder that does not exist.
    """
    data = str(data)
    if data.lower().endswith(".toml"):
        for name, value in (("--boxes", boxes), ("--image", image), ("--patient", patient)):
            if value is not None:
                raise SettingError(f"{name} names a column, and {data!r} is a study file: leave it out")
        return _of_study(Path(data), masks, target)
    found = _of_table(data, masks, boxes, target, image, patient)
    if (masks or boxes) and not found.annotated:
        raise SettingError(
            f"none of the {len(found.cases)} images of {data} has a mask or box in {masks or boxes!r}: masks in a "
            "folder have the names of their images"
        )
    if not os.path.isdir(data):  # noqa: PTH112  Path.is_dir() raises on names that are too long
        return found
    return _outside(found, [*exclude, *([Path(masks)] if masks and Path(masks).is_dir() else [])])


def _outside(data: EvaluationData, folders: Sequence[Path]) -> EvaluationData:
    """Return the cases whose images are in none of some folders."""
    skipped = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100  links keep their own place
    cases = [
        case
        for case in data.cases
        if not any(Path(os.path.abspath(case.source)).is_relative_to(folder) for folder in skipped)  # noqa: PTH100
    ]
    if not cases:
        raise SettingError(f"{data.path} has no images but those in {', '.join(map(str, folders))}")
    return replace(data, cases=[replace(case, number=number) for number, case in enumerate(cases)])


def _of_study(path: Path, masks: str | None, target: str | None) -> EvaluationData:
    """Return the cases of a study with a mask by its name, or that of a label; without a name, those of all labels."""
    study = Study.read(path)
    names = {*study.file.cohort.masks, *(name for name, rule in study.file.labels.items() if rule.mask)}
    if masks is not None and masks not in names:
        raise SettingError(f"{nearest('mask', masks, names)} in {path} (--masks names it)")
    if target and target.startswith(_COLUMN):
        raise SettingError(f"--target {target!r} names a column, and {str(path)!r} is a study file: give a class")
    data = _of_cohort(with_header_patients(study.cohort), str(path), None, target or "", None)
    kept = [
        replace(
            case,
            masks={
                name: cell
                for name, cell in case.masks.items()
                if (name.startswith("label:") if masks is None else name.removeprefix("label:") == masks)
            },
        )
        for case in data.cases
    ]
    return replace(data, cases=kept)


def _of_table(
    path: str, masks: str | None, boxes: str | None, target: str | None, image: str | None, patient: str | None
) -> EvaluationData:
    named = masks or boxes or (target or "").startswith(_COLUMN)
    headers = [name for name in read_table(path)[0].columns if name != LINE] if named else []
    columns = {"boxes": named_column(headers, boxes, option="--boxes")} if boxes else {}
    folder = Path(masks) if masks is not None and masks not in headers and Path(masks).is_dir() else None
    if folder is None and masks is not None:
        columns["mask"] = named_column(headers, masks, option="--masks")
    classes = (
        named_column(headers, target[len(_COLUMN) :], option="--target")
        if target and target.startswith(_COLUMN)
        else None
    )
    cohort = open_table(
        path,
        labels={},
        image=image,
        patient=patient,
        repeats=True,
        masks=columns,
        strata=(classes,) if classes else (),
    )
    return _of_cohort(cohort, path, folder, target or "", classes)


def _of_cohort(cohort: Cohort, path: str, folder: Path | None, target: str, classes: str | None) -> EvaluationData:
    """Return the cases of a cohort with the class to explain, and with masks of a folder where there is one."""
    stem_masks = {} if folder is None else _by_stem(folder)
    cases = []
    for case in cohort.cases():
        cells, problem = dict(case.masks), case.problem
        name = Path(case.image)
        mask = stem_masks.get((name.parent / name.stem).as_posix()) or stem_masks.get(name.stem)
        if folder is not None and mask:
            cells["mask"] = f"./{os.path.relpath(folder / mask, case.root)}"
        class_name = case.strata[classes] if classes else target
        if classes and not class_name:
            problem = problem or f"{classes} is blank: name the class"
        cases.append(
            replace(
                case,
                patient=case.patient or case.image,
                masks=cells,
                target=class_name,
                strata={},
                problems={"": problem} if problem else {},
            )
        )
    return EvaluationData(path, cases, patients=cohort.patients)


def _by_stem(folder: Path) -> dict[str, str]:
    """Return the masks of a folder by their relative path without suffix, and by their bare name."""
    paths = [path.relative_to(folder) for path, _ in find_pictures([folder])]
    bare = {path.stem: path.as_posix() for path in paths}
    return bare | {path.with_suffix("").as_posix(): path.as_posix() for path in paths}
