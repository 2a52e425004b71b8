"""Find the image files that files, folders and patterns name."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from camscope.errors import PictureError, reason
from camscope.images.registry import READERS
from camscope.images.source import is_address, opened
from camscope.images.volume_registry import VOLUME_READERS, volume_suffix

Finder = Callable[[Path, list[str]], Iterable[Path]]
"""(folder, names of files in it) -> what is to be read."""

_DICOM = (".ima", ".img")  # suffixes of DICOM files that other formats have too


def find_pictures(arguments: Iterable[str | Path], *, exclude: Iterable[Path] = ()) -> list[tuple[Path, Path]]:
    """Find the image files of files, folders and glob patterns.

    A file named by itself is always taken, even when it is missing or no picture: reading it says why. One of its
    frames is named as ``scan.dcm#3``. Folders are searched with all their folders, and patterns may contain ``**``;
    of these only names with an image's suffix count, and DICOM files without a suffix or with a number for it, as
    archives write them; hidden ones are skipped. Each argument's finds are in natural order (``x2`` before ``x10``);
    what several arguments name is listed once, at its first place.

    Args:
        arguments: paths and patterns.
        exclude: folders not to search, such as the one the results are written to.

    Returns:
        Pairs of the file and a relative path for its results. The latter are the paths below the current folder, or
        below the deepest folder common to all arguments where one lies elsewhere. Suffixes are kept, so that no two
        files ever share one, in this run or the next.

    Raises:
        PictureError: no argument at all, an address, or a folder or pattern without images.
    """
    looked_for = f"images in {{!r}}; looked for files ending in {', '.join(sorted(filter(None, READERS)))}"
    return _find(arguments, exclude, finder=_pictures_in, looked_for=looked_for)


def find_volumes(arguments: Iterable[str | Path], *, exclude: Iterable[Path] = ()) -> list[tuple[Path, Path]]:
    """Find the volumes of files, folders and glob patterns, as `find_pictures` finds images.

    Of folders, files with a volume's suffix count, and each folder with DICOM files in it, which is one series.

    Args:
        arguments: paths and patterns.
        exclude: folders not to search.

    Returns:
        Pairs of the file or folder and a relative path for its results.

    Raises:
        PictureError: no argument at all, an address, or a folder or pattern without volumes.
    """
    looked_for = f"volumes in {{!r}}; looked for files ending in {', '.join(VOLUME_READERS)}, and for DICOM files"
    return _find(arguments, exclude, finder=_volumes_in, looked_for=looked_for)


def _find(
    arguments: Iterable[str | Path], exclude: Iterable[Path], *, finder: Finder, looked_for: str
) -> list[tuple[Path, Path]]:
    """Return what `find_pictures` does of the files that ``finder`` finds."""
    names = [str(argument) for argument in arguments]
    if not names:
        raise PictureError("no image given; name files, folders or patterns such as 'photos/*.jpg'")
    skipped = {_absolute(folder) for folder in exclude}
    paths: dict[Path, Path] = {}
    for argument in names:
        found = _expand(argument, skipped, finder)
        if not found:
            raise PictureError(f"no {looked_for.format(argument)}")
        for path in found:
            paths.setdefault(_absolute(path), path)
    base = _absolute(".")
    if not all(place.is_relative_to(base) for place in paths):
        base = Path(os.path.commonpath([*map(_root, names), *(place.parent for place in paths)]))
    return [(path, place.relative_to(base)) for place, path in paths.items()]


def other_files(folder: Path, *, exclude: Iterable[Path] = ()) -> Counter[str]:
    """Count the files of a folder that `find_pictures` passes over, by suffix ("" for none); hidden ones do not count.

    >>> other_files(Path("no/such/folder"))
    Counter()
    """
    skipped, suffixes = {_absolute(place) for place in exclude}, Counter[str]()
    for place, folders, names in os.walk(folder):
        folders[:] = [] if _inside(Path(place), skipped) else [name for name in folders if not name.startswith(".")]
        files = (Path(place, name) for name in names if not name.startswith(".") and not _inside(Path(place), skipped))
        suffixes.update(file.suffix.lower() for file in files if not _is_picture(file))
    return suffixes


def require_one(paths: Iterable[Path]) -> None:
    """Raise the error of the first image if none of several can be opened, before a model is loaded for nothing.

    >>> require_one([Path("no/such/file.png")])
    Traceback (most recent call last):
    camscope.errors.PictureError: there is no file 'no/such/file.png'
    """
    first: PictureError | None = None
    for path in paths:
        try:
            if path.is_dir():
                return
            with opened(path):
                return
        except PictureError as error:
            first = first or error
    if first is not None:
        raise first


def _absolute(path: str | Path) -> Path:
    # Not resolve(): a link to an image keeps its own name and place.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _root(argument: str) -> Path:
    """Return the folder that an argument's results are named from."""
    fixed = Path(argument)
    if not _is_pattern(argument):
        return _absolute(fixed).parent
    while _is_pattern(str(fixed)):
        fixed = fixed.parent
    return _absolute(fixed)


