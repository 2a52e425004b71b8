"""Figures of the training report, each with a table of its numbers."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from camscope.page.lines import BLUE, GREY, ORANGE, VERMILLION, WIDTH, Drawn, ends, lines, whisker
from camscope.page.svg import SETTINGS, svg
from camscope.page.words import interval, short
from camscope.training.evaluate import Bin, Predictions

_TINTS, _INK = ("#ffffff", "#0072b2"), "#1b2330"
_TITLE = 32  # letters of a line of a title
_MANY = 400  # points of a curve; more cannot be seen

Rows = Sequence[Mapping[str, float]]


def curves_figure(history: Rows) -> Drawn:
    """Plot the loss, AUC and F1 of each epoch."""
    epochs = [int(row["epoch"]) + 1 for row in history]
    panels = {
        "loss": {"train_loss": ("training", ORANGE, "--"), "val_loss": ("validation", BLUE, "-")},
        "AUC and F1, validation": {"val_auc": ("AUC", BLUE, "-"), "val_f1": ("F1", ORANGE, "--")},
    }
    best = min(history, key=lambda row: row["val_loss"])
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(2 * WIDTH, 2.3), layout="constrained")
        for n, (title, curves) in enumerate(panels.items()):
            ax = figure.add_subplot(1, 2, n + 1)
            for key, (words, colour, style) in curves.items():
                ax.plot(epochs, [row.get(key, np.nan) for row in history], style, color=colour, label=words, marker=".")
            ax.axvline(best["epoch"] + 1, color=GREY, lw=1, ls=(0, (2, 2)))
            ax.set(title=title, xlabel="epoch (dotted: the one that was kept)")
            ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
            ax.legend()
            if n:
                ax.set_ylim(0, 1.03)
    columns = [key for key in history[0] if key != "epoch"]
    rows = [(str(int(r["epoch"]) + 1), *(f"{r[key]:.4g}" if key in r else "" for key in columns)) for r in history]
    text = (
        f"{len(history)} epochs; the lowest validation loss is {best['val_loss']:.3f} in epoch {int(best['epoch']) + 1}"
    )
    names = ("Epoch", *(key.replace("_", " ") for key in columns))
    return Drawn("Course of training", svg(figure, "curves", text=f"{text}."), names, rows)


def auc_figure(figures: Mapping[str, Any]) -> Drawn:
    """Plot the AUC of each label with its confidence interval."""
    labels = figures["labels"]
    with mpl.rc_context(SETTINGS):
        figure, ax = lines(len(labels))
        for y, entry in enumerate(labels.values()):
            whisker(ax, y, *ends(entry["auc"]), colour=BLUE)
        ax.axvline(0.5, color=VERMILLION, lw=1, ls=(0, (4, 3)))
        ax.set(xlim=(0, 1), xlabel="AUC (dashed: chance)")
        ax.set_yticks(range(len(labels)), [short(label, 20) for label in labels])
    kinds = ("auc", "f1", "sensitivity", "specificity")
    rows = [
        (label, str(entry["present"]), str(entry["absent"]), *(interval(entry[kind]) for kind in kinds))
        for label, entry in labels.items()
    ]
    text = "; ".join(f"{row[0]} {row[3]}" for row in rows)
    columns = ("Label", "Present", "Absent", "AUC (95 %)", "F1 (95 %)", "Sensitivity (95 %)", "Specificity (95 %)")
    return Drawn("AUC of each label", svg(figure, "auc", text=f"AUC: {text}."), columns, rows)


def confusion_figures(predictions: Predictions, counts: npt.NDArray[np.int64], *, most: int) -> list[Drawn]:
    """Plot confusion matrices with counts and rates: one of all classes, or one per label."""
    labels = predictions.model.labels
    if predictions.model.outcome == "one":
        return [_confusion("Confusion matrix", counts, labels, name="confusion")]
    return [
        _confusion(label, matrix, (f"no {short(label, 14)}", label), name=f"confusion{n}")
        for n, (label, matrix) in enumerate(zip(labels[:most], counts, strict=False))
    ]


def confusion_picture(predictions: Predictions, counts: npt.NDArray[np.int64], *, most: int) -> bytes:
    """Return the confusion matrices as a PNG file: one of all classes, or one per label."""
    labels, title = predictions.model.labels, ""
    if predictions.model.outcome == "one":
        matrices = [("Confusion matrix", counts, labels)]
    else:
        pairs = zip(labels[:most], counts, strict=False)
        matrices = [("\n".join(_wrapped(label)), matrix, ("absent", "present")) for label, matrix in pairs]
        title = f"the first {most} of {len(labels)} labels" if len(labels) > most else ""
    columns = min(len(matrices), 4)
    rows = math.ceil(len(matrices) / columns)
    side = _side(matrices[0][2])
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(columns * side, rows * 0.85 * side), layout="constrained")
        for n, (name, matrix, names) in enumerate(matrices):
            ax = figure.add_subplot(rows, columns, n + 1)
            _draw_confusion(ax, matrix, names)
            ax.set_title(name)
        figure.suptitle(title)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=160)
    return content.getvalue()


def _wrapped(title: str) -> list[str]:
    """Return the lines of a title above a matrix, two at most."""
    return textwrap.wrap(" ".join(title.split()), _TITLE, max_lines=2, placeholder="…")


def _side(labels: Sequence[str]) -> float:
    """Return the width of a confusion matrix, in inches."""
    return min(max(WIDTH, 0.62 * len(labels) + 1.2), 9)


def _draw_confusion(ax: Axes, counts: npt.NDArray[np.int64], labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """Draw a confusion matrix, and return its rates by row; NaN for a row without images."""
    totals = counts.sum(1, keepdims=True)
    rates: npt.NDArray[np.float64] = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    tint = mpl.colors.LinearSegmentedColormap.from_list("tint", _TINTS)
    ax.pcolormesh(rates, cmap=tint, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (row, column), rate in np.ndenumerate(rates):
        ink = "white" if rate > 0.5 else _INK
        text = f"{counts[row, column]}\n{rate:.0%}" if rate == rate else ""
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=8)
    for row in np.flatnonzero(totals[:, 0] == 0).tolist():
        ax.text(len(labels) / 2, row + 0.5, "no images", ha="center", va="center", color=_INK, fontsize=8)
    places, names = np.arange(len(labels)) + 0.5, [short(label, 22) for label in labels]
    turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if len("".join(names)) > 24 else {}
    ax.set_xticks(places, names, **turned)
    ax.set_yticks(places, names)
    ax.set(xlabel="the model says", ylabel="truth")
    ax.invert_yaxis()
    for spine in ax.spines.values():
        spine.set_visible(False)
    return rates


def _confusion(title: str, counts: npt.NDArray[np.int64], labels: Sequence[str], *, name: str) -> Drawn:
    side = _side(labels)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(side, 0.8 * side), layout="constrained")
        rates = _draw_confusion(figure.add_subplot(), counts, labels)
    rows = [
        (
            label,
            *(
                f"{n} ({rate:.0%})" if rate == rate else "no images"
                for n, rate in zip(counts[k], rates[k], strict=True)
            ),
        )
        for k, label in enumerate(labels)
    ]
    text = f"{title}: {int(np.trace(counts))} of {int(counts.sum())} on the diagonal."
    return Drawn(title, svg(figure, name, text=text), ("Truth", *(f"says {label}" for label in labels)), rows)


def ranking_figures(predictions: Predictions, figures: Mapping[str, Any], *, most: int) -> list[Drawn]:
    """Plot the ROC and precision-recall curves of each label that has both present and absent cases."""
    panels = []
    for n, label in enumerate(predictions.model.labels[:most]):
        truth, p = predictions.truth[:, n], predictions.probabilities[:, n]
        mask = ~np.isnan(truth)
        truth, p = truth[mask] == 1, p[mask]
        if truth.all() or not truth.any():
            continue
        with mpl.rc_context(SETTINGS):
            figure = Figure(figsize=(WIDTH, 1.95), layout="constrained")
            false, true, _ = roc_curve(truth, p)
            precision, recall, _ = precision_recall_curve(truth, p)
            left, right = figure.subplots(1, 2)
            left.plot([0, 1], [0, 1], color=VERMILLION, lw=1, ls=(0, (4, 3)))
            left.plot(*_thin(false, true), color=BLUE, lw=1.6)
            left.set(title="ROC", xlabel="1 − specificity", ylabel="sensitivity")
            right.axhline(truth.mean(), color=VERMILLION, lw=1, ls=(0, (4, 3)))
            right.step(*_thin(recall, precision), color=BLUE, lw=1.6, where="post")
            right.set(title="precision, recall", xlabel="recall", ylabel="precision")
            for ax in (left, right):
                _unit_square(ax)
        auc = interval(figures["labels"][label]["auc"])
        panels.append(Drawn(label, svg(figure, f"roc{n}", text=f"ROC and precision-recall of {label}: AUC {auc}.")))
    return panels


def calibration_figure(bins: Sequence[Bin], error: float, *, one: bool) -> Drawn:
    """Plot the certainty of the model against how often it is right."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        ax = figure.add_subplot()
        ax.plot([0, 1], [0, 1], color=VERMILLION, lw=1, ls=(0, (4, 3)))
        most = max(b.pictures for b in bins)
        ax.plot([b.said for b in bins], [b.found for b in bins], "-", color=BLUE, lw=1.2)
        ax.scatter(
            [b.said for b in bins], [b.found for b in bins], s=[12 + 60 * b.pictures / most for b in bins], c=BLUE
        )
        y_label = "how often it is right" if one else "how often the label is there"
        ax.set(xlabel="probability that the model gives", ylabel=y_label)
        _unit_square(ax)
    rows = [(f"{b.said:.2f}", f"{b.found:.2f}", str(b.pictures)) for b in bins]
    text = f"Calibration: expected error {error:.3f} over {sum(b.pictures for b in bins)} answers."
    columns = ("Probability", y_label[0].upper() + y_label[1:], "Answers")
    return Drawn("Calibration", svg(figure, "calibration", text=text), columns, rows)


def _thin(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    indices = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MANY)).astype(int))
    return x[indices], y[indices]


def _unit_square(ax: Axes) -> None:
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    ax.set_xticklabels(["0", ".5", "1"])
    ax.set_yticklabels(["0", ".5", "1"])
