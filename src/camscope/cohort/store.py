"""Store rows in shards that are written completely or not at all, and look up cached rows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
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

from camscope.errors import DamagedError, StoreError, reason
from camscope.files import (
    PARTIAL,
    check_sealed,
    claim,
    is_remote,
    is_sealed,
    place,
    read_parquet,
    write_atomically,
    write_parquet,
    writing,
)

Row = dict[str, Any]

OK, NOT_ASKED, FAILED = "ok", "not asked", "failed"

STUDY, EVALUATION, SCAN = "study.json", "evaluation.json", "scan.json"
"""The records of a study, an evaluation and a scan."""

ROWS, FORMER, LOCK = "rows", "former", ".lock"

_KINDS = {STUDY: "a study", EVALUATION: "an evaluation", SCAN: "a scan"}

_SHARD = re.compile(r"[0-9a-f]{1,8}-\d{6}\.parquet")
_FORMER_SHARD = re.compile(rf"\d{{8}}-{_SHARD.pattern}")
_OPEN_SHARDS = 4
_TRIED = 16  # largest number of rows per key that are tried
_PATIENCE = 1  # seconds to wait for the lock, which `busy` holds for a moment
_THREADS = 8  # threads that copy shards from an address


class Store:
    """The folder of a study, an evaluation or a scan.

    Rows are in ``rows/<plan>-<number>.parquet``, where the plan is the fingerprint of table and settings. During a run,
    shards of a former plan and replaced shards are kept in ``rows/former``, so that valid results are reused. `finish`
    removes them. Otherwise, only incomplete files are removed, and overlays that are named by a former shard with a
    valid checksum.

    Args:
        folder: the folder, which is created if needed; or an address such as ``s3://bucket/results``.
        record: name of the file with models, settings and versions of the rows.

    Raises:
        MissingExtraError: the package for an address is not installed.
    """

    def __init__(self, folder: str | Path, *, record: str = STUDY) -> None:
        self.folder = place(folder)
        self._record = record

    @property
    def remote(self) -> bool:
        """Return whether the folder is an address, where there are no locks and every file is complete."""
        return is_remote(self.folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes; the lock is released when the process ends.

        Raises:
            StoreError: another process uses the folder, or it is neither empty nor a folder of results.
        """
        claim(self.folder, _KINDS[self._record], record=(self._record, "plan"))
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
        """Return whether a process uses the folder; unknown for an address."""
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
        """Put the rows of other plans aside, and remove incomplete files of a killed process."""
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
        """Return the cached rows of all shards, those of former plans first.

        Args:
            shards: only these shards; None for all.
        """
        return Known([*self._former(), *(self.shards() if shards is None else shards)])

    def shard(self, plan: str, number: int) -> Path:
        """Return the file of a shard."""
        return self.folder / ROWS / f"{plan}-{number:06d}.parquet"

    def write(self, plan: str, number: int, *, rows: Sequence[Row], columns: Mapping[str, Any]) -> None:
        """Write a shard, unless it already contains the same rows."""
        path = self.shard(plan, number)
        table = frame(rows, columns)
        if path.exists():
            with contextlib.suppress(OSError, DamagedError):
                if read_parquet(path).equals(table):
                    return
                with writing(path):
                    self._put_aside(path)
        write_parquet(path, table)

    def finish(self) -> None:
        """Remove the former shards, and the overlays that only their rows name."""
        former = [path for path in self._former() if is_sealed(path)]
        if not former:
            return
        with writing(self.folder):
            current = {name for path in self.shards() for name in _pictures(path)}
            for path in former:
                with contextlib.suppress(DamagedError):  # the names of its overlays are lost
                    for name in set(_pictures(path)) - current:
                        self._remove_picture(name)
                path.unlink()
            if not self.remote:
                with contextlib.suppress(OSError):  # the folder has other files
                    (self.folder / ROWS / FORMER).rmdir()

    def shards(self, plan: str = "") -> list[Path]:
        """Return the files of the rows in order, of one plan or of all plans."""
        return [path for path in _listed(self.folder / ROWS, _SHARD) if not plan or path.name.partition("-")[0] == plan]

    def copies(self, plan: str) -> list[Path]:
        """Return the files of a plan's rows on this machine, which can be read lazily and repeatedly.

        Files of an address are copied into a temporary folder, which is removed with this store.

        Raises:
            StoreError: a file is damaged.
        """
        shards = self.shards(plan)
        if not self.remote:
            for path in shards:
                self._checked(path)
            return shards
        self._copied = tempfile.TemporaryDirectory(prefix="camscope-")
        folder = Path(self._copied.name)

        def copy(path: Path) -> Path:
            (folder / path.name).write_bytes(self._checked(path))
            return folder / path.name

        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(copy, shards))

    def _checked(self, path: Path) -> bytes:
        try:
            return check_sealed(path)
        except (OSError, DamagedError) as fault:
            raise StoreError(f"{reason(fault)}: run the same command again, which computes its rows again") from None

    def _former(self) -> list[Path]:
        """Return the former shards, in the order in which they were put aside."""
        return _listed(self.folder / ROWS / FORMER, _FORMER_SHARD)

    def _put_aside(self, path: Path) -> None:
        number = max((int(entry.name.partition("-")[0]) for entry in self._former()), default=0) + 1
        former = self.folder / ROWS / FORMER
        former.mkdir(parents=True, exist_ok=True)
        path.rename(former / f"{number:08d}-{path.name}")

    def _remove_picture(self, name: str) -> None:
        path = self.folder / name
        if self.remote:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        if not path.resolve().is_relative_to(self.folder.resolve()):
            return
        # The folder may not exist any more, or another file may have replaced the overlay.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
        for parent in path.parents:
            if parent == self.folder:
                break
            with contextlib.suppress(OSError):  # gone, or not empty
                parent.rmdir()

    def record(self, content: Mapping[str, Any]) -> None:
        """Write the record of the models, settings and versions of the rows."""
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomically(self.folder / self._record, lambda file: file.write(text.encode("utf-8", "replace")))

    def read_record(self) -> dict[str, Any]:
        """Return the record; empty if there is none.

        Raises:
            StoreError: the record is damaged.
        """
        path = self.folder / self._record
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as fault:
            raise _unreadable(path, reason(fault)) from None
        if not isinstance(content, dict):
            raise _unreadable(path, "it does not contain a JSON object")
        return content


