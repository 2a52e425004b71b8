"""Keep uploaded pictures in memory: a bounded number of bytes, the least recently used go first."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from camscope.errors import PictureError
from camscope.images import Picture, decode, peek_open
from camscope.viewer.data import shown_facts, shown_pixels

MOST_UPLOAD = 64 << 20
"""Bytes of the largest file that is taken."""
MOST_PIXELS = 20_000_000
"""Pixels of the largest picture that is taken."""

_KEPT = 512 << 20
_NAME = 100
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


@dataclass(frozen=True)
class Upload:
    """A picture in memory.

    Attributes:
        key: its name in addresses, made of the content.
        sha256: of the file.
        picture: the picture at full size.
        shown: (h, w) or (h, w, 3) uint8 or uint16, the picture as browsers show it, at most 1600 pixels long.
    """

    key: str
    sha256: str
    picture: Picture = field(repr=False)
    shown: npt.NDArray[Any] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Return the size in memory."""
        return self.picture.pixels.nbytes + self.shown.nbytes

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to know, as plain JSON values."""
        height, width = self.picture.size
        return {
            "id": self.key,
            "name": self.picture.source,
            "height": height,
            "width": width,
            "notes": list(self.picture.notes),
            "shown": shown_facts(self.shown),
        }


class Uploads:
    """Pictures by their key.

    >>> Uploads().get("0" * 24)
    Traceback (most recent call last):
    camscope.errors.PictureError: the app no longer has this picture; open its file again
    """

    def __init__(self, kept: int = _KEPT) -> None:
        """Take the largest number of bytes of all pictures; the newest picture is kept in any case."""
        self._kept, self._uploads, self._lock = kept, OrderedDict[str, Upload](), threading.Lock()

    def add(self, content: bytes, name: str, *, frame: int | None = None) -> Upload:
        """Decode a file and keep its picture.

        Args:
            content: of the file.
            name: of the file; shown, and its suffix may tell the format. It is never used as a path.
            frame: of a file with several.

        Raises:
            PictureError: not an image, damaged, or too large.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        key = hashlib.sha256(f"{sha256} {frame}".encode()).hexdigest()[:24]
        with self._lock:
            if key in self._uploads:
                self._uploads.move_to_end(key)
                return self._uploads[key]
        upload = Upload(key, sha256, *_decoded(content, name, frame))
        with self._lock:
            self._uploads[key] = upload
            while len(self._uploads) > 1 and sum(one.bytes for one in self._uploads.values()) > self._kept:
                self._uploads.popitem(last=False)
        return upload

    def get(self, key: str) -> Upload:
        """Return a picture.

        Raises:
            PictureError: it was never there, or made room for others.
        """
        with self._lock:
            if key not in self._uploads:
                raise PictureError("the app no longer has this picture; open its file again")
            self._uploads.move_to_end(key)
            return self._uploads[key]


def _decoded(content: bytes, name: str, frame: int | None) -> tuple[Picture, npt.NDArray[Any]]:
    """Return the picture, and how it is shown."""
    shown_name = _harmless(name)
    suffix = shown_name[shown_name.rfind(".") :].lower() if "." in shown_name else ""
    source = f"upload{suffix if _SUFFIX.fullmatch(suffix) else ''}" + ("" if frame is None else f"#{frame}")
    if not content:
        raise PictureError(f"{shown_name!r} is empty (0 bytes)")
    height, width = peek_open(io.BytesIO(content), source).size
    if height * width > MOST_PIXELS:
        raise PictureError(
            f"{shown_name!r} has {height * width:,} pixels, more than the {MOST_PIXELS:,} of the largest picture that "
            "the app takes; reduce or crop it first"
        )
    picture = replace(decode(content, source), source=shown_name)
    if picture.pixels.shape[0] * picture.pixels.shape[1] > MOST_PIXELS:
        raise PictureError(f"{shown_name!r} has more than {MOST_PIXELS:,} pixels; reduce or crop it first")
    return picture, shown_pixels(picture)


def _harmless(name: str) -> str:
    r"""Return the last part of a name, without control characters.

    >>> _harmless("../../etc/pass\nwd.png"), _harmless("C:\\films\\a.dcm"), _harmless("")
    ('passwd.png', 'a.dcm', 'picture')
    """
    last = re.split(r"[/\\]", name)[-1].encode("utf-8", "ignore").decode()
    return "".join(letter for letter in last if letter.isprintable())[-_NAME:].strip() or "picture"
