"""Write a table of a folder of DICOM files: patient, study and view, without names."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path

from camscope.cohort.pseudonyms import pseudonym, salt_of
from camscope.errors import CamscopeError, SettingError
from camscope.files import write_atomically, writing
from camscope.images import find_pictures, peek

DICOM_COLUMNS = ("path", "patient", "study", "view", "laterality", "date")
_TRIED = 20  # files


def write_dicom_table(folder: Path, results: Path) -> tuple[Path, list[str]] | None:
    """Write ``cohort.csv`` with one row per DICOM file of a folder.

    If folders at the top hold files of several patients each, their names become the column ``class``. Patients and
    studies become hashes, salted with ``private/salt`` beside the table.

    Args:
        folder: folder that is searched, with all subfolders.
        results: folder of the table.

    Returns:
        The path of the table, and notes on it; None if the folder is none of DICOM files: of some files
        across it, none has a patient or a study.

    Raises:
        SettingError: there is another table of this name.
        StoreError: the table cannot be written.
    """
    try:
        paths = [path for path, _ in find_pictures([folder])]
    except CamscopeError:
        return None
    if all(_facts(path)[1] for path in paths[:: -(-len(paths) // _TRIED)]):
        return None
    salt = salt_of(results)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    rows = []
    left_out: list[str] = []
    owners: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        (facts, problem), inside = _facts(path), path.relative_to(folder)
        if problem:
            left_out.append(problem)
            continue
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
    notes = [f"{table} was written from the headers: {', '.join(columns)}; patients and studies are hashes"]
    if left_out:
        notes.append(f"{len(left_out)} of {len(paths)} files are left out, the first since {left_out[0]}")
    return table, notes


def _facts(path: Path) -> tuple[dict[str, str], str]:
    """Return the facts in a header, and "" or the reason why the file is no image of a cohort."""
    try:
        facts = dict(peek(path).facts)
    except CamscopeError as error:
        return {}, str(error)
    if facts.get("modality") == "SEG":
        return facts, f"{str(path)!r} is a segmentation"
    return facts, "" if facts.keys() & {"patient", "study"} else f"{str(path)!r} names no patient and no study"
