"""What can go wrong, in one sentence each: what was given, what is possible, what to do."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class CamscopeError(Exception):
    """Base of every error that camscope raises on purpose; its text is one sentence for the user."""


class DelimitedError(CamscopeError):
    """A CSV or TSV text that cannot be read as the table it was meant to be.

    Attributes:
        text: what is wrong, and what to do.
        line: on which the record begins, from 1.
    """

    def __init__(self, text: str, line: int) -> None:
        self.text, self.line = text, line
        super().__init__(f"line {line}: {text}")


class PictureError(CamscopeError):
    """A picture that cannot be read or used."""


class AnnotationError(CamscopeError):
    """A mask or box of a table that cannot be read or does not fit its picture."""


class ModelError(CamscopeError):
    """A model that cannot be found, built or filled with its weights."""


class LayerError(CamscopeError):
    """A layer that does not exist, did not run, or holds no map of the picture."""


class TargetError(CamscopeError):
    """A class, index or target function that does not fit the model's output."""


class MethodError(CamscopeError):
    """A method that does not exist or cannot be applied to this model."""


class EngineError(CamscopeError):
    """An engine that cannot compute this network."""


class SettingError(CamscopeError):
    """An option with a value that is not possible."""


class MissingExtraError(CamscopeError):
    """An optional package that is not installed."""


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that ``name`` is unknown, with the closest known names.

    >>> nearest("layer", "layer5", ["layer3", "layer4", "fc"])
    "no layer called 'layer5'; nearest: 'layer4', 'layer3'"
    """
    names = list(known)
    lowered = {n.lower(): n for n in reversed(names)}
    close = [lowered[n] for n in difflib.get_close_matches(name.lower(), lowered, n=5, cutoff=0.4)]
    close = close or names[:5]
    options = ", ".join(repr(n) for n in close) or "none at all"
    return f"no {kind} called {name!r}; nearest: {options}"


def require(module: str, purpose: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    >>> require("json", "an example", "none").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        message = f"{purpose} needs {package}: pip install 'camscope[{extra}]'"
        raise MissingExtraError(message) from None
