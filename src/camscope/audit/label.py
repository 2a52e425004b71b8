"""Run the measurements of one label: the self-test of its model, the interventions, and the null maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from scipy.special import logit

from camscope.acquisition import PROPERTIES
from camscope.array_types import Mask
from camscope.audit.disease import KNOWN, DiseasePlaces, disease_places
from camscope.audit.interventions import LARGE, Change, RegionEditor, Score, scored
from camscope.audit.null_maps import MapRecipe, Nulls, nulls
from camscope.audit.properties import PropertyValues, TraitReader, property_cases, property_edits
from camscope.audit.reliance_map import cell_edits, cells_of
from camscope.audit.samples import Array, AuditSample, PatchDonors, batch_for, is_drawn, one_per_patient, subjects
from camscope.audit.selftest import SelfTest, self_test
from camscope.cohort.case import Case
from camscope.cohort.fill_ins import sham
from camscope.cohort.regions import region
from camscope.cohort.store import OK
from camscope.images import read
from camscope.images.picture import Picture
from camscope.models.device import device_of, on_device
from camscope.models.engines import EDITS, outputs, resolve
from camscope.models.model import Model
from camscope.progress import Progress
from camscope.study.config import AuditSection
from camscope.study.grids import Grids, stacked
from camscope.study.measure import Places
from camscope.study.study import Study

Item = TypeVar("Item")

_POOL, _POOL_BYTES = 256, 2**30
"""Most cases, and bytes of inputs, that are kept in memory as donors and for null maps."""

EXCHANGED = 256
"""Most cases per label whose cells and properties are exchanged, one case per patient."""
_SAMPLE = 64
SEEDS = 3
"""Networks with random weights whose maps are null maps."""
_TESTED = 8


@dataclass(frozen=True)
class Measured:
    """The measurements of one label.

    Attributes:
        test: self-test of the model.
        changes: the changes by editing regions.
        cells: number of (rows, columns) of cells of the reliance map.
        cell_changes: the changes by exchanging cells.
        nulls: region -> enrichments of the null maps.
        null_maps: name of a null map -> mean map (h, w), in units of a uniform map.
        large: regions that were exchanged instead of removed.
        disease: the places of the disease.
        present: drawn shortcut other than a cue -> number of a case -> whether it has it; only if some lack it.
        holders: region -> strata ("present", "absent") in which some case has it.
        forwards: number of inputs that passed through a network.
        threshold: log-odds at which the label is predicted.
    """

    test: SelfTest
    changes: list[Change]
    cells: tuple[int, int]
    cell_changes: list[Change]
    nulls: dict[str, Nulls]
    null_maps: dict[str, Grids]
    large: tuple[str, ...]
    disease: DiseasePlaces
    present: dict[str, dict[int, bool]]
    holders: dict[str, set[str]]
    forwards: int
    threshold: float


@dataclass(frozen=True)
class MeasuredProperties:
    """The measurements of the properties of one label.

    Attributes:
        values: property name -> values.
        changes: the changes by exchanging properties.
        confounded: properties that a disease can change and that were not measured outside the disease region.
        forwards: number of inputs that passed through the network.
    """

    values: dict[str, PropertyValues]
    changes: list[Change]
    confounded: list[str]
    forwards: int


def measure(
    study: Study,
    label: str,
    section: AuditSection,
    *,
    rows: pl.DataFrame,
    device: str = "auto",
    batch_size: int | None = None,
    engine: str = "auto",
    progress: Progress = lambda *_: None,
) -> Measured:
    """Run the self-test, the interventions and the null maps of one label on its sampled cases.

    Args:
        study: the study.
        label: a label of the study.
        section: the audit section of the study file.
        rows: the rows of the sampled cases (at least one) for one method, with their maps.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        batch_size: inputs per forward pass; None to choose it by the size of the inputs.
        engine: backend that scores edited inputs, see `camscope.models.engines`; maps always use the network itself.
        progress: called with the current step, the number of cases done, and the total.
    """
    explain = study.file.explain
    model, index = _placed(study, label, device)
    batch_size = batch_size or batch_for(model.preprocess.input_size)
    numbers, regions = rows["case"].to_list(), section.regions
    draw = np.random.default_rng([section.seed, len(numbers)])
    pooled = sorted(draw.permutation(numbers)[: _room(model)].tolist())
    inputs = [model.preprocess(read(case.source))[0].numpy() for case in cases_of(study, rows, pooled[:_TESTED])]
    test = self_test(model, index, _on_its_device(model, np.stack(inputs)))
    mapped = rows.filter(pl.col("status") == OK)
    grid = (mapped["grid_height"][0], mapped["grid_width"][0]) if len(mapped) else test.grid
    reading_options: dict[str, Any] = {"preprocess": model.preprocess, "regions": regions, "grid": grid}
    reading = subjects(study, label, cases_of(study, rows, pooled), **reading_options)
    pool = list(_counted(reading, len(pooled), f"reading for {label}", progress))
    large = _large(pool, regions)
    samples: Iterable[AuditSample] = pool
    if len(pool) < len(numbers):
        samples = subjects(study, label, cases_of(study, rows, numbers), **reading_options)
    engine = resolve(engine, EDITS * len(numbers), device=device_of(model))
    score = _score(model, index, layer=test.layer, engine=engine)
    donors = PatchDonors(pool, seed=section.seed)
    disease = disease_places(pool, section)
    editor = _editor(section, pool, donors=donors, large=large, disease=disease)
    present: dict[str, dict[int, bool]] = {name: {} for name in editor.objects if not name.startswith("cue:")}
    holders: dict[str, set[str]] = {name: set() for name in regions}
    counted = _watched(_counted(samples, len(numbers), f"intervening on {label}", progress), present, holders)
    edits = (edit for sample in counted for edit in editor.edits(sample))
    log_odds = dict(zip(numbers, rows["log_odds"].to_list(), strict=True))
    changes, forwards = scored(edits, score=score, log_odds=log_odds, batch_size=batch_size)
    recipients = one_per_patient(pool, EXCHANGED) if section.reliance_map else []
    exchanged = _counted(recipients, len(recipients), f"exchanging cells for {label}", progress)
    cells = cell_edits(exchanged, cells_of(grid), donors=donors)
    cell_changes, of_cells = scored(cells, score=score, batch_size=batch_size)
    recipe = MapRecipe(index, test.layer, explain.methods[0], explain.settings)
    null_values, null_maps, of_nulls = _nulls(model, recipe, mapped, pool, section=section)
    return Measured(
        test=test,
        changes=changes,
        cells=cells_of(grid),
        cell_changes=cell_changes,
        nulls=null_values,
        null_maps=null_maps,
        large=large,
        disease=disease,
        present={name: cases for name, cases in present.items() if len(set(cases.values())) > 1},
        holders=holders,
        forwards=forwards + of_cells + of_nulls + test.forwards,
        threshold=_threshold(study.file.labels[label].threshold, model),
    )


def _editor(
    section: AuditSection,
    pool: Sequence[AuditSample],
    *,
    donors: PatchDonors[AuditSample],
    large: tuple[str, ...],
    disease: DiseasePlaces,
) -> RegionEditor:
    return RegionEditor(
        section.regions,
        donors,
        _mean(pool),
        section.seed,
        large=large,
        lesions=disease.lesions,
        disease=section.disease,
        objects=tuple(name for name in section.shortcuts if name.startswith(("cue:", "mask:"))),
        fill_ins=section.fill_ins,
    )


def _watched(
    samples: Iterable[AuditSample], present: dict[str, dict[int, bool]], holders: dict[str, set[str]]
) -> Iterator[AuditSample]:
    """Yield samples; record in ``present`` and ``holders`` whether each has a region."""
    for sample in samples:
        for name, cases in present.items():
            cases[sample.case.number] = name in sample.masks
        for name in sample.masks:
            holders[name].add("present" if sample.truth else "absent")
        yield sample


def measure_properties(
    study: Study,
    label: str,
    section: AuditSection,
    *,
    rows: pl.DataFrame,
    layer: str,
    readers: dict[tuple[str, int], TraitReader],
    device: str = "auto",
    batch_size: int | None = None,
    engine: str = "auto",
    progress: Progress = lambda *_: None,
) -> MeasuredProperties:
    """Exchange the properties of the acquisition between cases.

    Args:
        study: the study.
        label: a label of the study.
        section: the audit section of the study file.
        rows: the rows of the sampled cases.
        layer: target layer of the maps, up to which the engine computes.
        readers: the readers of previous labels, which are reused if possible; a new reader is added.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        batch_size: inputs per forward pass; None to choose it by the size of the inputs.
        engine: backend that scores edited inputs.
        progress: called with the current step, the number of cases done, and the total.
    """
    if not section.properties:
        return MeasuredProperties({}, [], [], 0)
    model, index = _placed(study, label, device)
    batch_size = batch_size or batch_for(model.preprocess.input_size)
    find = _disease(study, label, section, model) if section.disease else None
    reader = TraitReader(section.properties, max(model.preprocess.input_size), find)
    reader = readers.setdefault((label if section.disease else "", reader.side), reader)
    shuffled = rows["case"].sample(fraction=1, shuffle=True, seed=section.seed).to_list()
    recipients = one_per_patient(property_cases(cases_of(study, rows, shuffled), label), EXCHANGED)
    cases = [recipient.case for recipient in recipients]
    values = reader.values(cases, progress=lambda done: progress(f"properties for {label}", done, len(cases)))
    changes, forwards = scored(
        property_edits(
            _counted(recipients, len(recipients), f"exchanging properties for {label}", progress),
            values,
            donors=PatchDonors(recipients, seed=section.seed),
            reader=reader,
            preprocess=model.preprocess,
        ),
        score=_score(model, index, layer=layer, engine=resolve(engine, EDITS * len(cases), device=device_of(model))),
        batch_size=batch_size,
    )
    present = [recipient.case for recipient in recipients if recipient.truth]
    separate = np.mean([reader.knows_disease(case) for case in present] or [False]) >= KNOWN
    confounded = [name for name in section.properties if PROPERTIES[name].varies_with_disease and not separate]
    return MeasuredProperties(values, changes, confounded, forwards)


def _disease(study: Study, label: str, section: AuditSection, model: Model) -> Callable[[Case, Picture], Mask | None]:
    """Return a function that returns the union of the disease regions of a case."""

    def find(case: Case, picture: Picture) -> Mask | None:
        scene = Places(case, study).scene(label, model.preprocess.window(picture.size), picture=picture)
        masks = [mask for name in section.disease if (mask := region(name, scene)) is not None]
        return np.logical_or.reduce(masks) if masks else None

    return find


def _placed(study: Study, label: str, device: str) -> tuple[Model, int]:
    """Return the model of a label on a device, with the study's layer, and the index of the class."""
    model, index = study.model(label)
    if study.file.explain.layer is not None:
        model = dataclasses.replace(model, layer=study.file.explain.layer, layout=None)
    on_device(model, device)
    return model, index


