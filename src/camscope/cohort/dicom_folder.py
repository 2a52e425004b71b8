"""Write a table of a folder of DICOM files: patient, study and view, without names."""

from __future__ import annotations

import csv
import io
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from camscope.cohort.pseudonyms import pseudonym, salt_of
from camscope.errors import CamscopeError, SettingError
from camscope.files import write_atomically, writing
from camscope.images import find_pictures, peek

DICOM_COLUMNS = ("path", "patient", "study", "view", "laterality", "date")
_TRIED = 20  # files


def write_dicom_table(folder: Path, results: Path) -> tuple[Path, Sequence[str]] | None:
    """Write ``cohort.csv`` with one row per DICOM file of a folder.

    If folders at the top hold files of several patients each, their names become the column ``class``. Patients and
    studies become hashes, salted with ``private/salt`` beside the table.

    Args:
        folder: folder that is searched, with all subfolders.
        results: folder of the table.

    Returns:
        The path of the table, and its columns; None if the first images of the folder are not DICOM files with a
        patient or a study.

    Raises:
        SettingError: there is another table of this name.
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
    rows = []
    owners: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        facts, inside = _facts(path), path.relative_to(folder)
        hashes = [pseudonym(facts[name], salt) if facts.get(name) else "" for name in ("patient", "study")]
        rest = [facts.get(name, "") for name in DICOM_COLUMNS[3:]]
        group = inside.parts[0] if len(inside.parts) > 1 else ""
        owners[group].add(hashes[0])
        rows.append([inside.as_posix(), *hashes, *rest, group])
    classes = len(owners) > 1 and "" not in owners and all(len(patients) > 1 for patients in owners.values())
    columns = (*DICOM_COLUMNS, "class") if classes else DICOM_COLUMNS
    writer.writerow(columns)
    writer.writerows(rows if classes else (row[:-1] for row in rows))
    table = results / "cohort.csv"
    if table.exists() and not table.read_bytes().startswith(b"path,patient,study,"):
        raise SettingError(f"{table} exists already and is another table: write the study file into another folder")
    with writing(table):
        write_atomically(table, lambda file: file.write(text.getvalue().encode()))
    return table, columns


def _facts(path: Path) -> dict[str, str]:
    try:
        return dict(peek(path).facts)
    except CamscopeError:
        return {}
