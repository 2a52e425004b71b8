"""Read folders of images as records: class folders, with or without splits, and paths that match a pattern."""

from __future__ import annotations

import re
import string
from collections import defaultdict
from pathlib import Path

from camscope.cohort.columns import role_of, split_of
from camscope.cohort.records import union
from camscope.cohort.store import EVALUATION, STUDY
from camscope.errors import CamscopeError, TableError
from camscope.images import find_pictures

Row = dict[str, str]

_MASK_FOLDER = re.compile(r"(.*[ _-])?(masks?|segmentations?|ground[ _-]?truth)", re.IGNORECASE)
_MASK_NAME = re.compile(r"(.+?)[ _-](?:mask|segmentation)(?:[ _-]?\d+)?", re.IGNORECASE)


def class_folder_rows(path: Path) -> list[Row]:
    """Return one record per image of a folder of class folders.

    Masks are the images in folders such as ``masks`` or ``lung masks`` of a class, and those called ``NAME_mask`` or
    ``NAME_mask_1`` beside the image ``NAME``.

    Returns:
        Records with ``path``, ``class`` (the image's folder; "" for images in no class folder), one column per kind of
        mask (``mask``, and for example ``lung masks``) and per class 1, 0 or, without a class, "". If the class folders
        are in folders of splits, such as ``train`` and ``test``, also ``split``.

    Raises:
        TableError: the folder holds no image, a class has the name of another column or of a column with a role, such
            as "patient", or there are class folders beside the folders of splits.
    """
    files = _pictures(path)
    depth = 2 if _has_splits(files, path) else 1  # number of folders above the images of a class
    names = {_key(file, depth) for file in files if not _mask_folder(file, depth)}
    masks: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    images = []
    for file in files:
        key, kind = _key(file, depth), _mask_folder(file, depth)
        base = _MASK_NAME.fullmatch(key[-1])
        if base and (*key[:-1], base[1]) in names:
            key, kind = (*key[:-1], base[1]), kind or "mask"
        if kind:
            masks[key][kind].append(file.as_posix())
        else:
            images.append(file)
    kinds = sorted({"mask"}.union(*masks.values()))
    rows: list[Row] = []
    for file in images:
        row = {"path": file.as_posix(), "class": file.parts[depth - 1] if len(file.parts) > depth else ""}
        row |= {kind: union(masks.get(_key(file, depth), {}).get(kind, ())) for kind in kinds}
        if depth == 2:
            row["split"] = (split_of(file.parts[0]) or "") if len(file.parts) > 1 else ""
        rows.append(row)
    classes = sorted({row["class"] for row in rows} - {""})
    if clash := next((name for name in classes if name in rows[0] or role_of(name)), None):
        raise TableError(f"a class folder cannot be called {clash!r}: rename it", str(path))
    return [row | {name: str(int(row["class"] == name)) if row["class"] else "" for name in classes} for row in rows]


def _mask_folder(file: Path, depth: int) -> str:
    """Return the kind of mask that an image's folder names; "" for images that are no masks."""
    folder = next((part for part in file.parts[depth:-1] if is_mask_folder(part)), "")
    return "mask" if folder.lower() in ("mask", "masks") else folder


def _key(file: Path, depth: int) -> tuple[str, ...]:
    """Return what an image and its masks share: the folders that name no kind of image, and the name without suffix."""
    inner = [part for part in file.parts[depth:-1] if not _of_kind(part)]
    return (*file.parts[:depth], *inner, file.stem) if len(file.parts) > depth else (file.stem,)


def _has_splits(pictures: list[Path], path: Path) -> bool:
    """Return whether the folders at the top are those of splits.

    Raises:
        TableError: some of them are, and others are not.
    """
    tops = dict.fromkeys(file.parts[0] for file in pictures if len(file.parts) > 1)
    splits = [name for name in tops if split_of(name)]
    others = [name for name in tops if name not in splits]
    if not splits or not others:
        return bool(splits)
    inner = {file.parts[0] for file in pictures if len(file.parts) > 2 and not _of_kind(file.parts[1])}
    if inner.isdisjoint(splits):  # a class may be called "train"
        return False
    names, odd = ", ".join(splits), ", ".join(map(repr, others[:5]))
    raise TableError(f"holds class folders in {names}, and beside them {odd}: move these elsewhere", str(path))


def _of_kind(folder: str) -> bool:
    return folder.lower() == "images" or is_mask_folder(folder)


def is_mask_folder(name: str) -> bool:
    """Return whether a folder has the name of a folder of masks.

    >>> is_mask_folder("Masks"), is_mask_folder("lung masks"), is_mask_folder("masked balls")
    (True, True, False)
    """
    return _MASK_FOLDER.fullmatch(name) is not None


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
