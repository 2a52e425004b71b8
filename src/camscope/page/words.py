"""Format numbers and names for a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: float | None, digits: int = 2) -> str:
    """Return a number as text; "unknown" where there is none.

    >>> number(-0.123), number(None)
    ('−0.12', 'unknown')
    """
    if value is None or value != value:
        return "unknown"
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", "−")


def interval(content: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Return an estimate and its interval as text, or the "reason" why it is not defined.

    >>> interval({"estimate": 0.5, "low": 0.25, "high": 0.75}), interval(None)
    ('0.50 (0.25 to 0.75)', 'unknown')
    >>> interval({"estimate": None, "low": None, "high": None, "reason": "no image"})
    'undefined (no image)'
    """
    if content is None or content["estimate"] is None or content["estimate"] != content["estimate"]:
        why = (content or {}).get("reason")
        return f"undefined ({why})" if why else "unknown"
    low, high = content["low"], content["high"]
    if low is None or high is None or low + high != low + high:
        return f"{number(content['estimate'], digits)} (no interval: {content.get('reason') or 'too few patients'})"
    return f"{number(content['estimate'], digits)} ({number(low, digits)} to {number(high, digits)})"


def short(text: str, most: int = 36) -> str:
    """Return a name that fits into a figure.

    >>> short("a very long name", 6)
    'a ver…'
    """
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def p_value(value: float | None) -> str:
    """Return a p-value as text.

    >>> p_value(0.0004), p_value(0.0312), p_value(None)
    ('< .001', '0.031', 'unknown')
    """
    if value is None or value != value:
        return "unknown"
    return "< .001" if value < 0.001 else f"{value:.3f}"
