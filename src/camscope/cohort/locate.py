"""Where the images of a cohort lie, and what would fit where they are missing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping

import polars as pl

from camscope.cohort.tables import located
from camscope.errors import CamscopeError
from camscope.images import find_pictures
from camscope.images.source import is_address


def located_images(images: pl.Series, root: str, *, search: bool) -> pl.Series:
    """Return images as paths relative to the root: searched by their name, with the separators of this system."""
    names = images.to_list()
    if search and not is_address(root):
        places = places_by_name(root)
        names = [_searched(name, places) for name in names]
    elif not is_address(root):
        names = [
            name.replace("\\", "/") if "\\" in name and not os.path.lexists(located(name.strip(), root)) else name
            for name in names
        ]
    return pl.Series(images.name, names, dtype=pl.String)


def places_by_name(root: str) -> dict[str, list[str]]:
    """Return the pictures below a folder by their name, and by their name without suffix, as relative paths."""
    places: dict[str, list[str]] = defaultdict(list)
    try:
        paths = [path.relative_to(root).as_posix() for path, _ in find_pictures([root])]
    except CamscopeError:
        return {}
    for path in paths:
        file = path.rpartition("/")[2]
        for name in {file, file.rpartition(".")[0]}:
            places[name].append(path)
    return places


def _searched(name: str, places: Mapping[str, list[str]]) -> str:
    """Return the one path whose end is this name; the name itself where there is none, or more than one."""
    wanted = name.strip().replace("\\", "/")
    found = places.get(wanted.rpartition("/")[2], [])
    whole = [path for path in found if f"/{path}".endswith((f"/{wanted}", *(f"/{wanted}.{path.rpartition('.')[2]}",)))]
    candidates = whole or found
    return candidates[0] if len(candidates) == 1 else wanted
