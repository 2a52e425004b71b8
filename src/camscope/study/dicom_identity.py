"""Read the patient and the view from DICOM headers, for tables without them."""

from __future__ import annotations

from dataclasses import replace

from camscope.cohort.case import Case
from camscope.cohort.pseudonyms import pseudonym, salt_of
from camscope.cohort.store import Store
from camscope.images import peek
from camscope.study.study import Study


class Identities:
    """Add patients and groups from headers to cases of a table without them.

    The identity of a patient is never written. It is replaced with a salted hash. The salt is kept in the folder
    ``private`` of the study, so that a patient keeps the same name in later runs.
    """

    def __init__(self, study: Study, store: Store) -> None:
        cohort = study.file.cohort
        self._patient, self._group = cohort.patient is None, not cohort.group
        self._salt = salt_of(store.folder) if self._patient else b""

    def completed(self, case: Case) -> Case:
        """Return the case with its patient and group; a case of unknown patient counts as a separate patient."""
        if not self._patient and not self._group:
            return case
        facts = peek(case.source).facts
        if self._patient:
            patient = facts.get("patient", "")
            case = replace(case, patient=pseudonym(patient, self._salt) if patient else case.name)
        if self._group and facts.get("view"):
            case = replace(case, group=(facts["view"],))
        return case
