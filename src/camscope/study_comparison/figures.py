"""Draw the figures of a comparison: each effect and AUC of A and of B, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from camscope.page.lines import BLUE, GREY, ORANGE, Drawn, lines, plain_ticks, whisker
from camscope.page.svg import SETTINGS, svg
from camscope.page.words import interval, number, p_value, short
from camscope.report.words import region_words
from camscope.statistics.intervals import Interval
from camscope.statistics.paired import PairedDifference
from camscope.study_comparison.differences import AucDifference, EffectDifference, HeatDifference

_AB = {"A": GREY, "B": BLUE}
_MOST = 30


def effect_figure(label: str, effects: Sequence[EffectDifference], *, name: str) -> Drawn | None:
    """Draw the largest effects of a label in A and in B, in SD of each model."""
    if not effects:
        return None
    largest = sorted(effects, key=lambda e: -max(abs(e.sd.first.estimate), abs(e.sd.second.estimate)))[:_MOST]
    shown = [effect for effect in effects if effect in largest]
    with mpl.rc_context(SETTINGS):
        figure = _dumbbells([(_words(e), e.sd) for e in shown], xlabel="effect in SD of each model", zero=0.0)
        ax = figure.axes[0]
        ax.set_xscale("symlog", linthresh=1, linscale=1.2)
        widest = 1.3 * max(1.0, *(abs(v) for e in shown for i in (e.sd.first, e.sd.second) for v in _ends(i)))
        ax.set_xlim(-widest, widest)
        plain_ticks(ax, [t for t in (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100) if abs(t) <= widest])
    rows = [(_words(e), *_numbers(e.sd)) for e in shown]
    text = "; ".join(f"{row[0]}: A {row[1]}, B {row[2]}" for row in rows)
    return Drawn(label, svg(figure, name, text=f"Effects for {label}. {text}."))


def auc_figure(aucs: Sequence[tuple[str, AucDifference]], *, name: str) -> Drawn:
    """Draw the AUC of each label in A and in B."""
    with mpl.rc_context(SETTINGS):
        figure = _dumbbells([(label, auc.auc) for label, auc in aucs], xlabel="AUC (dashed: chance)", zero=0.5)
        figure.axes[0].set_xlim(min(0.4, *(v for _, auc in aucs for v in _ends(auc.auc.first, auc.auc.second))), 1)
    rows = [(label, str(a.images), str(a.positive), *_numbers(a.auc), p_value(a.p_adjusted)) for label, a in aucs]
    text = "; ".join(f"{row[0]}: A {row[3]}, B {row[4]}" for row in rows)
    columns = ("Label", "Images", "Present", "A", "B", "B − A (95 % interval)", "Adjusted p")
    return Drawn("AUC", svg(figure, name, text=f"AUC. {text}."), columns, rows)


def heat_figure(label: str, heat: Sequence[HeatDifference], *, name: str) -> Drawn | None:
    """Draw the enrichment of each region in A and in B."""
    if not heat:
        return None
    with mpl.rc_context(SETTINGS):
        entries = [(region_words(entry.region), entry.enrichment) for entry in heat]
        figure = _dumbbells(entries, xlabel="enrichment (dashed: chance)", zero=1.0)
    rows = [
        (
            region_words(entry.region),
            str(entry.images),
            str(entry.enrichment.patients),
            *_numbers(entry.enrichment),
            p_value(entry.p_adjusted),
        )
        for entry in heat
    ]
    text = "; ".join(f"{row[0]}: A {row[3]}, B {row[4]}" for row in rows)
    columns = ("Region", "Images", "Patients", "A", "B", "B − A (95 % interval)", "Adjusted p")
    return Drawn(label, svg(figure, name, text=f"Heat in regions for {label}. {text}."), columns, rows)


def _dumbbells(entries: Sequence[tuple[str, PairedDifference]], *, xlabel: str, zero: float) -> Figure:
    """Return a figure with A and B of each entry on one line."""
    figure, ax = lines(len(entries), height=0.5)
    for y, (text, entry) in enumerate(entries):
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # the dashed line does not cross the words
        words: dict[str, Any] = {"fontsize": 8, "va": "bottom", "bbox": behind}
        ax.text(0, y - 0.3, short(text, 62), transform=ax.get_yaxis_transform(), **words)
        for offset, estimate, colour in zip((-0.13, 0.13), (entry.first, entry.second), _AB.values(), strict=True):
            whisker(ax, y + 0.12 + offset, *_limits(estimate), colour=colour)
    ax.axvline(zero, color=ORANGE, lw=1, ls=(0, (4, 3)))
    ax.set_xlabel(xlabel)
    ax.set_yticks([])
    ax.set_ylim(len(entries) - 0.6, -0.8)
    handles = [mpl.lines.Line2D([], [], color=colour, marker="o", lw=2, ms=5) for colour in _AB.values()]
    figure.legend(handles, list(_AB), loc="outside upper left", ncols=2)
    return figure


def _limits(estimate: Interval) -> tuple[float, float, float]:
    return estimate.low, estimate.high, estimate.estimate


def _ends(*estimates: Interval) -> list[float]:
    return [v for estimate in estimates for v in _limits(estimate) if not np.isnan(v)] or [0.0]


def _numbers(entry: PairedDifference) -> tuple[str, str, str]:
    return interval(vars(entry.first)), interval(vars(entry.second)), _difference(entry)


def _difference(entry: PairedDifference) -> str:
    return interval(vars(entry.difference) | {"reason": entry.why_no_interval})


def _words(effect: EffectDifference) -> str:
    by = f" by {region_words(effect.by)}" if effect.by else ""
    return f"{region_words(effect.region)}: {effect.test}{by}, {effect.stratum}"


def effect_rows(label: str, effects: Sequence[EffectDifference]) -> list[tuple[str, ...]]:
    """Return the rows of the table of effects of a label."""
    return [
        (
            label,
            _words(effect),
            str(effect.images),
            str(effect.sd.patients),
            number(effect.sd.first.estimate),
            number(effect.sd.second.estimate),
            _difference(effect.sd),
            p_value(effect.p_adjusted),
            number(effect.log_odds.first.estimate),
            number(effect.log_odds.second.estimate),
            _difference(effect.log_odds),
        )
        for effect in effects
    ]
