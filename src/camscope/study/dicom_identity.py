"""What a table lacks and a picture's header knows: the patient and the view."""

from __future__ import annotations

from dataclasses import replace

from camscope.cohort.case import Case
from camscope.cohort.pseudonyms import pseudonym, salt_of
from camscope.cohort.store import Store
from camscope.images import peek
from camscope.study.study import Study


class Identities:
    """Completes cases of a table without patients or groups.

    A patient's identity from a header is never written: it becomes a salted hash, and the salt stays in the folder
    ``private`` of the study, so that the same patient has the same name whenever the study goes on.
    """

    def __init__(self, study: Study, store: Store) -> None:
        cohort = study.file.cohort
        self._patient, self._group = cohort.patient is None, not cohort.group
        self._salt = salt_of(store.folder) if self._patient else b""

    def completed(self, case: Case) -> Case:
        """Return the case with its patient and group; one without any known patient is a patient of its own."""
        if not self._patient and not self._group:
            return case
        facts = peek(case.source).facts
        if self._patient:
            patient = facts.get("patient", "")
            case = replace(case, patient=pseudonym(patient, self._salt) if patient else case.name)
        if self._group and facts.get("view"):
            case = replace(case, group=(facts["view"],))
        return case
