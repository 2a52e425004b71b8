"""Prepare the figure of the reliance map, and the table of acquisition properties."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from camscope.acquisition import PROPERTIES
from camscope.audit.settings import LEVEL
from camscope.page.lines import Drawn
from camscope.page.svg import SETTINGS, svg
from camscope.page.words import interval, number
from camscope.report.mean_maps import LabelMaps
from camscope.report.words import Chip, chip, delta_of

_PANELS = {"response": "response", "use": "use"}


@dataclass(frozen=True)
class PropertyRow:
    """One property of one label in the table.

    Attributes:
        label: the label.
        value: median, and the 5 % and 95 % quantile, of the property.
        auc: AUC of the property for the label.
        group: the group that the property separates best, and the AUC.
        score: AUC of the log-odds for the upper half, by stratum.
        verdict: entry of the table of verdicts.
    """

    label: str
    value: str
    auc: str
    group: str
    score: Sequence[str]
    verdict: Chip


def property_rows(audit: Mapping[str, Any] | None, *, shown: Callable[[str], str] = str) -> Iterator[PropertyRow]:
    """Yield the properties that differ between the images of each label, by label.

    Args:
        audit: content of ``audit.json``.
        shown: returns the shown name of a group.
    """
    for label, content in ({} if audit is None else audit["labels"]).items():
        for name, entry in content.get("properties", {}).items():
            facts = entry["facts"]
            if facts["value"]["low"] == facts["value"]["high"]:
                continue
            aucs = {group: auc for group, auc in facts["groups"].items() if auc["estimate"] is not None}
            best = max(aucs, key=lambda group: abs(aucs[group]["estimate"] - 0.5), default=None)
            yield PropertyRow(
                label,
                f"{_short(facts['value']['median'])} ({_short(facts['value']['low'])} to "
                f"{_short(facts['value']['high'])})",
                interval(facts["label"]),
                "" if best is None else f"{shown(best)}: {interval(aucs[best])}",
                [f"{stratum} {interval(auc)}" for stratum, auc in facts["score"].items()],
                chip(f"property:{name}", entry, delta=delta_of(audit)),
            )


def constant_properties(audit: Mapping[str, Any] | None) -> str:
    """Return the properties that are the same in all images, in words."""
    labels = ({} if audit is None else audit["labels"]).values()
    varying = {row.verdict.region for row in property_rows(audit)}
    names = dict.fromkeys(name for content in labels for name in content.get("properties", {}))
    return ", ".join(PROPERTIES[name].noun for name in names if f"property:{name}" not in varying)


def reliance_figure(maps: LabelMaps, content: Mapping[str, Any], *, name: str) -> Drawn | None:
    """Return the mean heat map of a label beside its reliance map; None if there is no reliance map."""
    reliance = content.get("reliance_map")
    if reliance is None or reliance["reason"]:
        return None
    values = {key: np.array(reliance[key], float) for key in (*_PANELS, "response_p", "use_p")}
    top = max(reliance["delta"], *(float(np.nanmax(values[key])) for key in _PANELS))
    aspect = 1.0 if maps.whole is None else maps.whole.aspect
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(3.6, 1.25 * aspect + 0.75), layout="constrained")
        axes: Any = figure.subplots(1, 3)
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].set_title("mean heat map", fontsize=8, fontweight="normal", loc="center")
        if maps.whole is not None:
            axes[0].imshow(maps.whole.at((96, 96)), cmap="Greys", vmin=0, aspect=aspect)
        image = None
        for ax, (key, title) in zip(axes[1:], _PANELS.items(), strict=True):
            ax.set_title(title, fontsize=8, fontweight="normal", loc="center")
            image = ax.imshow(values[key], cmap="RdBu_r", vmin=-top, vmax=top, aspect=aspect)
            marked = (values[f"{key}_p"] < LEVEL) & (values[key] > reliance["delta"])
            rows, columns = np.nonzero(marked)
            ax.scatter(columns, rows, s=14, marker="o", facecolors="none", edgecolors="black", linewidths=1)
        if image is not None:
            figure.colorbar(image, ax=axes, fraction=0.05, shrink=0.8, label="SD").outline.set_visible(False)
    table = [
        (f"row {i + 1}, column {j + 1}", *(_short(v[i, j]) for v in values.values()))
        for i, j in np.argwhere((values["response_p"] < LEVEL) | (values["use_p"] < LEVEL)).tolist()
    ]
    columns_ = ("Cell", "Response, SD", "Use, SD", "p of the response", "p of the use")
    return Drawn(maps.label, svg(figure, name, text=reliance["sentence"]), columns_, table)


def _short(value: float | None) -> str:
    return number(value) if value is None or abs(value) >= 0.1 else f"{value:.2g}".replace("-", "−")
