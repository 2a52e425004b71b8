"""Locate the images of a cohort, and suggest a folder or suffix if images are missing."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from camscope.cohort.folders import may_hold_masks
from camscope.cohort.tables import located
from camscope.errors import CamscopeError
from camscope.images import find_pictures
from camscope.images.registry import READERS
from camscope.images.source import is_address, split

_TRIED = 40  # names
_FOLDERS = 60


@dataclass(frozen=True)
class Fit:
    """Folder, suffix or search with which more image files are found.

    Attributes:
        found: number of names for which a file is found.
        total: number of names.
        root: folder to which names are relative.
        suffix: suffix that is added to each name.
        search: whether names are searched below the root.
        others: further folders in which as many names are found.
    """

    found: int
    total: int
    root: str
    suffix: str = ""
    search: bool = False
    others: tuple[str, ...] = ()

    def words(self, root: str) -> str:
        """Return the change in words, compared with names relative to another root.

        >>> Fit(12, 12, "images", ".png").words("images")
        'with .png added to each name'
        """
        parts = [f"with {self.suffix} added to each name"] if self.suffix else []
        parts += [f"in the folder {' or '.join((self.root, *self.others))}"] if self.root != root else []
        parts += ["by searching for each name"] if self.search else []
        return " ".join(parts) or "as they stand"


def best_fit(names: Sequence[str], root: str, *, like: str = "") -> Fit:
    """Find the suffix and the folder, at or near the root, with which most image files are found.

    Of several folders with as many files, one whose name is a word of ``like`` comes first, then the root; folders of
    masks come last.

    Args:
        names: names of the images, not blank.
        root: folder to which names are relative.
        like: name of the table, such as "train_labels".
    """
    step = max(len(names) // _TRIED, 1)
    sample = [_portable(name) for name in names[::step]]
    ways = [(folder, suffix) for folder in _near(root) for suffix in ("", *filter(None, READERS))]
    counts = {way: _count(sample, *way) for way in ways}
    most = max(counts.values())
    best = [way for way in ways if counts[way] == most] if most else ways[:1]
    words = re.split(r"[\W_]+", like.casefold())
    folder, suffix = min(
        best, key=lambda way: (may_hold_masks(Path(way[0]).name), Path(way[0]).name.casefold() not in words)
    )
    others = () if folder == root else tuple(dict.fromkeys(other for other, _ in best if other != folder))
    fit = Fit(_count(map(_portable, names), folder, suffix), len(names), folder, suffix, others=others)
    if fit.found == fit.total or is_address(root):
        return fit
    places = places_by_name(root)
    known = set(places.get("", ()))
    found = sum(searched(name, places) in known for name in names)
    return Fit(found, len(names), root, search=True) if found > fit.found else fit


@dataclass(frozen=True)
class Missing:
    """The missing images of a cohort.

    Attributes:
        text: message with the number of missing images, the first of them, and a suggestion.
        all: whether every image is missing.
    """

    text: str
    all: bool


def missing_images(sources: Mapping[str, str], root: str) -> Missing | None:
    """Return the missing images; None if all exist.

    Args:
        sources: image -> path or address.
        root: folder to which the names of images are relative.

    >>> missing_images({"no/such": "images/no/such"}, "images").text
    "1 of 1 images are missing, the first is 'no/such': there is no file 'images/no/such'"
    """
    missing = [image for image, source in sources.items() if is_missing(source)]
    if not missing:
        return None
    text = f"{len(missing)} of {len(sources)} images are missing, the first is {missing[0]!r}: there is no file "
    text += repr(sources[missing[0]])
    fit = best_fit(missing, root)
    text += f"; {fit.found} of {fit.total} are found {fit.words(root)}" if fit.found else _hint(missing[0], root)
    return Missing(text, all=len(missing) == len(sources))


def _hint(name: str, root: str) -> str:
    """Return the files that a missing name could mean: several of that name, or its number with zeros before it."""
    places = {} if is_address(root) else places_by_name(root)
    if several := matches(name, places):
        return (
            f"; it is the name of {len(several)} files, such as {' and '.join(map(repr, several[:2]))}: write the path"
        )
    stem, suffix = Path(name).stem, Path(name).suffix
    padded = next((other for other in places if stem.isdecimal() and re.fullmatch(f"0+{stem}", other)), None)
    if not padded:
        return ""
    path = Path(places[padded][0])
    width = len(path.name if suffix else path.stem)
    template = (path.parent / f"{{COLUMN:0>{width}}}{'' if suffix else path.suffix}").as_posix()
    return f'; {path.as_posix()!r} may be meant: image = "{template}" puts zeros before the numbers of COLUMN'


def is_missing(source: str) -> bool:
    """Return whether a path does not exist on this machine; addresses are not checked."""
    name, _ = split(source)
    return not is_address(name) and not os.path.exists(name)  # noqa: PTH110  Path.exists() raises on long names


def _portable(name: str) -> str:
    return name.strip().replace("\\", "/")


def _count(names: Iterable[str], folder: str, suffix: str) -> int:
    return sum(not is_missing(located(f"{name}{suffix}", folder)) for name in names)


def _near(root: str) -> list[str]:
    """Return the root, two levels of folders below it, and two folders above it."""
    if is_address(root) or not os.path.isdir(root):  # noqa: PTH112  long names
        return [root]
    below = [str(path) for path in itertools.islice(_folders(Path(root)), _FOLDERS)]
    return [root, *below, str(Path(root, "..")), str(Path(root, "../.."))]


def _folders(root: Path) -> Iterable[Path]:
    """Return two levels of folders below a folder, without listing all files."""
    inner = [Path(entry.path) for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    yield from sorted(inner)
    for folder in sorted(inner):
        yield from sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())


def located_images(images: pl.Series, root: str, *, search: bool) -> pl.Series:
    """Return images as paths relative to the root.

    Args:
        images: names of images.
        root: folder or address to which names are relative.
        search: whether names are searched below the root.

    Returns:
        The paths, with the separators of this system. If the search finds no file or several files, the name is
        returned unchanged.
    """
    names = images.to_list()
    if is_address(root):
        return images
    if search:
        places = places_by_name(root)
        names = [searched(name, places) for name in names]
    else:
        names = [
            _portable(name) if "\\" in name and is_missing(located(name.strip(), root)) else name for name in names
        ]
    return pl.Series(images.name, names, dtype=pl.String)


def places_by_name(root: str) -> dict[str, list[str]]:
    """Return the `places_of` the images below a folder."""
    try:
        return places_of(path.relative_to(root).as_posix() for path, _ in find_pictures([root]))
    except CamscopeError:
        return {}


def places_of(paths: Iterable[str]) -> dict[str, list[str]]:
    """Return file name, or file name without suffix -> the paths that have it; "" -> all paths."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        file = path.rpartition("/")[2]
        for name in {file, file.rpartition(".")[0], ""}:
            places[name].append(path)
    return places


def matches(name: str, places: Mapping[str, list[str]]) -> list[str]:
    """Return the paths that end in a name, with or without suffix.

    Leading folders of the name that do not exist are ignored, except for its last folder.

    >>> places = places_of(["a/1.png", "b/1.png"])
    >>> matches("top/b/1", places), matches("1.png", places), matches("c/1.png", places)
    (['b/1.png'], ['a/1.png', 'b/1.png'], [])
    """
    parts = _portable(name).split("/")
    candidates = places.get(parts[-1], []) if parts[-1] else []
    for start in range(max(len(parts) - 1, 1)):
        tail = "/" + "/".join(parts[start:])
        ends = [
            path for path in candidates if f"/{path}".endswith(tail) or f"/{path}".rpartition(".")[0].endswith(tail)
        ]
        if ends:
            return ends
    return []


def searched(name: str, places: Mapping[str, list[str]]) -> str:
    """Return the path that ends in a name (see `matches`); the name itself if no or several paths do."""
    paths = matches(name, places)
    return paths[0] if len(paths) == 1 else _portable(name)
