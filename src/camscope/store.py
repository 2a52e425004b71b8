"""A folder of rows in shards that are whole or absent, and what has been computed before."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import polars as pl

from camscope.files import PARTIAL, StoreError, is_remote, place, read_parquet, write_atomically, writing

Row = dict[str, Any]

OK, NOT_ASKED, FAILED = "ok", "not asked", "failed"

STUDY, EVALUATION = "study.json", "evaluation.json"
"""The records of a study and of an evaluation."""

ROWS, FORMER, LOCK = "rows", "former", ".lock"

_OPEN_SHARDS = 4
_TRIED = 16  # rows with one key
_PATIENCE = 1  # seconds; `busy` holds the lock for a moment
_THREADS = 8  # that copy shards from an address


class Store:
    """The folder of a study or an evaluation.

    Rows lie in ``rows/<plan>-<number>.parquet``, where the plan is the fingerprint of table and settings. Shards of
    a former plan, and those that are written anew, wait in ``rows/former`` while a run lasts, so that nothing is
    computed again that is still true; `finish` removes them.

    Args:
        folder: made where missing; or an address with a scheme that fsspec knows, such as ``s3://bucket/results``.
        record: name of the file that says what the rows were made with.

    Raises:
        MissingExtraError: an address whose package is not installed.
    """

    def __init__(self, folder: str | Path, *, record: str = STUDY) -> None:
        self.folder = place(folder)
        self._record = record

    @property
    def remote(self) -> bool:
        """Whether the folder lies behind an address, where there are no locks and every file is whole."""
        return is_remote(self.folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of a folder; the lock falls with the process, however that ends.

        Raises:
            StoreError: another process is at work in the folder.
        """
        if self.remote:
            yield
            return
        with writing(self.folder):
            (self.folder / ROWS).mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / LOCK, timeout=_PATIENCE)
            try:
                lock.acquire()
            except filelock.Timeout:
                raise StoreError(
                    f"another process is at work in {self.folder}: wait for it, or give another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def busy(self) -> bool:
        """Whether a process is at work in the folder; of an address that is not known."""
        if self.remote or not (self.folder / LOCK).exists():
            return False
        lock = filelock.FileLock(self.folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except (filelock.Timeout, OSError):
            return True
        lock.release()
        return False

    def begin(self, plan: str) -> None:
        """Put the rows of other plans aside, and remove what a killed process left half-written."""
        with writing(self.folder):
            current = set(self.shards(plan))
            for path in self.shards():
                if path not in current:
                    self._put_aside(path)
            if self.remote:
                return
            for place_, folders, names in os.walk(self.folder):
                folders[:] = [name for name in folders if not Path(place_, name).is_symlink()]
                for name in names:
                    if PARTIAL.fullmatch(name):
                        Path(place_, name).unlink()

    def known(self, shards: Sequence[Path] | None = None) -> Known:
        """What has been computed before: all rows that there are, those of former plans first.

        Args:
            shards: of the rows that are there, only these.
        """
        return Known([*self._former(), *(self.shards() if shards is None else shards)])

    def shard(self, plan: str, number: int) -> Path:
        """The file of a shard."""
        return self.folder / ROWS / f"{plan}-{number:06d}.parquet"

    def write(self, plan: str, number: int, *, rows: Sequence[Row], columns: Mapping[str, Any]) -> None:
        """Write a shard, unless it has these very rows already."""
        path = self.shard(plan, number)
        table = frame(rows, columns)
        if path.exists():
            with contextlib.suppress(OSError, pl.exceptions.PolarsError):
                if read_parquet(path).equals(table):
                    return
            with writing(path):
                self._put_aside(path)
        write_atomically(path, lambda file: table.write_parquet(file, compression="zstd"))

    def finish(self) -> None:
        """Remove the former shards, and the pictures that only their rows name."""
        former = self._former()
        if not former:
            return
        with writing(self.folder):
            current = {name for path in self.shards() for name in _pictures(path)}
            for path in former:
                for name in set(_pictures(path)) - current:
                    self._remove_picture(name)
                path.unlink()
            if not self.remote:
                (self.folder / ROWS / FORMER).rmdir()

    def shards(self, plan: str = "") -> list[Path]:
        """The files of the rows in order, of one plan or of all."""
        return sorted(_listed(self.folder / ROWS, f"{plan}-*.parquet" if plan else "*.parquet"))

    def copies(self, plan: str) -> list[Path]:
        """The files of a plan's rows on this machine, to be read lazily and more than once.

        Those behind an address are copied into a folder that is there as long as this store.
        """
        shards = self.shards(plan)
        if not self.remote:
            return shards
        self._copied = tempfile.TemporaryDirectory(prefix="camscope-")
        folder = Path(self._copied.name)

        def copy(path: Path) -> Path:
            (folder / path.name).write_bytes(path.read_bytes())
            return folder / path.name

        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(copy, shards))

    def _former(self) -> list[Path]:
        """In the order in which they were put aside."""
        return sorted(_listed(self.folder / ROWS / FORMER, "*.parquet"))

    def _put_aside(self, path: Path) -> None:
        number = max((int(other.name.partition("-")[0]) for other in self._former()), default=0) + 1
        former = self.folder / ROWS / FORMER
        former.mkdir(parents=True, exist_ok=True)
        path.rename(former / f"{number:08d}-{path.name}")

    def _remove_picture(self, name: str) -> None:
        path = self.folder / name
        if self.remote:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        if path.resolve().is_relative_to(self.folder.resolve()):
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.folder or any(parent.iterdir()):
                    break
                parent.rmdir()

    def record(self, content: Mapping[str, Any]) -> None:
        """Write what the rows were made with."""
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomically(self.folder / self._record, lambda file: file.write(text.encode("utf-8", "replace")))

    def read_record(self) -> dict[str, Any]:
        """What `record` wrote; empty where nothing is.

        Raises:
            StoreError: it is damaged.
        """
        path = self.folder / self._record
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as fault:
            raise StoreError(f"{path} cannot be read ({fault}): delete it and run the same command again") from None
        return content


class Known:
    """What has been computed before, by key; rows are read from their shards when they are asked for.

    Args:
        shards: Parquet files, the oldest first; those that cannot be read are passed over, and made again.
        before: is asked for what they do not have.
    """

    def __init__(self, shards: Sequence[Path], *, before: Known | None = None) -> None:
        self._before = before
        self._files = list(shards)
        keys, asked, places = [np.empty(0, "S32")], [np.empty(0, bool)], [np.empty((0, 2), np.int64)]
        for number, path in enumerate(self._files):
            with contextlib.suppress(OSError, pl.exceptions.PolarsError):
                table = read_parquet(path, columns=["key", "status"]).with_row_index()
                table = table.filter((pl.col("status") != FAILED) & pl.col("key").is_not_null())
                keys.append(table["key"].to_numpy().astype("S32"))
                asked.append((table["status"] == OK).to_numpy())
                places.append(np.stack([np.full(len(table), number), table["index"].to_numpy()], axis=1))
        # By key; of rows with one key those that were asked for last, of these the newest.
        order = np.lexsort([np.arange(sum(map(len, keys))), np.concatenate(asked), np.concatenate(keys)])
        self._keys, self._places = np.concatenate(keys)[order], np.concatenate(places)[order]
        self._open: OrderedDict[int, pl.DataFrame] = OrderedDict()
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: str, **alike: str) -> Row | None:
        """The row of a key, None where there is none.

        Of several rows with one key, that with most of the values ``alike`` is returned, the first of them counting
        most, or else one that was asked for, or else the newest.
        """
        wanted = key.encode()
        first, last = (int(np.searchsorted(self._keys, wanted, side=side)) for side in ("left", "right"))
        found = [row for place in self._places[max(first, last - _TRIED) : last] if (row := self._row(place, key))]
        if not found and self._before is not None:
            return self._before.get(key, **alike)
        return max(
            reversed(found), key=lambda row: [row.get(name) == value for name, value in alike.items()], default=None
        )

    def _row(self, place: npt.NDArray[np.int64], key: str) -> Row | None:
        file, row = (int(v) for v in place)
        try:
            with self._reading:
                found = self._table(file).row(row, named=True)
        except (OSError, IndexError, pl.exceptions.PolarsError):  # the shard has been written anew since
            return None
        return found if found["key"] == key else None

    def _table(self, file: int) -> pl.DataFrame:
        if file not in self._open:
            self._open[file] = read_parquet(self._files[file])
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]


def frame(rows: Sequence[Row], columns: Mapping[str, Any]) -> pl.DataFrame:
    """Rows as a table with these columns; what a row does not have is null."""
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in columns}, schema=dict(columns))


def key_of(*parts: Any) -> str:
    """32 hexadecimal digits that stand for some content, as plain JSON values.

    >>> key_of("a", 1) == key_of("a", 1), len(key_of())
    (True, 32)
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _listed(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that match a pattern; none where there is no folder."""
    return [path for path in folder.iterdir() if fnmatch.fnmatch(path.name, pattern)] if folder.exists() else []


def _pictures(path: Path) -> list[str]:
    try:
        return read_parquet(path, columns=["file"])["file"].drop_nulls().to_list()
    except (OSError, pl.exceptions.PolarsError):
        return []
