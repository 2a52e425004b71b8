"""What is measured of one label: its model's self-test, the interventions, and heat that knows nothing."""

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
from camscope.audit.interventions import LARGE, Change, Score, measured_changes, scored
from camscope.audit.null_maps import MapRecipe, Nulls, nulls
from camscope.audit.properties import PropertyValues, TraitReader, property_cases, property_edits
from camscope.audit.reliance_map import cell_edits, cells_of
from camscope.audit.samples import Array, AuditSample, PatchDonors, one_per_patient, subjects
from camscope.audit.selftest import SelfTest, self_test
from camscope.cohort.case import Case
from camscope.cohort.fill_ins import sham
from camscope.cohort.regions import region
from camscope.cohort.store import OK
from camscope.images import read
from camscope.images.picture import Picture
from camscope.models.device import device_of, on_device
from camscope.models.engines import outputs, resolve
from camscope.models.model import Model
from camscope.progress import Progress
from camscope.study.config import AuditSection
from camscope.study.grids import Grids, stacked
from camscope.study.measure import Places
from camscope.study.study import Study

Item = TypeVar("Item")

_POOL, _POOL_BYTES = 256, 2**30
"""Cases that are kept in memory, to lend their pixels and to be explained by networks that know nothing."""

EXCHANGED = 256
"""Cases per label, of one patient each, whose cells and properties are exchanged."""
_SAMPLE = 64
_KNOWN = 0.9  # share of the cases with the label whose disease must be known
_SEEDS = 3
_TESTED = 8


@dataclass(frozen=True)
class Measured:
    """What was measured of one label.

    Attributes:
        test: of its model.
        changes: by the interventions.
        cells: of the reliance map, down and across.
        cell_changes: by exchanging them.
        nulls: by region.
        null_maps: name of a null -> its mean map (h, w), 1 being a uniform map.
        large: regions that were exchanged rather than removed.
        forwards: inputs that went through a network.
        threshold: log-odds from which on the label is predicted.
    """

    test: SelfTest
    changes: list[Change]
    cells: tuple[int, int]
    cell_changes: list[Change]
    nulls: dict[str, Nulls]
    null_maps: dict[str, Grids]
    large: tuple[str, ...]
    forwards: int
    threshold: float


