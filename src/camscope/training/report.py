"""Report page of a model: its metrics, and its failures explained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from camscope.delimited import read_records
from camscope.errors import DelimitedError, StoreError, reason
from camscope.explanation import Explanation
from camscope.explanation.figures import layers
from camscope.explanation.result import certainty
from camscope.files import write_atomically
from camscope.images import read
from camscope.page.lines import Drawn
from camscope.page.pictures import data_address
from camscope.page.shell import rendered
from camscope.page.words import interval
from camscope.progress import Progress
from camscope.training.dataset import SPLITS, Dataset
from camscope.training.evaluate import Predictions, calibration, confusion, judge, write_predictions
from camscope.training.failures import ExplainedFailure, explain_failures, find_failures, worst, write_failures
from camscope.training.figures import (
    auc_figure,
    calibration_figure,
    confusion_figures,
    confusion_picture,
    curves_figure,
    ranking_figures,
)
from camscope.training.samples import MOST_LABELS, SIDE, sample_sheet

PAGE, METRICS, HISTORY, CONFUSION = "report.html", "metrics.json", "history.csv", "confusion_matrix.png"

_SMALL = 100
"""Number of patients below which a test set is called small."""


def report(
    predictions: Predictions,
    folder: str | Path,
    *,
    dataset: Dataset | None = None,
    method: str = "gradcam",
    layer: str | None = None,
    seed: int = 0,
    progress: Progress = lambda *_: None,
    used: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Evaluate predictions and write the report page.

    Writes ``report.html``, which loads nothing from the network; ``metrics.json``; ``predictions.csv``, one row per
    image; ``failures.csv``, one row per mistake; ``confusion_matrix.png``.

    Args:
        predictions: predictions of a model on labelled images.
        folder: output folder; created if missing.
        dataset: dataset of the training, for samples and splits; with it, the folder's ``history.csv`` is drawn.
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)".
        layer: name of the target layer; None for the model's own, or else `default_layer`.
        seed: random seed of the confidence intervals.
        progress: called with the name of a step, the number done, and the total.
        used: sha256 of each file of the training -> its split, from `splits_of_files`; empty or None if unknown.

    Returns:
        The content of ``metrics.json``: metrics with their intervals, overall and per label. With ``used``,
        "of_training" has the number of the images that are in each split of the training.
    """
    folder = Path(folder)
    figures = judge(predictions, seed=seed)
    if used:
        counts = Counter(used.get(case.sha256) for case in predictions.cases)
        figures["of_training"] = {split: counts[split] for split in SPLITS}
    failures = find_failures(predictions)
    worst_failures = worst(failures, predictions.model)
    explained = list(explain_failures(predictions, worst_failures, method=method, layer=layer, progress=progress))
    mistakes = len({f.number for f in failures})
    text = _page(predictions, figures, explained, folder=folder, dataset=dataset, mistakes=mistakes, method=method)
    write_predictions(predictions, folder)
    write_failures(predictions, failures, folder)
    picture = confusion_picture(predictions, confusion(predictions), most=MOST_LABELS)
    write_atomically(folder / CONFUSION, lambda file: file.write(picture))
    content = json.dumps(figures, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(folder / METRICS, lambda file: file.write(content.encode()))
    write_atomically(folder / PAGE, lambda file: file.write(text.encode("utf-8", "replace")))
    return figures


def _page(
    predictions: Predictions,
    figures: Mapping[str, Any],
    explained: Sequence[ExplainedFailure],
    *,
    folder: Path,
    dataset: Dataset | None,
    mistakes: int,
    method: str,
) -> str:
    model = predictions.model
    single = model.outcome == "one"
    history = [] if dataset is None else read_history(folder / HISTORY)
    samples = None if dataset is None else sample_sheet(dataset)
    bins = calibration(predictions)
    content = {
        "model": model.name,
        "labels": model.labels,
        "headline": _headline(figures, one=single),
        "lead": _lead(figures, held_out=dataset is not None),
        "warnings": _warnings(figures, model.facts),
        "figures": figures,
        "mistakes": mistakes,
        "failed": predictions.faults | ({} if dataset is None else dataset.problems),
        "auc": _safe(auc_figure(figures)),
        "calibration": _safe(calibration_figure(bins, figures["ece"], one=single)),
        "history": history,
        "curves": _safe(curves_figure(history)) if history else None,
        "samples": data_address(samples) if samples is not None else "",
        "splits": model.facts.get("training", {}).get("splits", {}),
        "shortcuts": _shortcuts(model.facts.get("training", {})),
        "confusion": [_safe(d) for d in confusion_figures(predictions, confusion(predictions), most=MOST_LABELS)],
        "ranking": [_safe(d) for d in ranking_figures(predictions, figures, most=MOST_LABELS)],
        "first": "" if single or len(model.labels) <= MOST_LABELS else f" The first {MOST_LABELS} labels are shown.",
        "against": not single,
        "groups": _groups(explained),
        **_worst_sheet(predictions, explained, method=method),
        "record": _record(model.facts, predictions),
    }
    return rendered("judged.html.j2", content, package="camscope.training")


def _headline(figures: Mapping[str, Any], *, one: bool) -> str:
    what = "images" if one else "labels"
    return f"Accuracy {interval(figures['accuracy'])} over {what}"


def _lead(figures: Mapping[str, Any], *, held_out: bool) -> str:
    clause = " that were not used in training" if held_out else ""
    return f"Macro F1 {interval(figures['f1'])}, on {figures['pictures']} images of {people(figures)}{clause}."


def people(figures: Mapping[str, Any]) -> str:
    """Return the number of patients in words.

    >>> people({"patients": 12}), people({"patients": None})
    ('12 patients', 'unknown patients (each image counts as one)')
    """
    count = figures["patients"]
    return "unknown patients (each image counts as one)" if count is None else f"{count} patients"


def _warnings(figures: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    warnings = list(figures["notes"])
    count, what = (figures["pictures"], "images") if figures["patients"] is None else (figures["patients"], "patients")
    if count < _SMALL:
        warnings.append(f"Only {count} {what}: the intervals are wide, and rare mistakes may be missed.")
    if figures["patients"] is None:
        warnings.append("The patients are unknown. If patients have several images, the results may be too good.")
    if text := seen_in_training(figures):
        warnings.append(text)
    origin = facts.get("training", {}).get("start", "")
    if origin == "random weights":
        warnings.append("Training started from random weights, not from published ones.")
    return warnings


def seen_in_training(figures: Mapping[str, Any]) -> str:
    """Return how many of the images the training used, as a sentence; "" if it used none or that is unknown.

    >>> seen_in_training({"pictures": 9, "of_training": {"train": 6, "val": 1, "test": 2}})
    'The model was trained on 6 of these 9 images, and 1 chose its weights: the results are too good.'
    """
    counts = figures.get("of_training", {})
    train, val = counts.get("train", 0), counts.get("val", 0)
    if not train + val:
        return ""
    clause = f", and {val} chose its weights" if val else ""
    return f"The model was trained on {train} of these {figures['pictures']} images{clause}: the results are too good."


def _shortcuts(training: Mapping[str, Any]) -> list[str]:
    """Return what the training did against shortcuts, one sentence per setting."""
    settings = training.get("settings", {})
    texts = []
    if regions := ", ".join(settings.get("hide", ())):
        texts.append(f"Hidden in every training image: {regions}.")
    if exchanged := ", ".join(settings.get("exchange", ())):
        texts.append(f"Taken from another image in every training and validation image: {exchanged}.")
    if cue := settings.get("balance"):
        texts.append(f"The loss gives each combination of label and {cue} the same weight.")
    if cue := settings.get("group_dro"):
        texts.append(f"The loss gives most weight to the combination of label and {cue} with the highest loss.")
    if groups := training.get("groups"):
        texts.append(f"Training images: {'; '.join(f'{name}: {count}' for name, count in groups.items())}.")
    if mask := settings.get("reasons"):
        texts.append(f"Attribution outside the mask {mask} was penalised.")
    if texts:
        texts.append("This does not show that a shortcut was removed: compare its effect before and after by an audit.")
    return texts


def _groups(explained: Sequence[ExplainedFailure]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for mistake in explained:
        failure = mistake.failure
        title = f"{failure.kind.capitalize()}s of {failure.label}"
        groups.setdefault(title, []).append(
            {
                "said": failure.said,
                "true": failure.true,
                "certainty": certainty(failure.certainty),
                "name": Path(mistake.said.source).name,
                "said_map": _map(mistake.said),
                "true_map": _map(mistake.true),
                "notes": [f"map for {e.label}: {e.why_empty}" for e in (mistake.said, mistake.true) if e.why_empty],
            }
        )
    return [{"title": title, "cards": cards} for title, cards in groups.items()]


def _map(e: Explanation) -> str:
    image = e.overlay()
    image.thumbnail((SIDE, SIDE))
    return data_address(image)


def _worst_sheet(predictions: Predictions, explained: Sequence[ExplainedFailure], *, method: str) -> dict[str, str]:
    """Draw the most certain mistake at every stage of the network, for the prediction."""
    if not explained:
        return {"sheet": "", "worst": ""}
    top = max(explained, key=lambda e: e.failure.certainty)
    target = top.said.index
    if target is None:
        # The evidence against a label is drawn at the last layer above; stages show the label itself.
        target = top.true.index
    label = predictions.model.label(target if target is not None else 0)
    image = layers(predictions.model, read(top.said.source), method=method, target=target)
    image.thumbnail((1200, 2400))
    failure = top.failure
    verdict = f"the model says {failure.said}, {certainty(failure.certainty)}, and the truth is {failure.true}"
    text = f"{Path(top.said.source).name}: {verdict}. The maps are for {label}."
    return {"sheet": data_address(image), "worst": text}


def _record(facts: Mapping[str, Any], predictions: Predictions) -> list[tuple[str, str]]:
    training = facts.get("training", {})
    settings = {f"setting {key}": value for key, value in training.get("settings", {}).items()}
    origins = {key: training[key] for key in ("network", "start", "data_sha256", "split_sha256") if key in training}
    content = {"model": predictions.model.name, "weights": predictions.model.digest} | origins | settings
    content |= {"versions": ", ".join(f"{k} {v}" for k, v in training.get("versions", {}).items())}
    return [(key, str(value)) for key, value in content.items() if value not in ("", None)]


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the trained epochs, in order; none if the file is missing."""
    if not path.is_file():
        return []
    try:
        header, *rows = (record.cells for record in read_records(path.read_text(encoding="utf-8")))
        return [{key: float(value) for key, value in zip(header, row, strict=True) if value} for row in rows]
    except (OSError, ValueError, DelimitedError) as fault:
        raise StoreError(f"{path} is damaged ({reason(fault)}): remove it, and run the same command again") from None


def _safe(figure: Drawn) -> Drawn:
    """Return a figure whose SVG the template inserts without escaping."""
    return Drawn(figure.title, Markup(figure.svg), figure.columns, figure.rows)
