"""Metrics of the maps of one method on a batch of images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camscope.array_types import Mask
from camscope.cohort.store import Row
from camscope.errors import CamscopeError
from camscope.evaluation.rows import CURVE, on_few
from camscope.explanation.batch import ResolvedTarget, Sample
from camscope.heatmap import place
from camscope.metrics import FACTS, METRICS, Score, adcc_of, cascade, kept, kind, road_curves
from camscope.models.engines import outputs
from camscope.models.model import Model
from camscope.targets import category

Draw = Callable[[Model, Sequence[Sample], Sequence[ResolvedTarget]], Tensor]
"""(model, samples, one target per sample) -> signed maps (B, h, w), of a method or a baseline."""

_KEPT = {"average_drop": "drop", "increase": "increase", "average_gain": "gain"}
_ROAD = ("road_morf", "road_lerf", "road")
_STEPS = 5  # of the cascade


@dataclass(frozen=True)
class MapBatch:
    """Maps of one method on some images, and what their metrics need.

    Attributes:
        model: the model.
        samples: B prepared images.
        goals: target that is explained in each image.
        outputs: (B, classes) outputs of the model, before a softmax or sigmoid.
        maps: (B, h, w) signed maps.
        masks: (H, W) mask of each image; None for an image without one.
        draw: computes the maps again, for edited images or another network.
        few: indices of the images on which metrics that need more maps are computed.
        layer: layer up to which the engine computes; None: the network itself computes all scores.
        engine: backend for the scores of edited images, up to ``layer``: "eager" (PyTorch) or "openvino".
    """

    model: Model
    samples: Sequence[Sample]
    goals: Sequence[ResolvedTarget]
    outputs: Tensor
    maps: Tensor
    masks: Sequence[Mask | None]
    draw: Draw
    few: Sequence[int] = ()
    layer: str | None = None
    engine: str = "eager"

    def only(self, rows: Sequence[int]) -> MapBatch:
        """Return the same for some of the images."""
        return dataclasses.replace(
            self,
            samples=[self.samples[i] for i in rows],
            goals=[self.goals[i] for i in rows],
            outputs=self.outputs[list(rows)],
            maps=self.maps[list(rows)],
            masks=[self.masks[i] for i in rows],
            few=range(len(rows)),
        )

    @property
    def inputs(self) -> Tensor:
        """Return the inputs (B, C, H, W) of the network."""
        parameter = next(self.model.net.parameters(), torch.empty(0))
        return torch.stack([sample.tensor for sample in self.samples]).to(parameter.device, parameter.dtype)


def judged(subject: MapBatch, metrics: Sequence[str], *, batch_size: int, seed: int) -> list[Row]:
    """Compute the metric columns of each image's row; undefined values are left out.

    Args:
        subject: the maps.
        metrics: names of metrics; those of `on_few` are computed on ``subject.few`` alone.
        batch_size: inputs per forward pass.
        seed: random seed.
    """
    rows: list[Row] = [{} for _ in subject.samples]
    everywhere, rarely = ([m for m in metrics if on_few(m) is few] for few in (False, True))
    for places, names in ((range(len(rows)), everywhere), (subject.few, rarely)):
        if not names or not len(places):
            continue
        part = subject.only(list(places))
        for make in (_localisation, _complexity, _faithfulness, _robustness, _comparison, _randomisation):
            for name, values in make(part, names, batch_size=batch_size, seed=seed).items():
                for i, value in zip(places, values, strict=True):
                    if _defined(value):
                        rows[i][name] = value
    return rows


Values = float | list[float] | None
Columns = Mapping[str, Sequence[Values]]


def _defined(value: Values) -> bool:
    return value is not None and (isinstance(value, list) or math.isfinite(value))


def _of_kind(names: Sequence[str], kind_name: str) -> list[str]:
    return [name for name in names if kind(METRICS[name]) == kind_name]


def _localisation(subject: MapBatch, names: Sequence[str], **_: int) -> Columns:
    columns: dict[str, list[Values]] = {name: [] for name in _of_kind(names, "localisation")}
    if not columns:
        return {}
    for sample, grid, mask in zip(subject.samples, subject.maps.cpu(), subject.masks, strict=True):
        heat = place(grid.relu(), sample.window)[None]  # 0 where the network did not look
        for name, values in columns.items():
            if mask is None or not grid.isfinite().all():
                values.append(None)
                continue
            value = METRICS[name](heat, torch.from_numpy(mask)[None])[0]
            values.append(value.flatten().tolist() if FACTS[name].tuned else float(value))
    return columns


def _complexity(subject: MapBatch, names: Sequence[str], **_: int) -> Columns:
    return {name: METRICS[name](subject.maps).tolist() for name in _of_kind(names, "complexity")}


def _faithfulness(subject: MapBatch, names: Sequence[str], *, batch_size: int, seed: int) -> Columns:
    metrics = _of_kind(names, "faithfulness")
    columns: dict[str, Sequence[Values]] = {}
    inputs, maps = subject.inputs, subject.maps

    def given(scale: str, engine: str = subject.engine) -> tuple[Score, dict[str, Tensor | int]] | None:
        scored = _scorer(subject, scale, engine=engine)
        return None if scored is None else (scored[0], {"clean": scored[1], "batch_size": batch_size})

    plain = given(
        "probability", "eager"
    )  # with the engine of the clean score, so that rounding does not decide which is larger
    if plain is not None and any(name in _KEPT for name in metrics):
        kept_scores = kept(maps, inputs, plain[0], **plain[1])  # type: ignore[arg-type]
        columns |= {name: getattr(kept_scores, what).tolist() for name, what in _KEPT.items() if name in metrics}
    probability = given("probability")
    if probability is not None and any(name in _ROAD for name in metrics):
        curves = road_curves(maps, inputs, probability[0], seed=seed, **probability[1])  # type: ignore[arg-type]
        three = (curves.morf.mean(1), curves.lerf.mean(1), curves.combined)
        columns |= {name: value.tolist() for name, value in zip(_ROAD, three, strict=True) if name in metrics}
    for name in metrics:
        scored = given(FACTS[name].score)
        if scored is not None and name not in _KEPT and name not in _ROAD:
            columns[name] = METRICS[name](maps, inputs, scored[0], **scored[1]).tolist()
    return columns


def _scorer(subject: MapBatch, scale: str, *, engine: str = "eager") -> tuple[Score, Tensor] | None:
    """Return the score function of a scale, and the scores of the clean images; None if the model has no such scale."""
    model = subject.model
    index = torch.tensor([-1 if goal.index is None else goal.index for goal in subject.goals])

    def scaled(output: Tensor, rows: Tensor) -> Tensor:
        output = output.detach().float()
        values = model.probability(output) if scale == "probability" else model.class_scores(output)
        if values is None:
            raise CamscopeError(f"{model.name} returns values, no probabilities")
        return values.gather(1, index[rows].to(values.device)[:, None])[:, 0]

    if scale == "probability" and model.outcome == "value":
        return None

    def score(inputs: Tensor, rows: Tensor) -> Tensor:
        return scaled(outputs(model.net, inputs, layer=subject.layer, engine=engine), rows.cpu())

    return score, scaled(subject.outputs, torch.arange(len(index)))


def _robustness(subject: MapBatch, names: Sequence[str], *, batch_size: int, seed: int) -> Columns:
    metrics = _of_kind(names, "robustness")
    inputs, maps = subject.inputs, subject.maps

    def explain(edited: Tensor) -> Tensor:
        samples = [sample._replace(tensor=x) for sample, x in zip(subject.samples, edited.detach().cpu(), strict=True)]
        return subject.draw(subject.model, samples, subject.goals)

    columns: dict[str, Sequence[Values]] = {}
    if "max_sensitivity" in metrics:
        columns["max_sensitivity"] = METRICS["max_sensitivity"](explain, inputs, seed=seed, maps=maps).tolist()
    scored = _scorer(subject, "probability")
    if {"coherency", "adcc"} & set(metrics):
        coherent = METRICS["coherency"](explain, inputs, maps=maps).cpu()
        columns |= {"coherency": coherent.tolist()} if "coherency" in metrics else {}
        if "adcc" in metrics and scored is not None:
            drop = kept(maps, inputs, scored[0], clean=scored[1], batch_size=batch_size).drop.cpu()
            complex_ = METRICS["complexity"](maps).cpu()
            columns["adcc"] = adcc_of(coherency=coherent, complexity=complex_, drop=drop).tolist()
    return columns


def _comparison(subject: MapBatch, names: Sequence[str], **_: int) -> Columns:
    columns: dict[str, Sequence[Values]] = {}
    metrics, maps = _of_kind(names, "comparison"), subject.maps
    if "logit_randomisation" in metrics and subject.outputs.shape[1] > 1:
        least = subject.outputs.argmin(1).tolist()
        goals = [ResolvedTarget(subject.model.label(index), index, category(index)) for index in least]
        other_maps = subject.draw(subject.model, subject.samples, goals)
        columns["logit_randomisation"] = METRICS["logit_randomisation"](maps, other_maps).tolist()
    if "image_swap" in metrics and len(maps) > 1:
        swapped = [*subject.samples[-1:], *subject.samples[:-1]]
        other_maps = subject.draw(subject.model, swapped, subject.goals)
        columns["image_swap"] = METRICS["image_swap"](maps, other_maps).tolist()
    return columns


def _randomisation(subject: MapBatch, names: Sequence[str], *, batch_size: int, seed: int) -> Columns:
    metrics, maps = _of_kind(names, "randomisation"), subject.maps

    def explain(net: nn.Module) -> Tensor:
        return subject.draw(dataclasses.replace(subject.model, net=net), subject.samples, subject.goals)

    net, columns = subject.model.net, {}
    if next(net.parameters(), None) is None:  # a black box has no weights that could be random
        return {}
    if "cascading_randomisation" in metrics:
        curves = cascade(explain, net, steps=_STEPS, seed=seed, maps=maps, inputs=subject.inputs).spearman
        columns["cascading_randomisation"] = curves[-1].tolist()
        columns[CURVE] = curves.T.tolist()
    if "independent_randomisation" in metrics:
        columns["independent_randomisation"] = METRICS["independent_randomisation"](
            explain, net, steps=_STEPS, seed=seed, maps=maps
        ).tolist()
    return columns
