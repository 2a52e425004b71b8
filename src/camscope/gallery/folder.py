"""Write explanations into one folder, over several runs, so that none replaces another."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from camscope.errors import SettingError, StoreError, first_line
from camscope.explanation import Explanation
from camscope.explanation.result import FIELDS, certainty, file_names
from camscope.files import MAPS, claim, write_atomically
from camscope.naming import MAP_FILES, fields_of, fingerprint
from camscope.page.shell import rendered
from camscope.render import Cell, sheet

INDEX, PAGE, SHEET = "explanations.json", "index.html", "contact_sheet.jpg"
_IDENTITY = {"source": "image", "method": "method", "label": "label", "model": "model", "weights_sha256": "weights"}
"""Key of a record -> field of the pattern that tells it apart."""
_SHOWN = ("overlay", "heatmap", "panel", "grayscale", "original")
"""Kinds of file that may stand for an explanation, the best first."""
_ROWS, _COLUMNS = 60, 8

Record = dict[str, Any]


class MapFolder:
    """Folder of explanations.

    Two explanations share their files only if they are of the same image, method, class, model and weights. Where a
    pattern gives others one name, the name of the later one gets eight digits of its own.

    >>> MapFolder("out", files="{image}_{kind}.png").save(e, "photos")  # doctest: +SKIP
    {'overlay': PosixPath('out/photos/cat_overlay.png')}
    """

    def __init__(
        self, folder: str | Path, *, files: str = MAP_FILES, write: str | Sequence[str] = "all", **display: Any
    ) -> None:
        """Take a folder.

        Args:
            folder: empty, missing, or one of earlier explanations.
            files: pattern of file names, see `Explanation.save`.
            write: kinds of file, see `Explanation.save`.
            **display: ``scale``, ``cmap`` and ``opacity``, see `Explanation.save`.

        Raises:
            SettingError: a pattern that cannot be used.
            StoreError: a folder of something else.
        """
        self.folder = Path(folder)
        if "image" not in fields_of(files, FIELDS):
            raise SettingError(f"{files!r} gives the maps of several images one name: it needs {{image}}")
        file_names(files, write, {})
        claim(self.folder, MAPS)
        self._files, self._write, self._display = files, write, display
        self._lock = threading.Lock()
        self._records = {_identity(record): record for record in _read(self.folder / INDEX)}
        self._owners = {path: key for key, record in self._records.items() for path in record["files"].values()}

    def save(self, e: Explanation, place: str | Path = ".") -> dict[str, Path]:
        """Write an explanation; may be called from several threads.

        Args:
            e: the explanation.
            place: folder inside of this one.

        Returns:
            The path of each kind of file.
        """
        paths = self.reserve(e, place)
        self.write(e, paths)
        return paths

    def reserve(self, e: Explanation, place: str | Path = ".") -> dict[str, Path]:
        """Return the path of each kind of file of an explanation; the first that asks gets a name, so ask in order."""
        record = _record(e)
        with self._lock:
            paths = self._paths(e, record, PurePosixPath(Path(place).as_posix()))
            record["files"] = dict(paths)
            self._records[_identity(record)] = record
            self._owners |= dict.fromkeys(paths.values(), _identity(record))
        return {kind: self.folder / path for kind, path in paths.items()}

    def write(self, e: Explanation, paths: Mapping[str, Path]) -> None:
        """Write the files of an explanation to reserved paths; may be called from several threads."""
        e.write_files(paths, **self._display)

    def finish(self) -> None:
        """Write the index, and if there is a picture of each map, the page and the contact sheet."""
        records = sorted(self._records.values(), key=lambda one: (one["source"], one["model"], one["method"]))
        text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.folder / INDEX, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
        shown = [record for record in records if _link(record) and (self.folder / _link(record)).is_file()]
        if not shown:
            return
        images: dict[str, list[Record]] = {}
        for record in shown:
            images.setdefault(record["source"], []).append(record)
        page = rendered(
            "index.html.j2", {"images": images, "link": _link, "caption": _caption}, package="camscope.gallery"
        )
        write_atomically(self.folder / PAGE, lambda file: file.write(page.encode("utf-8", "replace")))
        drawn = self._sheet(images)
        write_atomically(self.folder / SHEET, lambda file: drawn.save(file, "JPEG", quality=90))

    def _paths(self, e: Explanation, record: Record, place: PurePosixPath) -> dict[str, str]:
        """Return the relative paths of an explanation's files, none of which belongs to another one."""
        key, fields = _identity(record), e.name_fields()
        paths = self._named(fields, place)
        if foreign := [owner for path in paths.values() if (owner := self._owners.get(path, key)) != key]:
            own = dict(zip(_IDENTITY.values(), key, strict=True))
            other = dict(zip(_IDENTITY.values(), foreign[0], strict=True))
            used = fields_of(self._files, FIELDS)
            field = next((name for name in own if own[name] != other[name] and name in used), "image")
            fields[field] += f"-{fingerprint(repr(key))}"
            paths = self._named(fields, place)
        return paths

    def _named(self, fields: Mapping[str, str], place: PurePosixPath) -> dict[str, str]:
        names = file_names(self._files, self._write, fields)
        return {kind: (place / name).as_posix() for kind, name in names.items()}

    def _sheet(self, images: Mapping[str, Sequence[Record]]) -> Image.Image:
        """Draw the first images, one per row, with their maps."""
        rows = [
            [Cell(_thumbnail(self.folder / _link(one)), _caption(one)) for one in records[:_COLUMNS]]
            for records in list(images.values())[:_ROWS]
        ]
        headings = [Path(source).name for source in list(images)[:_ROWS]]
        more = len(images) - _ROWS
        return sheet(
            rows, row_headings=headings, title=f"the first {_ROWS} of {len(images)} images" if more > 0 else ""
        )


def _record(e: Explanation) -> Record:
    content = e.to_dict()
    kept = ("source", "label", "index", "score", "probability", "model", "method", "layer", "weights_sha256")
    return {name: content.get(name) for name in kept} | {"notes": list(e.remarks)}


def _identity(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in _IDENTITY)


def _read(index: Path) -> list[Record]:
    """Return the records of earlier runs.

    Raises:
        StoreError: the index is damaged.
    """
    try:
        records = json.loads(index.read_text(encoding="utf-8"))
        assert all(isinstance(record["files"], dict) and isinstance(record["source"], str) for record in records)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise StoreError(
            f"{index} cannot be read ({first_line(error)}), so that it is unknown which maps are there: give another "
            "--out, or delete the file"
        ) from None
    return list(records)


def _link(record: Record) -> str:
    """Return the relative path of the picture that stands for an explanation; "" if there is none."""
    return next((record["files"][kind] for kind in _SHOWN if kind in record["files"]), "")


def _caption(record: Record) -> str:
    shown = certainty(record["probability"], record["score"])
    return f"{record['label'].partition(',')[0]}, {shown}; {record['method']}, {record['model']}"


def _thumbnail(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.draft("RGB", (440, 440))
        return image.convert("RGB")
