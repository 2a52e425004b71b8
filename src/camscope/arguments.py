"""Check the arguments of public functions, so that a wrong one ends in a sentence and not deep inside."""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from camscope.errors import SettingError, nearest, shortened

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Kind(NamedTuple):
    """The values that an argument may have.

    Attributes:
        fits: returns whether a value is possible.
        words: noun for one value, such as "a whole number".
        many: noun for several values, such as "whole numbers".
    """

    fits: Callable[[Any], bool]
    words: str
    many: str = ""


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function raise a SettingError for arguments of a wrong kind, and for arguments that it does not have.

    The kinds are those of the annotations: texts, numbers, truth values, paths, functions, lists, dictionaries, and
    classes of camscope. Annotations of other kinds, such as networks and arrays, are left to the function.

    >>> @checked
    ... def draw(width: int, name: str | None = None) -> None: ...
    >>> draw("wide")
    Traceback (most recent call last):
    camscope.errors.SettingError: width must be a whole number, but got 'wide'
    >>> draw(3, names="a")
    Traceback (most recent call last):
    camscope.errors.SettingError: no argument of draw called 'names'; nearest: 'name'
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise SettingError(_misfit(signature, function.__name__, kwargs, error)) from None
        _check(_kinds(function), arguments)
        return function(*args, **kwargs)

    return call


def check_fields(instance: Any, *, but: Sequence[str] = ()) -> None:
    """Raise a SettingError if a field of a dataclass is of a wrong kind, except the fields ``but``.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Size:
    ...     width: int
    ...
    ...     def __post_init__(self):
    ...         check_fields(self)
    >>> Size("wide")
    Traceback (most recent call last):
    camscope.errors.SettingError: width must be a whole number, but got 'wide'
    """
    _check(_kinds(type(instance).__init__), {name: value for name, value in vars(instance).items() if name not in but})


def _check(kinds: Mapping[str, Kind], values: Mapping[str, Any]) -> None:
    for name, kind in kinds.items():
        if name in values and not kind.fits(values[name]):
            raise SettingError(f"{name} must be {kind.words}, but got {shortened(values[name])}")


def _misfit(signature: inspect.Signature, name: str, given: Mapping[str, Any], error: TypeError) -> str:
    """Return the sentence on arguments that a function does not have, or lacks."""
    unknown = [argument for argument in given if argument not in signature.parameters]
    if unknown:
        text = nearest(f"argument of {name}", unknown[0], list(signature.parameters))
        if unknown[0] == "device":
            return f"{text}; a network computes where its weights are: move it with .to('cuda')"
        if "options" in signature.parameters:
            return f"{text}; options of the network itself go into options={{...}}"
        return text
    return f"{name}: {error}"


@functools.cache
def _kinds(function: Callable[..., Any]) -> dict[str, Kind]:
    """Return the kinds of a function's parameters; those whose annotation is not understood are left out."""
    kinds = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = None
        if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            kind = _kind(_resolved(parameter.annotation, function))
        if kind is not None:
            kinds[name] = kind
    return kinds


def _resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    """Return an annotation as a type; Any if it names what is imported for type checkers only."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(function, "__globals__", {}))
    except (NameError, AttributeError):
        return Any


_SIMPLE = {
    str: Kind(lambda value: isinstance(value, str), "a text", "texts"),
    bool: Kind(
        lambda value: isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"),
        "True or False",
        "truth values",
    ),
    int: Kind(lambda value: not isinstance(value, bool) and _is_whole(value), "a whole number", "whole numbers"),
    float: Kind(lambda value: not isinstance(value, bool) and _is_number(value), "a number", "numbers"),
    type(None): Kind(lambda value: value is None, "None"),
    None: Kind(lambda value: value is None, "None"),
    Path: Kind(lambda value: isinstance(value, os.PathLike), "a path", "paths"),
}


def _kind(annotation: Any) -> Kind | None:
    """Return the kind of an annotation; None if it is not understood."""
    if annotation in (Any, object, inspect.Parameter.empty):
        return None
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return _SIMPLE[str] if all(isinstance(part, str) for part in parts) else None
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(part) for part in parts]
        known = [kind for kind in kinds if kind is not None]
        if len(known) < len(kinds):
            return None
        words, many = (
            " or ".join(dict.fromkeys(texts))
            for texts in ([k.words for k in known], [k.many or k.words for k in known])
        )
        return Kind(lambda value: any(kind.fits(value) for kind in known), words, many)
    if origin is Callable:
        return Kind(callable, "a function", "functions")
    if origin is not None and issubclass(origin, Mapping):
        return Kind(lambda value: isinstance(value, Mapping), "a dictionary")
    if origin in (tuple, list, Sequence, Iterable):
        return _listed(origin, parts)
    if inspect.isclass(annotation) and annotation.__module__.startswith("camscope."):
        article = "an" if annotation.__name__[0] in "AEIO" else "a"
        return Kind(lambda value: isinstance(value, annotation), f"{article} {annotation.__name__}")
    return None


def _listed(origin: Any, parts: tuple[Any, ...]) -> Kind:
    """Return the kind of a list, whose elements are looked at unless it may be read only once."""
    elements = [_kind(part) for part in parts if part is not Ellipsis]
    fixed = len(parts) if origin is tuple and Ellipsis not in parts else None

    def fits(value: Any) -> bool:
        if isinstance(value, (str, bytes, type)) or not hasattr(value, "__iter__"):
            return False
        if origin is Iterable:
            return True
        if hasattr(value, "ndim") and (value.ndim != 1 or not len(value)):
            return False
        if not hasattr(value, "__len__") or not hasattr(value, "__getitem__") or isinstance(value, Mapping):
            return False
        if fixed is not None and len(value) != fixed:
            return False
        kinds = elements if fixed is not None else elements * len(value)
        return all(kind is None or kind.fits(element) for kind, element in zip(kinds, value, strict=True))

    known = [kind for kind in elements if kind is not None]
    if fixed is not None and len(known) == fixed and len({kind.words for kind in known}) == 1:
        return Kind(fits, f"{fixed} {known[0].many or known[0].words}")
    return Kind(fits, f"a list of {known[0].many or known[0].words}" if known else "a list")


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    """Return whether a value is a real number, of Python or NumPy."""
    array = hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0 and not isinstance(value, (str, bytes))
    return isinstance(value, numbers.Real) or array
