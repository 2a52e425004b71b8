"""Silence the warnings of the packages that decode pictures: they may hold a patient's name."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_inside = 0
_filters: warnings.catch_warnings[None] | None = None


def _refuse(record: logging.LogRecord) -> bool:
    return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run without the warnings and log records of pydicom, and without Pillow's warning of large images.

    Warning filters belong to the process, so that the first thread to enter sets them and the last to leave restores
    them.

    >>> with quiet():
    ...     warnings.warn("too large", Image.DecompressionBombWarning)
    """
    global _inside, _filters
    with _lock:
        _inside += 1
        if _inside == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom|camscope\.images")
            logging.getLogger("pydicom").addFilter(_refuse)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                logging.getLogger("pydicom").removeFilter(_refuse)
