"""Estimate the work of a study before it is run."""

from __future__ import annotations

import time
from dataclasses import dataclass

from camscope.cohort.open_table import PatientSource, note_on_training, notes_on, patient_source
from camscope.errors import CamscopeError
from camscope.explanation.batch import BatchExplainer, ResolvedTarget, Sample
from camscope.explanation.method_lookup import find_method
from camscope.images import Picture, read
from camscope.models.device import on_device
from camscope.study.study import Study
from camscope.targets import category

_TRIED = 4


@dataclass(frozen=True)
class StudyPlan:
    """The work of a study.

    Attributes:
        images: number of images.
        patients: number of patients; 0 without a column of patients.
        patient_source: source of the patients: "column", "header" (of each image) or "none".
        notes: remarks on the data.
        rows: number of rows, one per case, label and method.
        forwards: number of images that pass through a model.
        maps: number of maps; an upper limit if it depends on predictions.
        seconds: estimated time on this device; None if no image can be read.
    """

    images: int
    patients: int
    rows: int
    forwards: int
    maps: int
    seconds: float | None
    patient_source: PatientSource = "column"
    notes: tuple[str, ...] = ()


def plan(study: Study, *, device: str = "auto") -> StudyPlan:
    """Count the work of a study, and measure the time of an image."""
    methods, labels = study.file.explain.methods, study.file.labels
    usable = present = 0
    patients = set()
    first: Picture | None = None
    for case in study.cohort.cases():
        if "" in case.problems:
            continue
        usable += 1
        patients.add(case.patient)
        present += sum(bool(truth) for truth in case.truth.values())
        if first is None:
            try:
                first = read(case.source)
            except CamscopeError:
                continue
    maps = present if study.file.explain.when == "present" else usable * len(labels)
    return StudyPlan(
        images=usable,
        patients=len(patients - {""}),
        rows=len(study.cohort) * len(labels) * len(methods),
        forwards=usable * len(study.models),
        maps=maps * len(methods),
        patient_source=patient_source(study.cohort),
        notes=(*notes_on(study.cohort, option="cohort.patient"), *note_on_training(study.cohort)),
        seconds=None if first is None else _seconds(study, first, device=device, maps=maps, images=usable),
    )


def _seconds(study: Study, picture: Picture, *, device: str, maps: int, images: int) -> float:
    """Return the time of reading, forward passes and maps of one image, multiplied by their numbers."""
    explain = study.file.explain
    functions = [(name, find_method(name)) for name in explain.methods]
    start = time.perf_counter()
    total = 0.0
    read(picture.source)
    total += images * (time.perf_counter() - start)
    share = maps / max(images * len(study.file.labels), 1)
    for key, model in study.models.items():
        labels = [label for label, section in study.file.labels.items() if section.model.key == key]
        index = study.model(labels[0])[1]
        on_device(model, device)
        samples = [Sample.of(model, picture)] * _TRIED
        goals = dict.fromkeys(range(_TRIED), ResolvedTarget(labels[0], index, category(index)))
        for _ in range(2):  # the first pass finds the layer and warms up
            start = time.perf_counter()
            run = BatchExplainer.over(model, samples, functions=[f for _, f in functions], layer=explain.layer)
            forward = time.perf_counter() - start
            for name, function in functions:
                run.maps(name, function, goals=goals, settings=explain.settings)
            whole = time.perf_counter() - start
        total += images * (forward + share * len(labels) * (whole - forward)) / _TRIED
    return total
