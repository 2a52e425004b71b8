"""Write a study file for a folder or a table, from the recognised columns and files."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camscope.cohort.cohort import Cohort
from camscope.cohort.draft import Draft
from camscope.cohort.hub_dataset import DATASET, is_dataset
from camscope.cohort.open_table import PatientSource, note_on_training, notes_on, patient_source
from camscope.cohort.sections import LabelRule
from camscope.errors import SettingError
from camscope.models.model import Model

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_COMMENTS = {
    "table": "",
    "root": "folder to which the paths of images and masks are relative",
    "image": "column of the images, or a template with columns in braces",
    "search": "each image is searched by its name below root",
    "patient": "images of one patient are never counted as independent",
    "split": "training, validation and test set",
    "columns": "columns computed from other columns",
    "join": "tables with further columns",
    "only": "rows that are kept",
    "boxes": "table with one row per box",
    "reader": "column with the reader of the image",
    "votes": "readers that must agree",
    "group": "folders of the overlays, and groups of the results",
    "masks": "for the regions mask:NAME, inside:NAME, outside:NAME",
    "strata": "results are tabulated by these",
}


@dataclass(frozen=True)
class InitResult:
    """The result of recognising a folder or table.

    Attributes:
        layout: name of the layout; "" for a table without a known one.
        images: number of images.
        missing: number of them whose file is missing.
        patients: number of patients; 0 if none is known.
        patient_source: source of the patients.
        views: group -> number of images.
        labels: label -> number of cases with it, without it, and with unknown truth.
        masks: mask -> number of images that have it.
        notes: remarks, such as skipped columns.
        text: text of the study file.
    """

    layout: str
    images: int
    missing: int
    patients: int
    patient_source: PatientSource
    views: Mapping[str, int]
    labels: Mapping[str, tuple[int, int, int]]
    masks: Mapping[str, int]
    notes: Sequence[str]
    text: str


def init_study(draft: Draft, file: Path, *, model: Model | None, settings: Mapping[str, Any]) -> InitResult:
    """Make the study file of a proposed cohort.

    Args:
        draft: the cohort.
        file: path of the study file, to which paths are relative; the file is not written.
        model: the model of all labels; None for no model.
        settings: settings of the model, as in ``model = {...}``.

    Raises:
        SettingError: neither the data nor the model have labels.
        StudyError: a table cannot be read.
    """
    notes = list(draft.notes)
    labels = {name: dict(rule) for name, rule in draft.labels.items()}
    if not labels and model is not None:
        labels = {name: {} for name in model.labels}
        notes.append("no column has labels: the truth is unknown, and all cases are explained")
    if not labels:
        where = f" in the columns {', '.join(draft.searched)}" if draft.searched else ""
        text = "call the column of labels 'label'"
        if (draft.folder / str(draft.cohort["table"])).is_dir():
            where, text = " in the names of folders", "put the images of each class in a folder"
        text += ", or give --model, whose classes become labels"
        raise SettingError(f"no labels were found{where}: {text}")
    cohort = Cohort(
        draft.section, {name: LabelRule.model_validate(rule) for name, rule in labels.items()}, draft.folder
    )
    cases = [case for case in cohort.cases() if "" not in case.problems]
    truths = {name: Counter(case.truth[name] for case in cases) for name in labels}
    counts = {name: (truth[True], truth[False], truth[None]) for name, truth in truths.items()}
    if rare := [name for name in labels if labels[name] and not counts[name][0]]:
        notes.append(f"left out, since no case has it: {', '.join(rare)}")
    labels = {name: rule for name, rule in labels.items() if name not in rare}
    if model is not None:
        labels, more = _with_model(labels, model, settings)
        notes += more
    missing = cohort.missing_images()
    notes += [*notes_on(cohort, option="cohort.patient"), *note_on_training(cohort)]
    notes += [missing.text] if missing else []
    notes += _note_on_rows(cohort)
    masks = Counter(name.removeprefix("label:") for case in cases for name in case.masks)
    views = Counter("/".join(case.group) or "unknown" for case in cases)
    return InitResult(
        layout=draft.layout,
        images=len(cases),
        missing=sum(not Path(case.source).exists() for case in cases) if missing else 0,
        patients=len({case.patient for case in cases} - {""}),
        patient_source=patient_source(cohort),
        views=dict(views.most_common()) if draft.section.group else {},
        labels={name: counts[name] for name in labels if name in counts},
        masks=dict(masks),
        notes=list(dict.fromkeys(notes)),
        text=_study_text(draft, file, labels, notes),
    )


def _note_on_rows(cohort: Cohort) -> list[str]:
    """Return a note on rows with problems."""
    problems = [problem for problem in cohort.problems() if problem.line is not None]
    if not problems:
        return []
    text = f"{len({problem.line for problem in problems})} of {len(cohort)} rows have a problem"
    return [f"{text}, the first in line {problems[0].line}: {problems[0].text} (all: camscope study --check)"]


def _with_model(
    labels: dict[str, dict[str, Any]], model: Model, settings: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the labels for which the model has a class, with the model and the class."""
    value = settings["spec"] if set(settings) == {"spec"} else dict(settings)
    classes = {_plain(name): name for name in model.labels}
    known = {name: classes[_plain(name)] for name in labels if _plain(name) in classes}
    if not known:
        named = {name: {**rule, "model": value} for name, rule in labels.items()}
        if len(model.labels) == len(labels) == 1:
            return named, []
        listed = ", ".join(model.labels[:8])
        return named, [f"no class of the model is called like a label ({listed}): say which with class = in each label"]
    left = [name for name in labels if name not in known]
    notes = [f"left out, since the model has no such class: {', '.join(left)}"] if left else []
    return {
        name: {**labels[name], "model": value, **({} if label == name else {"class": label})}
        for name, label in known.items()
    }, notes


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _study_text(draft: Draft, file: Path, labels: Mapping[str, Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Return the study file as text, with comments."""
    settings = _moved(draft.cohort, draft.folder, file.absolute().parent)
    lines = [f"# Written by camscope init{f': {draft.layout}' if draft.layout else ''}. Settings: docs/study.md."]
    lines += [f"# {note}" for note in dict.fromkeys(notes)]
    lines += ["", "[cohort]"]
    ordered = [*(name for name in _COMMENTS if name in settings), *(name for name in settings if name not in _COMMENTS)]
    for name in ordered:
        comment = _COMMENTS.get(name)
        lines.append(f"{name} = {toml(settings[name])}" + (f"  # {comment}" if comment else ""))
    for name, rule in labels.items():
        lines += ["", f"[labels.{_key(name)}]", *(f"{_key(key)} = {toml(value)}" for key, value in rule.items())]
        if "model" not in rule:
            lines.append('# model = "..."  # a bundle, a model name, or { spec = ..., weights = ... }')
    when = "present" if any("column" in rule for rule in labels.values()) else "all"
    lines += ["", "[explain]", 'methods = ["gradcam"]', f'when = "{when}"  # "present", "predicted" or "all"']
    if when == "present":
        disease = ["mask:label"] if any("mask" in rule for rule in labels.values()) else []
        shortcuts = [
            "border:0.10",
            *(f"outside:{name}" for name in settings.get("masks", {}) if "lung" in name.lower()),
        ]
        lines += ["", "[audit]", *([f"disease = {toml(disease)}"] if disease else [])]
        lines.append(f"shortcuts = {toml(shortcuts)}")
    return "\n".join(lines) + "\n"


def _moved(settings: Mapping[str, Any], folder: Path, target: Path) -> dict[str, Any]:
    """Return the settings of a cohort with their paths relative to another folder."""

    def placed(path: str) -> str:
        if path.startswith(DATASET):
            name, mark, split = path.removeprefix(DATASET).partition("#")
            return f"{DATASET}{placed(name)}{mark}{split}" if (folder / name).exists() else path
        return path if is_dataset(path) else Path(os.path.relpath(folder / path, target)).as_posix()

    def walked(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: moved[key](value) if key in moved else walked(value) for key, value in content.items()}
        return [walked(part) for part in content] if isinstance(content, list) else content

    def moved_table(table: Any) -> Any:
        return {**table, "path": placed(table["path"])} if isinstance(table, dict) else placed(table)

    def moved_lists(lists: Mapping[str, str]) -> dict[str, str]:
        return {split: placed(path) for split, path in lists.items()}

    moved = {"table": moved_table, "lists": moved_lists}
    root = placed(settings.get("root", "."))
    result: dict[str, Any] = walked(settings)
    return result | ({"root": root} if root != "." else {})


def toml(value: Any) -> str:
    """Return a value as TOML.

    >>> toml({"from": "Path", "on": ["a b", 1], "x y": True})
    '{ from = "Path", on = ["a b", 1], "x y" = true }'
    """
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {toml(part)}' for key, part in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