@contextlib.contextmanager
def as_written(folder: str | Path) -> Iterator[None]:
    """Convert errors from JSON files with unexpected content to one sentence."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as fault:
        raise StoreError(
            f"the JSON files in {folder} are not as camscope wrote them ({type(fault).__name__}: {reason(fault)}): run "
            "the same command again"
        ) from fault


def _unreadable(path: Path, why: str) -> StoreError:
    return StoreError(f"{path} cannot be read ({why}): delete it and run the same command again")


class Known:
    """Cached rows by key; rows are read from their shards when they are needed.

    Args:
        shards: Parquet files, oldest first; files that cannot be read are skipped, and their rows computed again.
        before: further cached rows, which are used for missing keys.

    Attributes:
        damaged: one sentence per skipped file, with the reason.
    """

    def __init__(self, shards: Sequence[Path], *, before: Known | None = None) -> None:
        self._before = before
        self._files = list(shards)
        self.damaged: list[str] = []
        keys, statuses, places = [np.empty(0, "S32")], [np.empty(0, bool)], [np.empty((0, 2), np.int64)]
        for number, path in enumerate(self._files):
            try:
                table = read_parquet(path, columns=["key", "status"]).with_row_index()
            except FileNotFoundError:
                continue
            except (OSError, DamagedError) as fault:
                self.damaged.append(reason(fault))
                continue
            table = table.filter((pl.col("status") != FAILED) & pl.col("key").is_not_null())
            keys.append(table["key"].to_numpy().astype("S32"))
            statuses.append((table["status"] == OK).to_numpy())
            places.append(np.stack([np.full(len(table), number), table["index"].to_numpy()], axis=1))
        # Sorted by key; among rows with the same key, rows with a map come last, the newest at the end.
        order = np.lexsort([np.arange(sum(map(len, keys))), np.concatenate(statuses), np.concatenate(keys)])
        self._keys, self._places = np.concatenate(keys)[order], np.concatenate(places)[order]
        self._open: OrderedDict[int, pl.DataFrame] = OrderedDict()
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: str, **alike: str) -> Row | None:
        """Return the row of a key; None if there is none.

        If several rows have the key, the row with the most values of ``alike`` is returned; earlier values count more.
        Ties are decided in favour of rows with a map, then of the newest.
        """
        key_bytes = key.encode()
        first, last = (int(np.searchsorted(self._keys, key_bytes, side=side)) for side in ("left", "right"))
        rows = [row for place in self._places[max(first, last - _TRIED) : last] if (row := self._row(place, key))]
        if not rows and self._before is not None:
            return self._before.get(key, **alike)
        return max(
            reversed(rows), key=lambda row: [row.get(name) == value for name, value in alike.items()], default=None
        )

    def _row(self, place: npt.NDArray[np.int64], key: str) -> Row | None:
        file, row = (int(number) for number in place)
        try:
            with self._reading:
                record = self._table(file).row(row, named=True)
        except (OSError, IndexError, DamagedError):  # the shard was replaced in the meantime
            return None
        return record if record["key"] == key else None

    def _table(self, file: int) -> pl.DataFrame:
        if file not in self._open:
            self._open[file] = read_parquet(self._files[file])
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]


def frame(rows: Sequence[Row], columns: Mapping[str, Any]) -> pl.DataFrame:
    """Return rows as a table with these columns; missing values are null."""
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in columns}, schema=dict(columns))


def key_of(*parts: Any) -> str:
    """Return a hash (32 hexadecimal digits) of plain JSON values.

    >>> key_of("a", 1) == key_of("a", 1), len(key_of())
    (True, 32)
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _listed(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the files in a folder whose full names match a pattern, sorted by name; empty if there is no folder."""
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name)) if folder.exists() else []


def _pictures(path: Path) -> list[str]:
    """Return the overlays that the rows of a shard name; rows of an evaluation name none."""
    table = read_parquet(path)
    return table["file"].drop_nulls().to_list() if "file" in table.columns else []