def _threshold(threshold: float, model: Model) -> float:
    """Return a threshold as log-odds; the threshold of a model without probabilities is returned unchanged."""
    return threshold if model.outcome == "value" else float(logit(threshold))


def _room(model: Model) -> int:
    """Return the number of inputs of a model that are kept in memory."""
    height, width = model.preprocess.input_size
    return min(_POOL, max(_SAMPLE, _POOL_BYTES // (3 * 4 * height * width)))


def _mean(pool: Sequence[AuditSample]) -> Array:
    """Return the mean input, without copying all inputs."""
    total = np.zeros_like(pool[0].x)
    for subject in pool:
        total += subject.x
    return total / np.float32(len(pool))


def cases_of(study: Study, rows: pl.DataFrame, numbers: Sequence[int]) -> Iterator[Case]:
    """Yield cases with the patients and groups of their rows, which may come from a DICOM header."""
    rows_by_case = {row["case"]: row for row in rows.select("case", "patient", "group").iter_rows(named=True)}
    for case in study.cohort.cases(numbers):
        row = rows_by_case[case.number]
        yield dataclasses.replace(case, patient=row["patient"], group=tuple(row["group"].split("/")))


def _large(pool: Sequence[AuditSample], regions: Sequence[str]) -> tuple[str, ...]:
    """Return the regions that usually are too large for a sham of their size and shape beside them.

    A drawn region that some cases lack is not among them: in the same place, its donors would have something else.
    """
    large = []
    for name in regions:
        if is_drawn(name) and any(subject.lacks(name) for subject in pool):
            continue
        tested = [subject for subject in pool if name in subject.masks][:_TESTED]
        areas = [subject.masks[name][subject.visible].mean() for subject in tested]
        placed = [sham(subject.masks[name], ~subject.visible) is not None for subject in tested]
        if tested and (np.median(areas) > LARGE or not any(placed)):
            large.append(name)
    return tuple(large)


def _score(model: Model, index: int, *, layer: str, engine: str) -> Score:
    def score(inputs: Array) -> npt.NDArray[np.float64]:
        logits = outputs(model.net, _on_its_device(model, inputs), layer=layer, engine=engine)
        log_odds: npt.NDArray[np.float64] = model.log_odds(logits.double(), index).cpu().numpy()
        return log_odds

    return score


def _on_its_device(model: Model, inputs: Array) -> torch.Tensor:
    parameter = next(model.net.parameters(), torch.empty(0))
    return torch.from_numpy(inputs).to(parameter.device, parameter.dtype).contiguous(memory_format=torch.channels_last)


def _nulls(
    model: Model, explained: MapRecipe, mapped: pl.DataFrame, pool: Sequence[AuditSample], *, section: AuditSection
) -> tuple[dict[str, Nulls], dict[str, Grids], int]:
    """Compute the null maps on the true positives, whose maps the audit uses."""
    by_case = {subject.case.number: subject for subject in pool}
    counted = mapped.filter((pl.col("outcome") == "TP") & pl.col("case").is_in(list(by_case))).head(_SAMPLE)
    if not len(counted):
        return {}, {}, 0
    return nulls(
        model,
        explained,
        [by_case[case] for case in counted["case"]],
        grids=stacked(counted),
        regions=section.regions,
        seeds=SEEDS,
        seed=section.seed,
    )


def _counted(items: Iterable[Item], total: int, what: str, progress: Progress) -> Iterator[Item]:
    for done, item in enumerate(items, 1):
        yield item
        progress(what, done, total)
