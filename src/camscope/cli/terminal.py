"""Format text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from camscope.explanation import Explanation

_PASSED = "completeness residual below"
"""Beginning of the note on a passed check, which is only in explanation.json."""


def printed_notes(e: Explanation) -> list[str]:
    """Return the notes of an explanation, without notes on passed checks."""
    return [note for note in e.notes if not note.startswith(_PASSED)]


def one_line(text: str) -> str:
    r"""Return a text on one line; control characters are replaced.

    >>> one_line("two\nlines, \x1b[2J").isprintable()
    True
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
