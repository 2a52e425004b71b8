"""Read folders of images as records: class folders, with or without splits, and paths that match a pattern."""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path

from camscope.cohort.columns import role_of, split_of
from camscope.cohort.records import union
from camscope.cohort.store import EVALUATION, SCAN, STUDY
from camscope.errors import CamscopeError, TableError
from camscope.images import find_pictures

Row = dict[str, str]

_MASK_FOLDER = re.compile(
    r"(?i:(?!(?:with|without|no|un|wearing)[ _-])(.*[ _-])?(masks?|segmentations?|ground[ _-]?truth))"
    r"|.*[a-z](Mask|Masks)"
)
_IMAGE_FOLDER = re.compile(r"images?|imgs?", re.IGNORECASE)
_TRUTH_FOLDER = re.compile(r"labels?|annotations?|gt", re.IGNORECASE)  # of masks if there is a folder of images
_MASK_NAME = re.compile(r"(.+?)[ _-](?:mask|segmentation)(?:[ _-]?\d+)?", re.IGNORECASE)


def class_folder_rows(path: Path) -> list[Row]:
    """Return one record per image of a folder of class folders.

    Masks are the images in folders such as ``masks`` or ``lung masks``, below a class or beside the folders of images
    (``images/a.png``, ``masks/a.png``), and those called ``NAME_mask`` or ``NAME_mask_1`` beside the image ``NAME``.

    Returns:
        Records with ``path``, ``class`` (the image's folder; "" for images in no class folder), one column per kind of
        mask (``mask``, and for example ``lung masks``) and per class 1, 0 or, without a class, "". If the class folders
        are in folders of splits, such as ``train`` and ``test``, also ``split``.

    Raises:
        TableError: the folder holds no image, a class has the name of another column or of a column with a role, such
            as "patient", one of the class folders holds all the others again, or there are class folders beside the
            folders of splits.
    """
    files = _pictures(path)
    sides = _side_folders(files)
    places = {file: Path(*(part for part in file.parts[:-1] if part not in sides), file.name) for file in files}
    places = _splits_first(_without_wrapper(places))
    depth = 2 if _has_splits(list(places.values()), path) else 1  # number of folders above the images of a class
    kinds = {file: _kind(file, sides) or _kind(Path(*place.parts[depth:])) for file, place in places.items()}
    keys = {file: _key(place, depth) for file, place in places.items()}
    names = {key for file, key in keys.items() if not kinds[file]}
    sole = _sole_names(names)
    masks: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    images = []
    for file, key in keys.items():
        image = _image_of(key, names, sole)
        beside = image is not None and image[:-1] == key[:-1] and image != key  # NAME_mask in the folder of NAME
        if kinds[file] or beside:
            masks[image or key][kinds[file] or "mask"].append(file.as_posix())
        else:
            images.append(file)
    columns = sorted({"mask"}.union(*masks.values()))
    rows: list[Row] = []
    for file in images:
        folders = places[file].parts[:-1]
        row = {"path": file.as_posix(), "class": folders[depth - 1] if len(folders) >= depth else ""}
        found = masks.get(keys[file]) or (masks.get(keys[file][-1:], {}) if keys[file][-1:] in sole else {})
        row |= {kind: union(found.get(kind, ())) for kind in columns}
        if depth == 2:
            row["split"] = (split_of(folders[0]) or "") if folders else ""
        rows.append(row)
    classes = sorted({row["class"] for row in rows} - {""})
    _refuse_copy(classes, [places[file] for file in images], depth, path)
    if len(classes) == 1 and is_image_folder(classes[0]):
        classes, rows = [], [row | {"class": ""} for row in rows]
    if clash := next((name for name in classes if name in rows[0] or role_of(name)), None):
        raise TableError(f"a class folder cannot be called {clash!r}: rename it", str(path))
    return [row | {name: str(int(row["class"] == name)) if row["class"] else "" for name in classes} for row in rows]


def _refuse_copy(classes: list[str], places: list[Path], depth: int, path: Path) -> None:
    """Raise an error if a class folder holds folders of all other classes, as archives do that are unpacked twice."""
    inner: dict[str, set[str]] = defaultdict(set)
    for place in places:
        inner["".join(place.parts[depth - 1 : depth])].update(place.parts[depth:-1])
    for name in classes:
        others = [other for other in classes if other != name]
        if len(others) > 1 and inner[name].issuperset(others):
            text = (
                f"{name} holds the class folders {', '.join(others[:5])} once more: give it alone, or move it elsewhere"
            )
            raise TableError(text, str(path))


