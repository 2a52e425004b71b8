"""Write explanations, and sheets of them, into one folder, over several runs, so that none replaces another."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from camscope.errors import SettingError, StoreError, first_line
from camscope.explanation import Explanation
from camscope.explanation.file_kinds import FIELDS, file_names
from camscope.explanation.result import certainty
from camscope.files import MAPS, claim, write_atomically
from camscope.naming import MAP_FILES, fields_of, filled, fingerprint
from camscope.page.shell import rendered
from camscope.render import Cell, sheet

INDEX, PAGE, SHEET = "explanations.json", "index.html", "contact_sheet.jpg"
_FIELDS = {"source": "image", "label": "label", "model": "model", "weights_sha256": "model", "method": "method"}
"""Key of a record -> field of the pattern that shows it."""
_COMPUTED = ("settings", "preprocess", "outcome", "precision", "weights_sha256")
"""Keys of `Explanation.repeat` on which a map depends; backends agree."""
_SHOWN = ("sheet", "overlay", "heatmap", "panel", "grayscale", "original")
"""Kinds of file that may stand for an explanation, the best first."""
_SHEET = {"sheet": ".png", "json": ".json"}
"""Kind of file of a sheet -> suffix."""
_ROWS, _COLUMNS = 60, 8

Record = dict[str, Any]


class MapFolder:
    """Folder of explanations.

    Two explanations share their files only if they are of the same image, class, model, weights, preprocessing, method,
    settings and layer, and two sheets only if they show the same explanations. Where two others would have one name,
    that of the later one ends in eight digits of its own.

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
        self._records = {_key(record): record for record in _read(self.folder / INDEX)}
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
        record, folder = _record(e), PurePosixPath(Path(place).as_posix())

        def named(other: Record | None) -> dict[str, str]:
            fields = e.name_fields()
            if other is not None:
                used = fields_of(self._files, FIELDS)
                differing = [field for key, field in _FIELDS.items() if record[key] != other[key]]
                field = next((field for field in [*differing, "method"] if field in used), "image")
                fields[field] += f"-{record['id']}"
            names = e.file_names(self._files, self._write, fields)
            return {kind: (folder / name).as_posix() for kind, name in names.items()}

        return self._reserve(record, named)

    def reserve_sheet(self, kind: str, maps: Sequence[Explanation], place: str | Path = ".") -> dict[str, Path]:
        """Return the paths of a sheet of maps of one image, with the keys "sheet" and "json".

        The name has the kind, and the method, class and model if all maps have the same.

        Args:
            kind: of the sheet, such as "layers".
            maps: the explanations on it.
            place: folder inside of this one; a folder with the image's name is in it.
        """
        records = [_record(e) for e in maps]
        same = {key: value for key, value in records[0].items() if all(record[key] == value for record in records)}
        fields = [e.name_fields() for e in maps]
        shared = [fields[0][name] for name in ("method", "label", "model") if len({one[name] for one in fields}) == 1]
        one_for_all = {key: same.get(key) for key in records[0]}
        identity = fingerprint(repr([kind, *(record["id"] for record in records)]))
        record = one_for_all | {"sheet": kind, "id": identity, "notes": []}
        folder = PurePosixPath(Path(place).as_posix()) / fields[0]["image"]

        def named(other: Record | None) -> dict[str, str]:
            stem = "_".join([kind, *shared, *([] if other is None else [identity])])
            return {key: (folder / filled("{name}", {"name": stem + end})).as_posix() for key, end in _SHEET.items()}

        return self._reserve(record, named)

    def write(self, e: Explanation, paths: Mapping[str, Path]) -> None:
        """Write the files of an explanation to reserved paths; may be called from several threads."""
        e.write_files(paths, **self._display)

    def finish(self) -> None:
        """Write the index, and if there is a picture of each map, the page and the contact sheet."""
        records = sorted(
            self._records.values(), key=lambda one: [str(one[key] or "") for key in ("source", "model", "method")]
        )
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
        maps = {source: [row for row in rows if "sheet" not in row] for source, rows in images.items()}
        if any(maps.values()):
            drawn = self._sheet({source: rows for source, rows in maps.items() if rows})
            write_atomically(self.folder / SHEET, lambda file: drawn.save(file, "JPEG", quality=90))

    def _reserve(self, record: Record, named: Callable[[Record | None], dict[str, str]]) -> dict[str, Path]:
        """Return the paths of a record's files, and note them.

        Args:
            record: of a map or a sheet, without its files.
            named: returns the relative paths of its files; the argument is a record that has one of them already.
        """
        key = _key(record)
        with self._lock:
            paths = named(None)
            if foreign := [owner for path in paths.values() if (owner := self._owners.get(path, key)) != key]:
                paths = named(self._records[foreign[0]])
            self._records[key] = record | {"files": paths}
            self._owners |= dict.fromkeys(paths.values(), key)
        return {kind: self.folder / path for kind, path in paths.items()}

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
    kept = ("source", "label", "index", "score", "probability", "model", "method", "layer", *_COMPUTED)
    record = {name: content.get(name) for name in kept}
    options = (content.get("recipe") or {}).get("options")
    identity = {key: value for key, value in record.items() if key not in ("score", "probability")}
    text = json.dumps([identity, options], sort_keys=True, default=str)
    return record | {"notes": list(e.remarks), "id": fingerprint(text)}


def _key(record: Record) -> str:
    """Return the identity of a record; one without it, of an earlier version, is like no other."""
    return record.get("id") or fingerprint(repr(sorted(record.items())))


def _read(index: Path) -> list[Record]:
    """Return the records of earlier runs.

    Raises:
        StoreError: the index is damaged.
    """
    try:
        records = json.loads(index.read_text(encoding="utf-8"))
        assert all(isinstance(record["files"], dict) and isinstance(record["source"], str) for record in records)
        records = [dict.fromkeys(_FIELDS) | record for record in records]
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
    if "sheet" in record:
        return ", ".join(filter(None, [record["sheet"], record["method"], record["label"], record["model"]]))
    shown = certainty(record["probability"], record["score"])
    place = f" at {record['layer']}" if record.get("layer") else ""
    return f"{record['label'].partition(',')[0]}, {shown}; {record['method']}{place}, {record['model']}"


def _thumbnail(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.draft("RGB", (440, 440))
        return image.convert("RGB")
