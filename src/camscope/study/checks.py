"""Check the files of a cohort without decoding images."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from camscope.cohort.annotations import check_shape, mask_files, read_annotation
from camscope.cohort.case import Case
from camscope.cohort.cohort import Cohort
from camscope.cohort.locate import is_missing
from camscope.cohort.sections import Problem
from camscope.cohort.tables import located
from camscope.errors import CamscopeError
from camscope.images import peek
from camscope.images.source import is_address, split

_LISTED = 20  # most missing images that are listed
_BLOCK = 4096  # bytes


def file_problems(cohort: Cohort) -> list[Problem]:
    """Return problems of image and mask files: missing, unreadable, of different shapes, or duplicates."""
    missing = cohort.missing_images()
    lines = [case.line for case in cohort.cases() if case.image and is_missing(case.source)] if missing else []
    problems = [Problem(missing.text, cohort.path, lines[0], fatal=missing.all)] if missing else []
    for case in cohort.cases():
        if "" not in case.problems and (len(lines) <= _LISTED or not is_missing(case.source)):
            problems += [Problem(text, cohort.path, case.line, fatal=False) for text in _faults(case, cohort)]
    return problems + _copies(cohort)


def _faults(case: Case, cohort: Cohort) -> Iterator[str]:
    try:
        size = peek(case.source).size
    except CamscopeError as error:
        yield str(error)
        return
    for name, cell in case.masks.items():
        try:
            for file in (files := mask_files(cell)):
                check_shape(peek(located(file, cohort.root)).size, size, named=file)
            if not files:
                read_annotation(cell, size, root=Path())
        except CamscopeError as error:
            yield f"mask {name}: {error}"


def _copies(cohort: Cohort) -> list[Problem]:
    """Return images with the same content under several names; files are compared in full only if they look equal."""
    lines: dict[str, Case] = {}
    for case in cohort.cases():
        name, frame = split(case.source)
        if case.image and frame is None and not is_address(name) and os.path.isfile(name):  # noqa: PTH113  long names
            lines.setdefault(name, case)
    alike = [list(lines)]
    for look in (_size, _middle, _content):
        alike = [group for names in alike for group in _grouped(names, look) if len(group) > 1]
    problems = []
    for names in alike:
        first = lines[names[0]]
        for case in (lines[name] for name in names[1:]):
            text = f"image {case.image!r} has the content of {first.image!r} in line {first.line}"
            problems.append(Problem(text, cohort.path, case.line, fatal=False))
    return problems


def _grouped(names: list[str], look: Callable[[str], object]) -> list[list[str]]:
    groups: dict[object, list[str]] = defaultdict(list)
    for name in names:
        groups[look(name)].append(name)
    return list(groups.values())


def _size(name: str) -> int:
    return Path(name).stat().st_size


def _middle(name: str) -> bytes:
    with Path(name).open("rb") as file:
        file.seek(_size(name) // 2)
        return hashlib.sha256(file.read(_BLOCK)).digest()


def _content(name: str) -> bytes:
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
