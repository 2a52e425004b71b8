"""Read the truth of a label from a cell (a truth value, words, a list of findings or a number), and merge votes."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection, Iterable, Sequence

from camscope.cohort.sections import LabelRule, Votes

PRESENT, ABSENT, UNCERTAIN, UNKNOWN = "1", "0", "-1", ""
"""Values of a cell after applying the rule of a label."""

MISSING = ("", "nan", "na", "n/a", "#n/a", "<na>", "null")
"""Words in lower case by which pandas, R and Excel write a missing value."""

_WORDS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y", "positive", "present"), PRESENT),
    **dict.fromkeys(("0", "0.0", "false", "no", "n", "negative", "absent"), ABSENT),
    **dict.fromkeys(("-1", "-1.0", "uncertain"), UNCERTAIN),
    **dict.fromkeys((*MISSING, "none", "unknown"), UNKNOWN),
}
_NOTHING = ("no finding", "no findings", "normal", "none", "")
_SEPARATORS = re.compile(r"[|;]")
_UNUSUAL = re.compile(r"[/+&\n]")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def read_truth(cell: str, *, uncertain: str = "drop") -> tuple[bool | None, str]:
    """Return the truth of a label from its cell (True, False, or None if unknown), and the problem of an invalid cell.

    >>> read_truth("yes"), read_truth(""), read_truth("-1", uncertain="positive"), read_truth("maybe")
    ((True, ''), (None, ''), (True, ''), (None, "'maybe': expected 1, 0, -1 or blank"))
    """
    value = _WORDS.get(cell.strip().lower())
    if value is None:
        return None, f"{cell.strip()!r}: expected 1, 0, -1 or blank"
    if value == UNCERTAIN:
        return {"drop": None, "positive": True, "negative": False}[uncertain], ""
    return {PRESENT: True, ABSENT: False, UNKNOWN: None}[value], ""


def reduced(cell: str, rule: LabelRule) -> str:
    """Apply the rule of a label to a cell.

    Returns:
        "1", "0", "-1" or "" for present, absent, uncertain and unknown; an invalid cell is returned unchanged.

    >>> reduced("['Mass', 'Effusion']", LabelRule(column="Labels", contains="effusion"))
    '1'
    >>> reduced("", LabelRule(column="Edema", blank="negative")), reduced("0.3", LabelRule(column="area", above=0.5))
    ('0', '0')
    """
    text = cell.strip()
    if text.casefold() in MISSING and text.casefold() not in _plain((*rule.contains, *rule.absent)):
        text = ""
    value = UNKNOWN if text in ("[]", "{}") and not rule.contains else _WORDS.get(text.lower(), text)
    if rule.contains:
        value = UNKNOWN if not text else PRESENT if _plain(rule.contains) & _parts(text, rule) else ABSENT
    elif rule.absent:
        value = UNKNOWN if not text else ABSENT if text.casefold() in _plain(rule.absent) else PRESENT
    elif rule.above is not None and value != UNKNOWN:
        try:
            number = float(text)
        except ValueError:
            return text
        value = UNKNOWN if math.isnan(number) else PRESENT if number > rule.above else ABSENT
    return ABSENT if value == UNKNOWN and rule.blank == "negative" else value


def hidden_in(cell: str, rule: LabelRule) -> bool:
    """Return whether a cell is read as absent although its parts between other signs, such as /, include the label.

    >>> hidden_in("Mass/Effusion", LabelRule(column="Labels", contains="Mass"))
    True
    """
    parts = _UNUSUAL.split(cell.strip())
    return len(parts) > 1 and reduced(cell, rule) == ABSENT and bool(_plain(rule.contains) & _plain(parts))


def _parts(text: str, rule: LabelRule) -> set[str]:
    """Return the values in a cell in lower case, also those between commas."""
    if rule.separator is not None:
        return _plain(text.split(rule.separator))
    values = listed(text)
    return _plain(values) | _plain(part for value in values for part in value.split(","))


def _plain(names: Iterable[str]) -> set[str]:
    return {name.strip().casefold() for name in names}


def listed(cell: str) -> list[str]:
    """Return the values in a cell: separated by | or ;, a list or set in JSON or Python notation, or the cell itself.

    >>> listed("Mass|Effusion"), listed('["a, b", "c"]'), listed("['a' 'b']"), listed("No Finding"), listed("[]")
    (['Mass', 'Effusion'], ['a, b', 'c'], ['a', 'b'], ['No Finding'], [])
    """
    text = cell.strip()
    if text[:1] + text[-1:] in ("[]", "{}"):
        for parse in (json.loads, _literal):
            try:
                values = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(values, list | set) and not _run_together(text, values):
                return [str(value).strip() for value in values]
        if text.startswith("{"):  # an object
            return [text]
        quoted = [first or second for first, second in _QUOTED.findall(text)]
        return [part.strip() for part in quoted or text[1:-1].split(",") if part.strip()]
    return [part.strip() for part in _SEPARATORS.split(text) if part.strip()]


def _literal(text: str) -> object:
    return ast.literal_eval(text)


def _run_together(text: str, values: Collection[object]) -> bool:
    """Return whether Python joined texts that are separated only by blanks, as in lists printed by NumPy."""
    return len(_QUOTED.findall(text)) > len(values)


def lists_of(column: Iterable[str]) -> tuple[dict[str, list[str]], bool]:
    """Return cell -> its values for the different cells of a column, and whether they are lists.

    Commas separate values if a value between commas is also a cell. Values that differ only in capitals are one, in the
    first spelling. Missing values are left out.

    >>> lists_of(["Mass, Effusion", "Mass"]), lists_of(["lung, left", "lung, right"])[1]
    (({'Mass, Effusion': ['Mass', 'Effusion'], 'Mass': ['Mass']}, True), False)
    """
    lists = {cell: listed(cell) for cell in dict.fromkeys(map(str.strip, column)) if cell.casefold() not in MISSING}
    between = {cell: [part for part in map(str.strip, cell.split(",")) if part] for cell in lists if "," in cell}
    if any(part in lists for parts in between.values() for part in parts):
        lists |= {cell: parts for cell, parts in between.items() if len(lists[cell]) == 1}
    joined = any(values != [cell] for cell, values in lists.items())
    spelling: dict[str, str] = {}
    for values in lists.values():
        values[:] = [spelling.setdefault(value.casefold(), value) for value in values]
    return lists, joined


def values_of(column: Iterable[str]) -> tuple[list[str], bool]:
    """Return the sorted different values of a column, and whether its cells are lists (see `lists_of`).

    In lists, values such as "No Finding" are left out: they mean that all others are absent.

    >>> values_of(["Mass|Effusion", "No Finding", ""]), values_of(["cat", "dog"])
    ((['Effusion', 'Mass'], True), (['cat', 'dog'], False))
    """
    lists, joined = lists_of(column)
    values = {value for values in lists.values() for value in values}
    if not joined:
        return sorted(values), False
    return sorted(value for value in values if value.casefold() not in _NOTHING), True


def voted(cells: Sequence[str], readers: Sequence[str], votes: Votes) -> str:
    """Merge the cells of a label in several rows of one image.

    A reader's vote is present if any of their rows is present. Readers without a vote (present or absent) do not count.

    Args:
        cells: the cell of each row: "1", "0", "-1", "" or an invalid value.
        readers: the reader of each row.
        votes: required votes for present: "any", the "majority" of the readers with a vote, or a number.

    >>> voted(["1", "0", "0"], ["R1", "R2", "R3"], "majority"), voted(["1", "0", "0"], ["R1", "R2", "R3"], "any")
    ('0', '1')
    """
    says: dict[str, str] = {}
    order = {PRESENT: 3, UNCERTAIN: 2, ABSENT: 1, UNKNOWN: 0}
    for cell, reader in zip(cells, readers, strict=True):
        if cell not in order:
            return cell
        if order[cell] >= order[says.get(reader, UNKNOWN)]:
            says[reader] = cell
    present = sum(value == PRESENT for value in says.values())
    decided = [value for value in says.values() if value in (PRESENT, ABSENT)]
    if not decided:
        return UNCERTAIN if UNCERTAIN in says.values() else UNKNOWN
    needed = {"any": 1, "majority": len(decided) // 2 + 1}[votes] if isinstance(votes, str) else votes
    return PRESENT if present >= needed else ABSENT
