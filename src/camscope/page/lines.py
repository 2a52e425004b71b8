"""Parts of figures shared by several pages: colours, lines, points with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with colour blindness can distinguish.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8893a2"
WIDTH = 3.6  # inches; the width of a phone

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A figure and its numbers.

    Attributes:
        title: above it.
        svg: the figure.
        columns: of the table of its numbers; () where there is none.
        rows: of that table.
    """

    title: str
    svg: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def lines(count: int, *, height: float = 0.27) -> tuple[Figure, Axes]:
    """Return a figure with one line for each of some things, the first on top."""
    figure = Figure(figsize=(WIDTH, height * count + 0.6), layout="constrained")
    ax = figure.add_subplot()
    ax.set_ylim(count - 0.4, -0.6)
    ax.grid(visible=True)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    return figure, ax


def ends(content: Content) -> tuple[float | None, float | None, float | None]:
    """Return low, high and estimate of an interval."""
    return content["low"], content["high"], content["estimate"]


def whisker(
    ax: Axes,
    y: float,
    low: float | None,
    high: float | None,
    estimate: float | None,
    *,
    colour: str,
    small: bool = False,
) -> None:
    """Draw a point with its interval; nothing where there is no estimate."""
    if estimate is None or np.isnan(estimate):
        return
    if low is not None and high is not None and not np.isnan(low + high):
        ax.plot([low, high], [y, y], color=colour, lw=1 if small else 2, solid_capstyle="butt", zorder=3, clip_on=False)
    ax.plot([estimate], [y], "D" if small else "o", color=colour, ms=2.5 if small else 5, zorder=4, clip_on=False)


def plain_ticks(ax: Axes, ticks: Sequence[float] | None = None) -> None:
    """Format ticks as plain numbers."""
    if ticks is None:
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, 0.45), max(high, 2.2))
        low, high = ax.get_xlim()
        dense, sparse = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50), (0.02, 0.1, 1, 10, 100)
        ticks = [t for t in (dense if high / low < 50 else sparse) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
    ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