def _without_wrapper(places: dict[Path, Path]) -> dict[Path, Path]:
    """Return the places without a folder that holds everything, if the folders of splits are in it."""
    tops = {place.parts[0] for place in places.values() if len(place.parts) > 1}
    inner = {place.parts[1] for place in places.values() if len(place.parts) > 2}
    one = len(tops) == 1 and all(len(place.parts) > 2 for place in places.values())
    if not one or split_of(*tops) or not inner or not all(map(split_of, inner)):
        return places
    return {file: Path(*place.parts[1:]) for file, place in places.items()}


def _splits_first(places: dict[Path, Path]) -> dict[Path, Path]:
    """Return the places with the split before the class, where every class folder holds folders of splits."""
    tops = {place.parts[0] for place in places.values()}
    inner = {place.parts[1] if len(place.parts) > 2 else "" for place in places.values()}
    if len(inner) < 2 or not all(map(split_of, inner)) or any(map(split_of, tops)):
        return places
    return {file: Path(place.parts[1], place.parts[0], *place.parts[2:]) for file, place in places.items()}


def _side_folders(files: list[Path]) -> set[str]:
    """Return the names of the folders that part images from masks, such as ``images`` and ``masks``.

    A folder is one of masks if half of its images or more have the place and name of an image elsewhere.
    """
    names = {part for file in files for part in file.parts[:-1]}
    images = {name for name in names if _IMAGE_FOLDER.fullmatch(name)}
    masks = {name for name in names if is_mask_folder(name) or (images and _TRUTH_FOLDER.fullmatch(name))}

    def place(file: Path) -> tuple[str, ...]:
        return (*(part for part in file.parts[:-1] if part not in images | masks), file.stem)

    known = {place(file) for file in files if masks.isdisjoint(file.parts[:-1])}
    sole = _sole_names(known)
    fits: dict[str, list[bool]] = defaultdict(list)
    for file in files:
        for name in masks.intersection(file.parts[:-1]):
            fits[name].append(_image_of(place(file), known, sole) is not None)
    sides = {name for name, found in fits.items() if 2 * sum(found) >= len(found)}
    return sides | images if sides else set()


def _image_of(
    key: tuple[str, ...], names: Collection[tuple[str, ...]], sole: Collection[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """Return the key of the image that a mask belongs to, by its place or else by its name alone; None for no image.

    A mask has the name of its image, or ``NAME_mask`` and the like.
    """
    base = _MASK_NAME.fullmatch(key[-1])
    ends = [*([base[1]] if base else []), key[-1]]
    exact = next(((*key[:-1], end) for end in ends if (*key[:-1], end) in names), None)
    return exact or next(((end,) for end in ends if (end,) in sole), None)


def _sole_names(keys: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return the names that one image alone has, without its folders: masks may lie in a folder of their own."""
    return {name for name, count in Counter(key[-1:] for key in keys).items() if count == 1}


def _kind(file: Path, folders: Collection[str] | None = None) -> str:
    """Return the kind of mask that an image's folder names, of all folders or of some; "" for images that are none."""
    for part in reversed(file.parts[:-1]):
        if not _IMAGE_FOLDER.fullmatch(part) and (is_mask_folder(part) if folders is None else part in folders):
            return "mask" if part.lower() in ("mask", "masks") or _TRUTH_FOLDER.fullmatch(part) else part
    return ""


def _key(place: Path, depth: int) -> tuple[str, ...]:
    """Return what an image and its masks share: the folders that name no kind of image, and the name without suffix."""
    folders = place.parts[:-1]
    return (*folders[:depth], *(name for name in folders[depth:] if not _of_kind(name)), place.stem)


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
    return is_image_folder(folder) or is_mask_folder(folder)


def may_hold_masks(name: str) -> bool:
    """Return whether a folder has the name of one of masks or, beside one of images, of the truth, such as "gt"."""
    return is_mask_folder(name) or _TRUTH_FOLDER.fullmatch(name) is not None


def is_image_folder(name: str) -> bool:
    """Return whether a folder has the name of a folder of images, such as "images"."""
    return _IMAGE_FOLDER.fullmatch(name) is not None


def is_mask_folder(name: str) -> bool:
    """Return whether a folder has the name of a folder of masks.

    >>> is_mask_folder("Masks"), is_mask_folder("lung masks"), is_mask_folder("masked balls")
    (True, True, False)
    >>> is_mask_folder("leftMask"), is_mask_folder("with_mask")
    (True, False)
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
    results = [record.parent for name in (STUDY, EVALUATION, SCAN) for record in path.rglob(name)]
    try:
        return [file.relative_to(path) for file, _ in find_pictures([path], exclude=results)]
    except CamscopeError as error:
        raise TableError(str(error), str(path)) from None