def _expand(argument: str, skipped: set[Path], finder: Finder) -> list[Path]:
    """Return the files of one argument, in natural order."""
    path = Path(argument)
    if is_address(argument):
        raise PictureError(f"{argument!r} is an address; only files of this machine can be listed and searched")
    if os.path.isdir(path):  # noqa: PTH112  Path.is_dir() raises on names that are too long
        return sorted(_walk(path, skipped, finder), key=_natural)
    if _is_pattern(argument):
        files: list[Path] = []
        # Not Path.glob(): it takes no absolute patterns.
        for match in sorted(map(Path, glob.glob(argument, recursive=True)), key=_natural):  # noqa: PTH207
            if match.is_dir():
                files += sorted(_walk(match, skipped, finder), key=_natural)
            elif not _inside(match, skipped):
                files += finder(match.parent, [match.name])
        return files
    return [path]


def _pictures_in(folder: Path, names: list[str]) -> Iterator[Path]:
    return (file for name in names if _is_picture(file := folder / name))


def _volumes_in(folder: Path, names: list[str]) -> Iterator[Path]:
    shown = [name for name in names if not name.startswith(".")]
    yield from (folder / name for name in shown if volume_suffix(name))
    if any(name.lower().endswith((".dcm", ".dicom")) or _is_dicom(folder / name) for name in shown):
        yield folder


def _walk(folder: Path, skipped: set[Path], finder: Finder) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, onerror=_unsearched):
        if _inside(Path(place), skipped):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from finder(Path(place), names)


def _unsearched(fault: OSError) -> None:
    raise PictureError(f"cannot search the folder {fault.filename!r}: {reason(fault)}") from None


def _is_pattern(argument: str) -> bool:
    return glob.has_magic(argument) and not os.path.lexists(argument)


def _is_picture(file: Path) -> bool:
    name = file.name.lower()
    if name.startswith("."):
        return False
    if name.endswith(tuple(filter(None, READERS))):
        return True
    # Archives write names such as "IM0001", "1.2.840.113619.2" or "x.ima"; "DICOMDIR" is their table of contents.
    suffix = file.suffix.lower()
    return (not suffix or suffix in _DICOM or suffix[1:].isdecimal()) and _is_dicom(file)


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as content:
            return content.read(132).endswith(b"DICM") and file.name.upper() != "DICOMDIR"
    except OSError:
        return False


def _inside(path: Path, folders: set[Path]) -> bool:
    return any(_absolute(path).is_relative_to(folder) for folder in folders)


def _natural(path: Path) -> tuple[list[list[tuple[int, int, str]]], str]:
    """Sort key: runs of digits count as numbers, case does not matter, equal keys fall back to the plain name."""
    key = [
        [(1, int(run), "") if run.isdecimal() else (2, 0, run.lower()) for run in re.findall(r"\d+|\D+", part)]
        for part in (*path.parent.parts, path.stem, path.suffix)
    ]
    return key, str(path)
