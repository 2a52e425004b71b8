"""What a table lacks and a picture's header knows: the patient and the view."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace

from camscope.cohort.case import Case
from camscope.cohort.store import Store
from camscope.files import write_atomically, writing
from camscope.images import peek
from camscope.study.study import Study

PRIVATE = "private"

_DIGITS = 12


class Identities:
    """Completes cases of a table without patients or groups.

    A patient's identity from a header is never written: it becomes a salted hash, and the salt stays in the folder
    ``private`` of the study, so that the same patient has the same name whenever the study goes on.
    """

    def __init__(self, study: Study, store: Store) -> None:
        cohort = study.file.cohort
        self._patient, self._group = cohort.patient is None, not cohort.group
        self._salt = _salt(store) if self._patient else b""

    def completed(self, case: Case) -> Case:
        """Return the case with its patient and group; one without any known patient is a patient of its own."""
        if not self._patient and not self._group:
            return case
        facts = peek(case.source).facts
        if self._patient:
            patient = facts.get("patient", "")
            case = replace(case, patient=self._hashed(patient) if patient else case.name)
        if self._group and facts.get("view"):
            case = replace(case, group=(facts["view"],))
        return case

    def _hashed(self, identity: str) -> str:
        return hashlib.sha256(self._salt + identity.encode("utf-8", "replace")).hexdigest()[:_DIGITS]


def _salt(store: Store) -> bytes:
    path = store.folder / PRIVATE / "salt"
    with writing(path):
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(secrets.token_hex(32).encode()))
        return path.read_bytes()
