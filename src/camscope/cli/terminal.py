"""Format text for the terminal."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

import typer

from camscope.errors import CamscopeError

if TYPE_CHECKING:
    from camscope.explanation import Explanation

_OPTIONS: ContextVar[frozenset[str]] = ContextVar("options of the running command", default=frozenset())
_ARGUMENT = re.compile(
    r"(?<![\w-])(?P<name>[a-z]\w*)="
    r"(?:(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<value>[A-Z][A-Z]+\b|[\d.]*\d|\([^)]*\))|(?P<flag>True\b)|(?![\w'\"({\[]))"
)
"""An argument as messages name it: ``weights=FILE``, ``arch='timm:NAME'``, ``trust=True`` or ``layer=``."""
_PREPROCESS = "--input-size, --mean, --std and --fit"


def printed_notes(e: Explanation) -> list[str]:
    """Return the notes of an explanation, without notes on passed checks."""
    return [in_options(note) for note in e.remarks]


@contextlib.contextmanager
def command_with(options: Iterable[str]) -> Iterator[None]:
    """Make messages name the options of a command where they name arguments.

    Args:
        options: names of the command's options as arguments, such as "input_size".
    """
    token = _OPTIONS.set(frozenset(options))
    try:
        yield
    except CamscopeError as error:
        error.args = tuple(in_options(text) if isinstance(text, str) else text for text in error.args)
        raise
    finally:
        _OPTIONS.reset(token)


def in_options(text: str) -> str:
    """Return a message in which arguments that the running command has as options are written as these.

    >>> with command_with(["weights", "trust", "mean"]):
    ...     in_options("pass weights=FILE, or weights='none', and trust=True; set others with mean=; samples=8 stays")
    'pass --weights FILE, or --weights none, and --trust; set others with --mean; samples=8 stays'
    """
    names = _OPTIONS.get()

    def option(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"] or (found["quoted"] or "")[1:-1]
        if name == "preprocess" and "mean" in names:
            return _PREPROCESS
        if name not in names:
            return found[0]
        value = value.strip("()").replace(" ", "") if value.startswith("(") else value
        return f"--{name.replace('_', '-')}{' ' * bool(value)}{value}"

    return _ARGUMENT.sub(option, text)


def exit_after(failed: Mapping[str, str], what: str) -> typer.Exit:
    """Print the images that failed, each with its reason, and return the exit: status 1 if there are any, or 0.

    Args:
        failed: image -> reason.
        what: participle of what was done with the others, such as "explained".
    """
    for source, reason in failed.items():
        print(one_line(f"camscope: not {what}: {source}: {reason}"), file=sys.stderr)
    return typer.Exit(1 if failed else 0)


def one_line(text: str) -> str:
    r"""Return a text on one line; control characters are replaced.

    >>> one_line("two\nlines, \x1b[2J").isprintable()
    True
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
