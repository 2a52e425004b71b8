"""Write a table of a folder of DICOM files: patient, study and view, without names."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

from camscope.cohort.pseudonyms import pseudonym, salt_of
from camscope.errors import CamscopeError
from camscope.files import write_atomically, writing
from camscope.images import find_pictures, peek

DICOM_COLUMNS = ("path", "patient", "study", "view", "laterality", "date")
_TRIED = 20  # files


def write_dicom_table(folder: Path, results: Path) -> Path | None:
    """Write ``cohort.csv`` with one row per DICOM file of a folder.

    Patients and studies become hashes, salted with ``private/salt`` beside the table.

    Args:
        folder: folder that is searched, with all subfolders.
        results: folder of the table.

    Returns:
        The path of the table; None if the first images of the folder are not DICOM files with a patient or a study.

    Raises:
        StoreError: the table cannot be written.
    """
    try:
        paths = [path for path, _ in find_pictures([folder])]
    except CamscopeError:
        return None
    if not any(_facts(path).keys() & {"patient", "study"} for path in itertools.islice(paths, _TRIED)):
        return None
    salt = salt_of(results)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DICOM_COLUMNS)
    for path in paths:
        facts = _facts(path)
        hashes = [pseudonym(facts[name], salt) if facts.get(name) else "" for name in ("patient", "study")]
        rest = [facts.get(name, "") for name in DICOM_COLUMNS[3:]]
        writer.writerow([path.relative_to(folder).as_posix(), *hashes, *rest])
    table = results / "cohort.csv"
    with writing(table):
        write_atomically(table, lambda file: file.write(text.getvalue().encode()))
    return table


def _facts(path: Path) -> dict[str, str]:
    try:
        return dict(peek(path).facts)
    except CamscopeError:
        return {}
