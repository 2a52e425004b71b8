"""Draw the figures of a report: intervals, bars and points, each with its numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from camscope.page.lines import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    WIDTH,
    Drawn,
    ends,
    lines,
    plain_ticks,
    whisker,
)
from camscope.page.svg import SETTINGS, svg
from camscope.page.words import interval, number, short
from camscope.report.performance import LabelPerformance
from camscope.report.tables import Slice
from camscope.report.words import region_words
from camscope.statistics.ties import all_tied, tied

_MOST_POINTS = 1500

Content = Mapping[str, Any]


def auc_figure(label: str, slices: Sequence[Slice], *, name: str) -> Drawn:
    """Draw the AUC of all images, by group and by cue, with intervals."""
    with mpl.rc_context(SETTINGS):
        figure, ax = lines(len(slices))
        for y, part in enumerate(slices):
            colour = BLUE if part.name == "all images" else GREY
            whisker(ax, y, part.auc.low, part.auc.high, part.auc.estimate, colour=colour)
        ax.axvline(0.5, color=VERMILLION, lw=1, ls=(0, (4, 3)))
        ax.set(xlim=(0, 1), xlabel="AUC (dashed: chance)")
        ax.set_yticks(range(len(slices)), [short(part.name, 20) for part in slices])
    texts = [f"{part.name} {interval(vars(part.auc))}" for part in slices]
    return Drawn(
        label,
        svg(figure, name, text=f"AUC of {label}: {'; '.join(texts)}."),
        ("Cases", "Images", "Present", "Patients", "AUC (95 % interval)"),
        [(s.name, str(s.cases), str(s.positive), str(s.patients), interval(vars(s.auc))) for s in slices],
    )


def calibration_figure(performance: LabelPerformance, *, name: str) -> Drawn | None:
    """Draw the observed frequency over the predicted probability, with intervals."""
    if performance.calibrated is None:
        return None
    points = performance.calibrated.points
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        ax = figure.add_subplot()
        ax.grid(visible=True, axis="both")
        ax.set_axisbelow(True)
        ax.plot([0, 1], [0, 1], color=VERMILLION, lw=1, ls=(0, (4, 3)))
        ax.plot([point.probability for point in points], [p.observed.estimate for p in points], color=BLUE, lw=1)
        for point in points:
            x, ends_ = point.probability, (point.observed.low, point.observed.high)
            ax.plot([x, x], ends_, color=BLUE, lw=1.4, alpha=0.55, solid_capstyle="butt", clip_on=False)
            ax.plot([x], [point.observed.estimate], "o", color=BLUE, ms=5, clip_on=False)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="share of images with the label")
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    rows = [(number(p.probability), interval(vars(p.observed)), f"{p.cases:,}", f"{p.patients:,}") for p in points]
    text = "; ".join(f"predicted {row[0]}, observed {row[1]}" for row in rows)
    columns = ("Mean probability", "Observed share (95 % interval)", "Images", "Patients")
    return Drawn(
        performance.label, svg(figure, name, text=f"Reliability curve of {performance.label}: {text}."), columns, rows
    )


def decision_figure(performance: LabelPerformance, *, name: str) -> Drawn | None:
    """Draw the net benefit over the threshold probability, with treating all and treating none."""
    if performance.calibrated is None:
        return None
    curve = performance.calibrated.decision
    top = 1.12 * max(float(np.nanmax(curve.model)), float(curve.treat_all[0]), 0.05)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        ax = figure.add_subplot()
        ax.grid(visible=True, axis="both")
        ax.set_axisbelow(True)
        ax.fill_between(curve.thresholds, curve.low, curve.high, color="#cfe3f2", lw=0)
        ax.plot(curve.thresholds, curve.model, color=BLUE, lw=1.8, label="model")
        ax.plot(curve.thresholds, curve.treat_all, color=VERMILLION, lw=1.3, ls=(0, (4, 2)), label="treat all")
        ax.axhline(0, color="#55606f", lw=1.3, ls=(0, (1, 1.5)), label="treat none")
        for n, ends_ in enumerate(curve.ranges()):
            words = "shown to be better" if n == 0 else None
            ax.plot(ends_, [-0.16 * top] * 2, color=GREEN, lw=4, solid_capstyle="butt", label=words)
        ax.set(xlim=(0, 1), ylim=(-0.22 * top, top), xlabel="threshold probability", ylabel="net benefit")
        ax.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        figure.legend(loc="outside upper left", ncols=2)
    rows = [
        (
            f"{curve.thresholds[n]:.2f}",
            interval({"low": curve.low[n], "high": curve.high[n], "estimate": curve.model[n]}),
            number(curve.treat_all[n]),
            "yes" if curve.is_better[n] else "no",
        )
        for n in range(len(curve.thresholds))
        if round(100 * curve.thresholds[n]) % 10 == 0 or n in (0, 4)
    ]
    text = "; ".join(f"at {row[0]} model {row[1]}, treat all {row[2]}" for row in rows)
    columns = ("Threshold", "Net benefit (95 % interval)", "Treat all", "Better than all and none")
    return Drawn(
        performance.label, svg(figure, name, text=f"Decision curve of {performance.label}: {text}."), columns, rows
    )


def enrichment_figure(label: str, content: Content, *, name: str) -> Drawn | None:
    """Draw the enrichment of each region with its interval, over the band of the null maps."""
    regions = {region: entry["heat"] for region, entry in content["regions"].items() if entry["heat"]}
    if not regions:
        return None
    rows = []
    with mpl.rc_context(SETTINGS):
        figure, ax = lines(len(regions))
        for y, (region, heat) in enumerate(regions.items()):
            nulls = [v for values in heat["nulls"].values() for v in values if v is not None]
            if nulls:
                low, high = (max(v, _FLOOR) for v in (min(nulls), max(nulls)))
                ax.barh(y, high - low, left=low, height=0.62, color="#dfe4ea", zorder=1)
                ax.plot(np.maximum(nulls, _FLOOR), [y] * len(nulls), "|", color=GREY, ms=9, zorder=2)
            e = heat["enrichment"]
            limits = [None if e[k] is None else max(e[k], _FLOOR) for k in ("low", "high", "estimate")]
            whisker(ax, y, *limits, colour=BLUE)
            band = f"{min(nulls):.2f} to {max(nulls):.2f}" if nulls else "none"
            rows.append((region_words(region), str(heat["cases"]), str(heat["patients"]), interval(e), band))
        ax.axvline(1, color=VERMILLION, lw=1, ls=(0, (4, 3)))
        ax.set(xscale="log", xlabel="heat ÷ area (dashed: uniform map)")
        plain_ticks(ax)
        ax.set_yticks(range(len(regions)), [short(region_words(region), 22) for region in regions])
    text = "; ".join(f"{row[0]} {row[3]}, nulls {row[4]}" for row in rows)
    columns = ("Region", "Maps", "Patients", "Enrichment (95 % interval)", "Nulls")
    return Drawn(label, svg(figure, name, text=f"Enrichment of {label}: {text}."), columns, rows)


def effect_figure(label: str, content: Content, *, delta: float, name: str) -> Drawn | None:
    """Draw the effect of each intervention with its interval, and the effect of each fill-in."""
    effects = [(region, effect) for region, entry in content["regions"].items() for effect in entry["effects"]]
    if not effects:
        return None
    rows = []
    with mpl.rc_context(SETTINGS):
        figure, ax = lines(len(effects), height=0.5)
        ax.axvspan(-delta, delta, color="#dfe4ea", lw=0)
        ax.axvline(0, color=GREY, lw=1)
        for y, (region, effect) in enumerate(effects):
            words = _tested(region, effect)
            ax.axhline(y - 0.45, color="#e3e7ec", lw=0.8)
            ax.text(0, y - 0.26, words, transform=ax.get_yaxis_transform(), fontsize=8, color="#29323d", va="center")
            whisker(ax, y, *ends(effect["effect"]), colour=BLUE if effect["test"] != "insert" else PURPLE)
            for k, (fill, estimate) in enumerate(effect["by_fill"].items()):
                place = y + 0.17 + 0.13 * k
                whisker(ax, place, *ends(estimate), colour=(ORANGE, GREEN, GREY)[k % 3], small=True)
                rows.append((_tested(region, effect), fill, str(effect["patients"]), interval(estimate), "", ""))
            p = effect["p_adjusted"]
            p_text = "" if p is None else f"{p:.4f}"
            power = "" if effect.get("detectable") is None else number(effect["detectable"])
            numbers = (str(effect["patients"]), interval(effect["effect"]), p_text, power)
            rows.append((_tested(region, effect), "all", *numbers))
        ax.set_xscale("symlog", linthresh=1, linscale=1.2)
        estimates = [e for _, effect in effects for e in (effect["effect"], *effect["by_fill"].values())]
        widest = 1.3 * max(1.0, *(abs(v) for e in estimates for v in ends(e) if v is not None))
        ax.set_xlim(-widest, widest)
        plain_ticks(ax, [t for t in (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100) if abs(t) <= widest])
        ax.set_xlabel("change minus sham, SD (band: below delta)")
        ax.set_yticks([])
        ax.set_ylim(len(effects) - 0.4, -0.7)
    text = "; ".join(f"{row[0]} {row[3]}" for row in rows if row[1] == "all")
    effect_columns = ("Effect in SD (95 % interval)", "Adjusted p", "Detectable (power 80 %, one test)")
    columns = ("Region, change, stratum", "Fill-in", "Patients", *effect_columns)
    return Drawn(label, svg(figure, name, text=f"Effects for {label}: {text}."), columns, rows)


def _tested(region: str, effect: Content) -> str:
    by = f" by {region_words(effect['by'])}" if effect["by"] else ""
    return f"{region_words(region)}: {effect['test']}{by}, {effect['stratum']}"


def alignment_figure(cue: str, alignments: Mapping[str, Content], *, name: str) -> Drawn:
    """Draw the AUC of each label with a cue that agrees with the label, is absent, or disagrees."""
    kinds = {"aligned": BLUE, "absent": GREY, "anti": ORANGE}
    words = {"aligned": "agrees", "absent": "no cue", "anti": "disagrees"}
    rows = []
    with mpl.rc_context(SETTINGS):
        figure, ax = lines(len(alignments), height=0.5)
        for y, (label, entry) in enumerate(alignments.items()):
            for k, (kind, colour) in enumerate(kinds.items()):
                place, e = y + 0.24 * (k - 1), entry[kind]
                if e["estimate"] is None:
                    continue
                hatch = "////" if kind == "anti" else None
                ax.barh(place, e["estimate"], height=0.22, color=colour, hatch=hatch, edgecolor="white", lw=0.5)
                if e["low"] is not None:
                    ax.plot([e["low"], e["high"]], [place, place], color="#1b2330", lw=1.1)
            rows.append(
                (label, *(interval(entry[kind]) for kind in (*kinds, "reliance")), "yes" if entry["how"] else "")
            )
        ax.axvline(0.5, color=VERMILLION, lw=1, ls=(0, (4, 3)))
        ax.set(xlim=(0, 1), xlabel="AUC (dashed: chance)")
        ax.set_yticks(range(len(alignments)), [short(label, 18) for label in alignments])
        handles = [
            mpl.patches.Patch(facecolor=colour, hatch="////" if kind == "anti" else None, edgecolor="white")
            for kind, colour in kinds.items()
        ]
        figure.legend(handles, [words[kind] for kind in kinds], loc="outside upper left", ncols=3)
    text = "; ".join(f"{row[0]}: agrees {row[1]}, absent {row[2]}, disagrees {row[3]}" for row in rows)
    columns = ("Label", "Agrees", "Absent", "Disagrees", "Reliance index", "Edited images")
    return Drawn(f"Cue: {cue}", svg(figure, name, text=f"AUC by alignment with {cue}. {text}."), columns, rows)


def mass_figure(label: str, rows: pl.DataFrame, regions: Sequence[str], *, name: str) -> Drawn | None:
    """Draw the score against the mass of the map in each region, for at most 1500 cases."""
    panel_regions = [region for region in regions if rows[f"mass:{region}"].is_not_null().any()]
    if not panel_regions:
        return None
    with mpl.rc_context(SETTINGS):
        across = min(len(panel_regions), 2)
        down = -(-len(panel_regions) // across)
        figure = Figure(figsize=(WIDTH, 1.75 * down + 0.3), layout="constrained", dpi=144)
        table_rows = []
        for n, region in enumerate(panel_regions):
            ax = figure.add_subplot(down, across, n + 1)
            region_rows = rows.filter(pl.col(f"mass:{region}").is_not_null())
            if len(region_rows) > _MOST_POINTS:
                region_rows = region_rows.sample(_MOST_POINTS, seed=0)
            for truth, colour, marker in ((True, BLUE, "o"), (False, ORANGE, "^")):
                part = region_rows.filter(pl.col("truth") == truth)
                ax.scatter(
                    part[f"mass:{region}"],
                    part["log_odds"],
                    s=14,
                    c=colour,
                    marker=marker,
                    alpha=0.65,
                    lw=0,
                    rasterized=True,
                )
            area = float(region_rows[f"area:{region}"].to_numpy().mean())
            ax.axvline(area, color=GREY, lw=1, ls=(0, (2, 2)))
            ax.set_title(short(region_words(region), 22))
            ax.set(xlabel="share of the heat", ylabel="log-odds" if n % across == 0 else "")
            ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
            ax.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            rank = _rank_correlation(region_rows["log_odds"].to_numpy(), region_rows[f"mass:{region}"].to_numpy())
            table_rows.append(
                (
                    region_words(region),
                    str(len(region_rows)),
                    "not defined" if rank != rank else f"{rank:.2f}",
                    f"{area:.3f}",
                )
            )
        marks = [mpl.lines.Line2D([], [], color=c, marker=m, ls="", ms=4) for c, m in ((BLUE, "o"), (ORANGE, "^"))]
        figure.legend(marks, ["label present", "label absent"], loc="outside upper left", ncols=2)
    text = "; ".join(f"{row[0]}: rank correlation {row[2]} over {row[1]} maps" for row in table_rows)
    columns = ("Region", "Maps", "Rank correlation of score and mass", "Mean area")
    return Drawn(label, svg(figure, name, text=f"Score against mass for {label}. {text}."), columns, table_rows)


def _rank_correlation(scores: Any, masses: Any) -> float:
    from scipy.stats import spearmanr

    if len(scores) < 3 or all_tied(scores) or np.ptp(masses) == 0:
        return float("nan")
    return float(spearmanr(tied(scores), masses).statistic)


_FLOOR = 0.02
