"""Read a cohort from a table without a study file, for evaluation, training and failures."""

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
from camscope.cohort.tables import SPLIT
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
        path: path of the table.
        labels: label -> rule for reading it.
        image: column of images, or a template; None to recognise it by its name (see `find_column`).
        patient: column of patients, or a template; None to recognise it by its name.
        repeats: whether several rows may have the same image and patient.
        **settings: further settings of `CohortSection`.

    Raises:
        SettingError: a column does not exist or is ambiguous, or no image exists.
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
    announce(cohort, option="a study file" if Path(path).is_dir() else "--patient", level=5)
    return with_header_patients(cohort)


def with_header_patients(cohort: Cohort) -> Cohort:
    """Return a cohort with the patients of the images' headers, if it has no column of patients.

    Patients are numbered in the order of their first image, so that their names are never written.
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
    """Issue the notes on a cohort as warnings; ``option`` names the patients, ``level`` is the stack level."""
    notes = notes_on(cohort, option=option)
    if shared := cohort.shared_images():
        notes.append(f"{shared[0].text}{f'; so have {len(shared) - 1} other images' if len(shared) > 1 else ''}")
    if missing := cohort.missing_images():
        notes.append(missing.text)
    for note in notes:
        warnings.warn(f"{cohort.path}: {note}", stacklevel=level)


def notes_on(cohort: Cohort, *, option: str) -> list[str]:
    """Return the notes on a cohort, with notes if patients are unknown, or if two names may be those of one patient.

    Args:
        cohort: the cohort.
        option: the option that names the column of patients.
    """
    notes = list(cohort.notes)
    if patient_source(cohort) == "none":
        notes.append(NO_PATIENTS.format(option=option))
    if alike := cohort.alike_patients():
        others = f", as are {len(alike) - 1} other groups of similar names" if len(alike) > 1 else ""
        notes.append(f"{' and '.join(map(repr, alike[0]))} are counted as different patients{others}")
    return notes


def note_on_training(cohort: Cohort) -> list[str]:
    """Return a note if images are of the training or validation set, for commands that judge a model on them."""
    trained = cohort.table[SPLIT].is_in(["train", "val"]).sum() if SPLIT in cohort.table.columns else 0
    if not trained:
        return []
    text = f"{trained} of {len(cohort)} images are of the training or validation set: the results of a model that was "
    return [f'{text}trained on them are too good; keep the test set alone with cohort.only = {{ split = "test" }}']


def patient_source(cohort: Cohort) -> PatientSource:
    """Return the source of the patients: a column, the headers, or "none" (each image counts as a patient)."""
    if cohort.patients:
        return "column"
    for case in itertools.islice(cohort.cases(), _TRIED):
        with suppress(CamscopeError):
            return "header" if peek(case.source).facts.get("patient") else "none"
    return "none"