@dataclass(frozen=True)
class MeasuredProperties:
    """What was measured of the properties of one label.

    Attributes:
        values: name of a property -> its values.
        changes: by the exchanges.
        confounded: properties that a disease can change and that were not measured outside it.
        forwards: inputs that went through the network.
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
    batch_size: int = 64,
    engine: str = "auto",
    progress: Progress = lambda *_: None,
) -> Measured:
    """Measure one label on the cases that were drawn of it, at least one.

    Args:
        study: the study.
        label: one of its labels.
        section: its audit.
        rows: of these cases and one method, with their maps.
        device: as for ``run``.
        batch_size: inputs in one forward pass.
        engine: what scores edited inputs, see `camscope.models.engines`; all else is computed by the network itself.
        progress: called as cases are done.
    """
    explain = study.file.explain
    model, index = _placed(study, label, device)
    numbers, regions = rows["case"].to_list(), section.regions
    draw = np.random.default_rng([section.seed, len(numbers)])
    pooled = sorted(draw.permutation(numbers)[: _room(model)].tolist())
    inputs = [model.preprocess(read(case.source))[0].numpy() for case in cases_of(study, rows, pooled[:_TESTED])]
    test = self_test(model, index, _on_its_device(model, np.stack(inputs)))
    mapped = rows.filter(pl.col("status") == OK)
    grid = (mapped["grid_height"][0], mapped["grid_width"][0]) if len(mapped) else test.grid
    given: dict[str, Any] = {"preprocess": model.preprocess, "regions": regions, "grid": grid}
    reading = subjects(study, label, cases_of(study, rows, pooled), **given)
    pool = list(_counted(reading, len(pooled), f"reading for {label}", progress))
    large = _large(pool, regions)
    everyone = pool if len(pool) == len(numbers) else subjects(study, label, cases_of(study, rows, numbers), **given)
    score = _score(model, index, layer=test.layer, engine=resolve(engine, None, device=device_of(model)))
    donors = PatchDonors(pool, seed=section.seed)
    changes, forwards = measured_changes(
        _counted(everyone, len(numbers), f"intervening on {label}", progress),
        regions,
        score=score,
        donors=donors,
        mean=_mean(pool),
        large=large,
        fill_ins=section.fill_ins,
        seed=section.seed,
        batch_size=batch_size,
    )
    recipients = one_per_patient(pool, EXCHANGED) if section.reliance_map else []
    counted = _counted(recipients, len(recipients), f"exchanging cells for {label}", progress)
    cell_changes, of_cells = scored(
        cell_edits(counted, cells_of(grid), donors=donors), score=score, batch_size=batch_size
    )
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
        forwards=forwards + of_cells + of_nulls + test.forwards,
        threshold=_threshold(study.file.labels[label].threshold, model),
    )


def measure_properties(
    study: Study,
    label: str,
    section: AuditSection,
    *,
    rows: pl.DataFrame,
    layer: str,
    readers: dict[tuple[str, int], TraitReader],
    device: str = "auto",
    batch_size: int = 64,
    engine: str = "auto",
    progress: Progress = lambda *_: None,
) -> MeasuredProperties:
    """Exchange the properties of the acquisition between cases.

    Args:
        study: the study.
        label: one of its labels.
        section: its audit.
        rows: of the drawn cases.
        layer: of the model's maps, up to which the engine computes.
        readers: that measured other labels; those that can serve again are used again.
        device: as for ``run``.
        batch_size: inputs in one forward pass.
        engine: what scores edited inputs.
        progress: called as cases are done.
    """
    if not section.properties:
        return MeasuredProperties({}, [], [], 0)
    model, index = _placed(study, label, device)
    find = _disease(study, label, section, model) if section.disease else None
    reader = TraitReader(section.properties, max(model.preprocess.input_size), find)
    reader = readers.setdefault((label if section.disease else "", reader.side), reader)
    shuffled = rows["case"].sample(fraction=1, shuffle=True, seed=section.seed).to_list()
    known = one_per_patient(property_cases(cases_of(study, rows, shuffled), label), EXCHANGED)
    cases = [item.case for item in known]
    values = reader.values(cases, progress=lambda done: progress(f"properties for {label}", done, len(cases)))
    changes, forwards = scored(
        property_edits(
            _counted(known, len(known), f"exchanging properties for {label}", progress),
            values,
            donors=PatchDonors(known, seed=section.seed),
            reader=reader,
            preprocess=model.preprocess,
        ),
        score=_score(model, index, layer=layer, engine=resolve(engine, None, device=device_of(model))),
        batch_size=batch_size,
    )
    present = [case.case for case in known if case.truth]
    separate = np.mean([reader.knows_disease(case) for case in present] or [False]) >= _KNOWN
    confounded = [name for name in section.properties if PROPERTIES[name].varies_with_disease and not separate]
    return MeasuredProperties(values, changes, confounded, forwards)


def _disease(study: Study, label: str, section: AuditSection, model: Model) -> Callable[[Case, Picture], Mask | None]:
    """Return a function that finds the disease regions of a case."""

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
    """Return the log-odds of a threshold; an outcome without a probability has it in its own units."""
    return threshold if model.outcome == "value" else float(logit(threshold))


def _room(model: Model) -> int:
    """Return how many inputs of a model are kept in memory."""
    height, width = model.preprocess.input_size
    return min(_POOL, max(_SAMPLE, _POOL_BYTES // (3 * 4 * height * width)))


def _mean(pool: Sequence[AuditSample]) -> Array:
    """Return the mean input, without a copy of all."""
    total = np.zeros_like(pool[0].x)
    for subject in pool:
        total += subject.x
    return total / np.float32(len(pool))


def cases_of(study: Study, rows: pl.DataFrame, numbers: Sequence[int]) -> Iterator[Case]:
    """Cases with the patients and groups of their rows, which a header may have told."""
    known = {row["case"]: row for row in rows.select("case", "patient", "group").iter_rows(named=True)}
    for case in study.cohort.cases(numbers):
        row = known[case.number]
        yield dataclasses.replace(case, patient=row["patient"], group=tuple(row["group"].split("/")))


def _large(pool: Sequence[AuditSample], regions: Sequence[str]) -> tuple[str, ...]:
    """Return the regions beside which there usually is no place of their size and shape."""
    found = []
    for name in regions:
        own = [subject for subject in pool if name in subject.masks][:_TESTED]
        areas = [subject.masks[name][subject.seen].mean() for subject in own]
        placed = [sham(subject.masks[name], ~subject.seen) is not None for subject in own]
        if own and (np.median(areas) > LARGE or not any(placed)):
            found.append(name)
    return tuple(found)


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
    """Heat that knows nothing, on the cases whose maps count: present and predicted."""
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
        seeds=_SEEDS,
        seed=section.seed,
    )


def _counted(items: Iterable[Item], total: int, what: str, progress: Progress) -> Iterator[Item]:
    for done, item in enumerate(items, 1):
        yield item
        progress(what, done, total)
