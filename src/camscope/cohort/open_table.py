"""A cohort from a table alone, without a study file: for evaluation, training and failures."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from camscope.cohort.cohort import Cohort
from camscope.cohort.columns import NO_PATIENTS
from camscope.cohort.hub_dataset import is_dataset
from camscope.cohort.sections import CohortSection, LabelRule
from camscope.errors import CamscopeError, SettingError, StudyError
from camscope.images import peek
from camscope.images.source import is_address

PatientSource = Literal["column", "header", "none"]

_TRIED = 20


def open_table(
    path: str,
    *,
    labels: Mapping[str, LabelRule],
    image: str | None = None,
    patient: str | None = None,
    repeats: bool = False,
    **settings: Any,
) -> Cohort:
    """Read a table as a cohort, with images relative to the table.

    Args:
        path: of the table.
        labels: how each label is read.
        image: column of images, or a template; None: recognised by its name (see `find_column`).
        patient: column of patients, or a template; None: recognised by its name.
        repeats: whether several rows may have the same image and patient.
        **settings: more of `CohortSection`.

    Raises:
        SettingError: a column that does not exist or cannot be told, or no image that exists.
        TableError: the table cannot be read.
    """
    folder = path.rpartition("/")[0] if is_address(path) else str(Path(path).parent)
    folder = "." if is_dataset(path) else folder
    name = path if is_address(path) or is_dataset(path) else Path(path).name
    content: dict[str, Any] = {"table": name, "image": image, "patient": patient, **settings}
    section = CohortSection.model_validate({key: value for key, value in content.items() if value is not None})
    try:
        cohort = Cohort(section, labels, folder, options=("--image", "--patient"), repeats=repeats)
    except StudyError as error:
        raise SettingError(str(error)) from None
    if cohort.missing:
        raise SettingError(str(cohort.missing[0]))
    if (missing := cohort.missing_images()) and missing.all:
        raise SettingError(f"{cohort.path}: {missing.text}")
    announce(cohort, option="--patient", level=5)
    return with_header_patients(cohort)


def with_header_patients(cohort: Cohort) -> Cohort:
    """Return a cohort with the patients of the images' headers, where no column names any and headers do.

    Patients are numbered in the order of their first image, so that nothing that is written names them.
    """
    if patient_source(cohort) != "header":
        return cohort
    numbers: dict[str, str] = {}
    names = []
    for case in cohort.cases():
        identity = ""
        with suppress(CamscopeError):
            identity = peek(case.source).facts.get("patient", "")
        names.append(numbers.setdefault(identity, f"patient {len(numbers) + 1}") if identity else "")
    return cohort.with_patients(names)


def announce(cohort: Cohort, *, option: str, level: int) -> None:
    """Warn of what to know of a cohort; ``option`` names its patients, ``level`` is that of the stack."""
    missing = cohort.missing_images()
    for note in (*notes_on(cohort, option=option), *([missing.text] if missing else [])):
        warnings.warn(f"{cohort.path}: {note}", stacklevel=level)


def notes_on(cohort: Cohort, *, option: str) -> list[str]:
    """Return what was done to the rows of a cohort, and that no patients are known where that is so.

    Args:
        cohort: the cohort.
        option: what names the column of patients.
    """
    unknown = patient_source(cohort) == "none"
    return [*cohort.notes, *([NO_PATIENTS.format(option=option)] if unknown else [])]


def patient_source(cohort: Cohort) -> PatientSource:
    """Return what tells the patients: a column, the headers of the images, or nothing: each image counts as one."""
    if cohort.patients:
        return "column"
    for case in itertools.islice(cohort.cases(), _TRIED):
        with suppress(CamscopeError):
            return "header" if peek(case.source).facts.get("patient") else "none"
    return "none"
