"""Read folders of images as records: class folders, with or without splits, and paths that match a pattern."""

from __future__ import annotations

import re
import string
from pathlib import Path

from camscope.cohort.columns import SPLIT_WORDS, role_of
from camscope.cohort.store import EVALUATION, STUDY
from camscope.errors import CamscopeError, TableError
from camscope.images import find_pictures

Row = dict[str, str]


def class_folder_rows(path: Path) -> list[Row]:
    """Return one record per image of a folder of class folders.

    Returns:
        Records with ``path``, ``class`` (the image's folder; "" for images in no class folder), ``mask`` (its path in a
        folder ``masks`` beside the folder ``images``) and per class 1, 0 or, without a class, "". If the class folders
        are in folders of splits, such as ``train`` and ``test``, also ``split``.

    Raises:
        TableError: the folder holds no image, a class has the name of another column or of a column with a role, such
            as "patient", or there are class folders beside the folders of splits.
    """
    pictures = _pictures(path)
    in_splits = _has_splits(pictures, path)
    depth = 2 if in_splits else 1  # number of folders above the images of a class
    rows: list[Row] = []
    masks = {file.with_suffix(""): file for file in pictures if "masks" in file.parts[depth:-1]}
    for file in pictures:
        if "masks" in file.parts[depth:-1]:
            continue
        mask = Path(*("masks" if part == "images" else part for part in file.with_suffix("").parts))
        row = {"path": file.as_posix(), "class": file.parts[depth - 1] if len(file.parts) > depth else ""}
        row["mask"] = masks[mask].as_posix() if mask in masks else ""
        if in_splits:
            row["split"] = SPLIT_WORDS[file.parts[0].lower()] if len(file.parts) > 1 else ""
        rows.append(row)
    classes = sorted({row["class"] for row in rows} - {""})
    if clash := next((name for name in classes if name in rows[0] or role_of(name)), None):
        raise TableError(f"a class folder cannot be called {clash!r}: rename it", str(path))
    return [row | {name: str(int(row["class"] == name)) if row["class"] else "" for name in classes} for row in rows]


def _has_splits(pictures: list[Path], path: Path) -> bool:
    """Return whether the folders at the top are those of splits.

    Raises:
        TableError: some of them are, and others are not.
    """
    tops = dict.fromkeys(file.parts[0] for file in pictures if len(file.parts) > 1)
    splits = [name for name in tops if SPLIT_WORDS.get(name.lower())]
    others = [name for name in tops if name not in splits]
    if not splits or not others:
        return bool(splits)
    inner = {file.parts[0] for file in pictures if len(file.parts) > 2 and file.parts[1] not in ("images", "masks")}
    if inner.isdisjoint(splits):  # a class may be called "train"
        return False
    names, odd = ", ".join(splits), ", ".join(map(repr, others[:5]))
    raise TableError(f"holds class folders in {names}, and beside them {odd}: move these elsewhere", str(path))


def fitting_rows(path: Path, pattern: str) -> list[Row]:
    """Return one record per image of a folder whose path matches a pattern: ``path``, and each name in braces.

    Raises:
        TableError: no image matches.
    """
    expression = ""
    names: list[str] = []
    for text, name, _, _ in string.Formatter().parse(pattern):
        expression += re.escape(text).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if name in names:
            expression += f"(?P=f{names.index(name)})"
        elif name is not None:
            expression += f"(?P<f{len(names)}>[^/]+?)"
            names.append(name)
    paths = [file.as_posix() for file in _pictures(path)]
    matches = [(name, match) for name in paths if (match := re.fullmatch(expression, name))]
    if not matches:
        raise TableError(f"no image fits {pattern!r}; the first is {paths[0]!r}", str(path))
    return [{"path": name} | dict(zip(names, match.groups(), strict=True)) for name, match in matches]


def _pictures(path: Path) -> list[Path]:
    """Return the images below a folder, relative to it, without images of results."""
    results = [record.parent for name in (STUDY, EVALUATION) for record in path.rglob(name)]
    try:
        return [file.relative_to(path) for file, _ in find_pictures([path], exclude=results)]
    except CamscopeError as error:
        raise TableError(str(error), str(path)) from None
