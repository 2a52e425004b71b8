"""Figures of the evaluation page: intervals, two metrics against each other, cascades, costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from camscope.evaluation.baselines import BASELINES
from camscope.evaluation.summary_text import arrow, cell_of, of_kind
from camscope.metrics import FACTS
from camscope.page.lines import BLUE, GREY, ORANGE, VERMILLION, Drawn, lines, whisker
from camscope.page.svg import SETTINGS, svg
from camscope.page.words import interval, number

Table = Mapping[str, Any]

_WIDE, _HIGH = 10.6, 6.0  # inches
_LINE = 9.5  # points from line to line
_ABSENT = "–"


def metric_figure(table: Table, metric: str, *, name: str) -> Drawn:
    """Plot one metric of all methods with intervals, the best first; the dashed line is the best baseline."""
    cells = [cell for cell in table["cells"] if cell["metric"] == metric and cell["estimate"] is not None]
    best = FACTS[metric].best
    cells.sort(key=lambda cell: cell["estimate"], reverse=best != "low")
    baseline = next((cell for cell in cells if cell["method"] == cell["best_baseline"]), None)
    with mpl.rc_context(SETTINGS):
        figure, ax = lines(len(cells), height=0.19)
        for y, cell in enumerate(cells):
            colour = ORANGE if cell["method"] in BASELINES else BLUE if cell["beats_baseline"] else GREY
            whisker(ax, y, cell["low"], cell["high"], cell["estimate"], colour=colour)
        if baseline is not None:
            ax.axvline(baseline["estimate"], color=VERMILLION, lw=1, ls=(0, (4, 3)))
        ax.set_yticks(range(len(cells)), [cell["method"] for cell in cells])
        ax.set_xlabel(f"{metric} {arrow(metric)}")
    rows = [
        (
            cell["method"],
            interval(cell),
            str(cell["pictures"]),
            _difference(cell.get("against_baseline")),
            _difference(cell.get("against_reference")),
        )
        for cell in cells
    ]
    text = "; ".join(f"{row[0]} {row[1]}" for row in rows)
    label = "" if baseline is None else f" ({baseline['method']})"
    columns = (
        "Method",
        "Mean (95 % interval)",
        "Images",
        f"Less the best baseline{label}",
        f"Less {table['reference']}",
    )
    return Drawn(f"{metric} {arrow(metric)}".strip(), svg(figure, name, text=f"{metric}: {text}."), columns, rows)


def _difference(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None or comparison["difference"] is None:
        return _ABSENT
    p = "" if comparison["p"] is None else " (p < .001)" if comparison["p"] < 0.001 else f" (p {comparison['p']:.3f})"
    return f"{number(comparison['difference'], 3)}{p}"


def against_figure(table: Table, across: str, upwards: str, *, name: str) -> Drawn | None:
    """Plot two metrics against each other: one point per method, with crosses for baselines."""
    points = []
    for entry in table["methods"]:
        pair = [cell_of(table, entry["method"], metric) for metric in (across, upwards)]
        if all(cell is not None and cell["estimate"] is not None for cell in pair):
            points.append((entry, pair[0]["estimate"], pair[1]["estimate"]))  # type: ignore[index]
    if len(points) < 2:
        return None
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(_WIDE, _HIGH), layout="constrained")
        ax = figure.add_subplot()
        for entry, x, y in points:
            baseline, restricted = entry["method"] in BASELINES, bool(entry["restricted"])
            marker = "X" if baseline else "o"
            face = "none" if restricted else ORANGE if baseline else BLUE
            ax.scatter(
                [x], [y], s=38, marker=marker, facecolors=face, edgecolors=ORANGE if baseline else BLUE, zorder=3
            )
        ax.grid(visible=True, axis="both")
        ax.margins(x=0.06, y=0.08)
        _labelled(ax, points)
        ax.set(xlabel=f"{across} {arrow(across)}", ylabel=f"{upwards} {arrow(upwards)}")
    text = "; ".join(f"{entry['method']} {number(x)}, {number(y)}" for entry, x, y in points)
    return Drawn(f"{upwards} against {across}", svg(figure, name, text=f"{across}, {upwards}: {text}."))


def _labelled(ax: Any, points: Sequence[tuple[Mapping[str, Any], float, float]]) -> None:
    """Add names beside the points, moved up or down until they cover no others; methods at one point share a line."""
    groups: dict[tuple[float, float], list[str]] = {}
    for entry, x, y in points:
        groups.setdefault((round(x, 3), round(y, 3)), []).append(entry["method"])
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    across, up = _WIDE * 72 / (right - left), _HIGH * 72 / (high - low)  # points of the page
    labels: list[tuple[float, float, float]] = []
    for (x, y), names in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])):
        text = ", ".join(names)
        width, at = 4.2 * len(text), x * across
        start = at - width - 6 if at + width > right * across else at + 6
        shift = next(s for s in _shifts() if not _covers(labels, start, width, y * up + s))
        labels.append((start, width, y * up + shift))
        line = {"arrowstyle": "-", "lw": 0.5, "color": GREY} if abs(shift) > _LINE else None
        ax.annotate(
            text,
            (x, y),
            xytext=(start - at, shift - 3),
            textcoords="offset points",
            fontsize=7.5,
            color="#29323d",
            arrowprops=line,
        )


def _shifts() -> Iterator[float]:
    """Yield 0, one line up, one line down, two up ..."""
    return (sign * k * _LINE for k in itertools.count() for sign in ((1, -1) if k else (1,)))


def _covers(labels: Sequence[tuple[float, float, float]], start: float, width: float, y: float) -> bool:
    """Return whether a label would cover one that is already placed."""
    return any(abs(y - label_y) < _LINE and start < s + w and s < start + width for s, w, label_y in labels)


def cascade_figure(table: Table, *, name: str) -> Drawn | None:
    """Plot how similar maps stay while weights become random: one row of cells per method, from trained to random."""
    entries = [entry for entry in table["methods"] if entry["sanity"]]
    if not entries:
        return None
    entries.sort(key=lambda entry: (entry["sanity"]["passed"], -(entry["sanity"]["curve"][-1] or 0.0)))
    curves = np.array([[np.nan if v is None else v for v in entry["sanity"]["curve"]] for entry in entries], float)
    with mpl.rc_context(SETTINGS):
        figure, ax = lines(len(entries), height=0.2)
        colours = mpl.colormaps["viridis"]
        for y, curve in enumerate(curves):
            for x, value in enumerate(curve):
                shade = "#e3e7ec" if np.isnan(value) else colours(float(np.clip(abs(value), 0, 1)))
                ax.add_patch(mpl.patches.Rectangle((x, y - 0.42), 0.96, 0.84, facecolor=shade, lw=0))
                digits = "" if np.isnan(value) else f"{value:.1f}".replace("-", "−")
                colour = "white" if abs(np.nan_to_num(value)) < 0.6 else "#1b2330"
                ax.text(x + 0.48, y, digits, ha="center", va="center", fontsize=7, color=colour)
        steps = curves.shape[1]
        ax.set_xlim(0, steps)
        ax.grid(visible=False)
        ax.set_xticks(np.arange(steps) + 0.48, [f"{(k + 1) / steps:.0%}" for k in range(steps)])
        labels = [f"{entry['method']}: {'passed' if entry['sanity']['passed'] else 'failed'}" for entry in entries]
        ax.set_yticks(range(len(entries)), labels)
        ax.set_xlabel("share of the network that is random, from the last layer")
    rows = [
        (
            entry["method"],
            "passed" if entry["sanity"]["passed"] else "failed",
            ", ".join(_ABSENT if v is None else number(v) for v in entry["sanity"]["curve"]),
            str(entry["sanity"]["pictures"]),
        )
        for entry in entries
    ]
    text = "; ".join(f"{row[0]} {row[1]} ({row[2]})" for row in rows)
    columns = ("Method", "Sanity", "Rank correlation with the trained network's map", "Images")
    return Drawn("Cascading randomisation", svg(figure, name, text=f"Cascade: {text}."), columns, rows)


def cost_figure(table: Table, *, name: str) -> Drawn:
    """Plot the seconds per map, on a logarithmic axis."""
    entries = sorted((entry for entry in table["methods"] if entry["seconds"]), key=lambda entry: entry["seconds"])
    with mpl.rc_context(SETTINGS):
        figure, ax = lines(len(entries), height=0.19)
        for y, entry in enumerate(entries):
            ax.plot([entry["seconds"]], [y], "o", color=BLUE, ms=5)
        ax.set_xscale("log")
        seconds = [entry["seconds"] for entry in entries] or [1.0]
        ticks = [t for t in (0.001, 0.01, 0.1, 1, 10, 100, 1000) if min(seconds) / 5 <= t <= max(seconds) * 5]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        ax.set_yticks(range(len(entries)), [entry["method"] for entry in entries])
        ax.set_xlabel("seconds per map")
    rows = [(entry["method"], f"{entry['seconds']:.3g}", f"{entry['passes']:.0f}") for entry in entries]
    text = "; ".join(f"{row[0]} {row[1]} s, {row[2]} passes" for row in rows)
    return Drawn("Cost", svg(figure, name, text=f"Cost: {text}."), ("Method", "Seconds", "Forward passes"), rows)


def ordered(table: Table) -> Sequence[Mapping[str, Any]]:
    """Return the methods in the order of the page: by localisation, or else by faithfulness."""
    kinds = {what for ranks in table["ranks"].values() for what in ranks}
    return of_kind(table, "localisation" if "localisation" in kinds else "faithfulness")
