"""Kinds of file of an explanation, and their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from camscope.errors import SettingError, nearest
from camscope.naming import IMAGE_SUFFIXES, fields_of, filled

FILES = {
    "original": "original.png",
    "grayscale": "grayscale.png",
    "heatmap": "heatmap.png",
    "overlay": "overlay.jpg",
    "panel": "panel.png",
    "npy": "map.npy",
    "json": "explanation.json",
    "svg": "figure.svg",
    "pdf": "figure.pdf",
    "montage": "montage.png",
    "nii": "map.nii.gz",
}
"""Kind of file -> file name."""
FIGURES = ("svg", "pdf")
"""Kinds that "all" leaves out."""
OF_VOLUMES = ("montage", "nii")
"""Kinds of volumes alone."""
FIELDS = ("image", "method", "label", "model", "kind")
"""Fields of the patterns of file names."""


def kinds(write: str | Sequence[str], *, volume: bool = False) -> list[str]:
    """Return the requested kinds of file, each in `FILES`; "all" for all but the figures as svg and pdf.

    Args:
        write: kinds, as a list or with commas.
        volume: whether they are of a volume; "all" of an image leaves out the kinds of volumes.

    Raises:
        SettingError: an unknown kind.

    >>> kinds("overlay,npy")
    ['overlay', 'npy']
    """
    names = [kind.strip() for kind in write.split(",")] if isinstance(write, str) else list(write)
    if names == ["all"]:
        return [kind for kind in FILES if kind not in FIGURES and (volume or kind not in OF_VOLUMES)]
    for kind in names:
        if kind not in FILES:
            raise SettingError(nearest("kind of file", kind, FILES))
    return names


def file_names(
    files: str, write: str | Sequence[str], fields: Mapping[str, str], *, volume: bool = False
) -> dict[str, str]:
    """Return the relative path of each kind of file.

    Args:
        files: pattern of their paths, see `Explanation.save`.
        write: kinds of file.
        fields: names for the fields of the pattern.
        volume: whether they are of a volume.

    Raises:
        SettingError: an unknown kind, a pattern that cannot be used, or one name for several kinds.

    >>> file_names("{image}_{kind}.png", "overlay,npy", {"image": "cat"})
    {'overlay': 'cat_overlay.png', 'npy': 'cat_map.npy'}
    """
    write = kinds(write, volume=volume)
    if "kind" not in fields_of(files, FIELDS) and len(write) > 1:
        raise SettingError(f"{files!r} gives several files one name: it needs {{kind}}")
    suffix = PurePosixPath(files).suffix
    suffix = suffix if suffix.lower() in IMAGE_SUFFIXES else ""
    names = {}
    for kind in write:
        stem, dot, usual = FILES[kind].partition(".")
        ending = suffix if suffix and f".{usual}" in IMAGE_SUFFIXES else dot + usual
        names[kind] = filled(files.removesuffix(suffix), {**dict.fromkeys(FIELDS, ""), **fields, "kind": stem}) + ending
    return names
