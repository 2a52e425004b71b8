"""All exceptions of the package. The text of each is one sentence: what is wrong, what was expected, what to do.

::

    CamscopeError
        DelimitedError       a CSV or TSV text
        TableError           a table of cases
        StudyError           a study file, with all its problems
        PictureError         an image
        AnnotationError      a mask or a box
        ModelError           a model and its weights
            OutputError      a model whose outputs do not fit a command, whatever the image
        LayerError           a layer
        TargetError          a class or target
        MethodError          a method
        EngineError          a backend
        SettingError         an option or setting
        StoreError           a folder of results
            DamagedError     a file of rows that was changed
        ClusterError         a Ray cluster
        TerminatedError      a request to stop
        MissingExtraError    a package that is not installed
"""

from __future__ import annotations

import difflib
import importlib
import operator
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

_LONGEST, _SHOWN = 300, 80  # characters
_MOST = 10**9


class CamscopeError(Exception):
    """Base class of all errors of camscope; the text is one sentence for the user."""


class DelimitedError(CamscopeError):
    """A CSV or TSV text that cannot be read as a table.

    Attributes:
        text: what is wrong, and what to do.
        line: on which the record begins, from 1.
    """

    def __init__(self, text: str, line: int) -> None:
        self.text, self.line = text, line
        super().__init__(f"line {line}: {text}")


class TableError(CamscopeError):
    """A table that cannot be read.

    Attributes:
        text: what is wrong, and what to do.
        path: of the table.
        line: in it, from 1; None where it concerns the file as a whole.
    """

    def __init__(self, text: str, path: str, line: int | None = None) -> None:
        self.text, self.path, self.line = text, path, line
        super().__init__(f"{path}:{line}: {text}" if line else f"{path}: {text}")


class StudyError(CamscopeError):
    """A study file, or its table, that cannot be used.

    Attributes:
        problems: everything that is wrong, each with its file and line.
    """

    def __init__(self, problems: Sequence[Any]) -> None:
        self.problems = tuple(problems)
        suffix = f" (and {len(problems) - 1} more; `camscope study --check` lists them)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{suffix}")


class PictureError(CamscopeError):
    """An image that cannot be read or used."""


class AnnotationError(CamscopeError):
    """A mask or box of a table that cannot be read or does not fit its image."""


class ModelError(CamscopeError):
    """A model that cannot be found, built or filled with its weights."""


class OutputError(ModelError):
    """A model whose outputs do not fit a command: no image of a run can be used."""


class LayerError(CamscopeError):
    """A layer that does not exist, did not run, or is not a spatial feature map."""


class TargetError(CamscopeError):
    """A class, index or target function that does not fit the model's output."""


class MethodError(CamscopeError):
    """A method that does not exist or cannot be applied to this model."""


class EngineError(CamscopeError):
    """An engine that cannot compute this network."""


class SettingError(CamscopeError):
    """An option with a value that is not possible."""


class StoreError(CamscopeError):
    """A folder of results that cannot be used or written."""


class DamagedError(StoreError):
    """A file of rows whose content has changed."""


class ClusterError(CamscopeError):
    """A Ray cluster that cannot be reached, or whose workers cannot start."""


class TerminatedError(CamscopeError):
    """Work that another process asked to stop (SIGTERM)."""


class MissingExtraError(CamscopeError):
    """An optional package that is not installed."""


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the text for an unknown ``name``, with the nearest known names.

    >>> nearest("layer", "layer5", ["layer3", "layer4", "fc"])
    "no layer called 'layer5'; nearest: 'layer4', 'layer3'"
    """
    names = list(known)
    if len(name) > _SHOWN:  # comparing takes quadratic time in the length
        return f"no {kind} called {shortened(name)}"
    lowered = {option.lower(): option for option in reversed(names)}
    close = [lowered[option] for option in difflib.get_close_matches(name.lower(), lowered, n=5, cutoff=0.4)]
    close = close or names[:5]
    options = ", ".join(repr(option) for option in close) or "none at all"
    return f"no {kind} called {name!r}; nearest: {options}"


def reason(fault: BaseException) -> str:
    """Return the first words of an exception on one line, without the path that the system repeats in them.

    >>> reason(PermissionError(13, "Permission denied", "a.png"))
    'Permission denied'
    >>> reason(MemoryError())
    'MemoryError'
    """
    words = getattr(fault, "strerror", None) or str(fault)
    text = " ".join(words.split()) or type(fault).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def first_line(fault: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none.

    >>> first_line(ValueError("wrong shape")), first_line(MemoryError())
    ('wrong shape', 'MemoryError')
    """
    return str(fault).strip().partition("\n")[0].rstrip() or type(fault).__name__


def check_count(name: str, value: object, *, least: int = 1, most: int = _MOST) -> None:
    """Raise unless a value is a whole number from ``least`` to ``most``.

    >>> check_count("batch_size", 0)
    Traceback (most recent call last):
    camscope.errors.SettingError: batch_size must be a whole number from 1 to 1000000000, but got 0
    """
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    if not whole or not least <= operator.index(value) <= most:  # type: ignore[arg-type]
        raise SettingError(f"{name} must be a whole number from {least} to {most}, but got {shortened(value)}")


def shortened(value: object) -> str:
    """Return any value as text of at most 80 characters.

    >>> shortened(10**5000), shortened("a" * 100)[-5:]
    ('a number of more than 4000 digits', 'a ...')
    """
    try:
        text = repr(value)
    except ValueError:  # Python does not convert such long integers to text
        return "a number of more than 4000 digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def unwritable(path: object, fault: BaseException) -> StoreError:
    """Return the error of a file or folder that cannot be written, such as on a full disk.

    >>> unwritable("out", PermissionError(13, "Permission denied", "out"))
    StoreError('cannot write out: Permission denied; results so far are kept; re-run the same command to resume')
    """
    what = f"cannot write {path}: {reason(fault)}"
    return StoreError(f"{what}; results so far are kept; re-run the same command to resume")


_UNTRACKED = {"YOLO_OFFLINE": "true", "RAY_USAGE_STATS_ENABLED": "0", "FIFTYONE_DO_NOT_TRACK": "true"}
"""Settings with which optional packages do not report their use to their makers."""


def require(module: str, purpose: str, extra: str) -> ModuleType:
    """Import an optional package, or raise an error that names its extra.

    Packages that report their use to their makers are told not to, unless the environment says otherwise.

    >>> require("json", "an example", "none").__name__
    'json'
    """
    for name, value in _UNTRACKED.items():
        os.environ.setdefault(name, value)
    if module == "openvino":  # has no setting, but works without its package for reports
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        message = f"{purpose} needs {package}: pip install 'camscope[{extra}]'"
        raise MissingExtraError(message) from None
