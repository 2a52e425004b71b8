"""Compute null maps and their enrichments, and test whether heat belongs to the frame or to the content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camscope.audit.nulls import random_cam
from camscope.audit.samples import AuditSample, batch_for, is_drawn
from camscope.cohort.regions import Scene, border, cell_shares, evidence, visible_shares
from camscope.errors import MethodError
from camscope.explanation.maps import cam
from camscope.explanation.method_lookup import find_method, known
from camscope.explanation.recorded_layer import record_layer
from camscope.heatmap import upsample
from camscope.images import Window
from camscope.methods import METHODS, facts_of
from camscope.methods.joint import joint_map
from camscope.metrics.sanity import randomised
from camscope.models.model import Model
from camscope.study.grids import Grids, unit
from camscope.targets import category

_PADDING = 8
"""Width of the frame around an image: the side of the image divided by this number."""
_BATCH = 32  # inputs of 224 x 224


@dataclass(frozen=True)
class Nulls:
    """Mean enrichment of a region in null maps, which do not depend on the label.

    Attributes:
        mean_map: of the mean map of the other patients; NaN for regions at the same position in every image.
        random_weights: of maps of the same architecture with random weights, one number per seed.
        random_cam: of random combinations of channels, one number per draw.
        frame: of the border of the input, for images that are extended by their mirror image; NaN unless the region is
            a border.
        content: of the border of the original image, in the same maps; NaN unless the region is a border.
        norm_map: of the norm of the activations, which does not depend on the class.
        frozen_norm: of frozen-norm CAM, which keeps the level that Grad-CAM loses behind a layer norm; NaN for other
            heads.
    """

    mean_map: float
    random_weights: tuple[float, ...]
    random_cam: tuple[float, ...]
    frame: float
    content: float
    norm_map: float
    frozen_norm: float


@dataclass(frozen=True)
class MapRecipe:
    """The method and settings of the study's maps of a label, to compute the maps of other networks in the same way.

    Attributes:
        index: index of the class.
        layer: target layer.
        method: a name in ``METHODS``.
        settings: settings of the study's methods.
    """

    index: int
    layer: str
    method: str
    settings: Mapping[str, Any]

    def maps(self, net: nn.Module, x: Tensor) -> Grids:
        """Return the maps (n, h, w) of inputs (n, C, h, w)."""
        function = find_method(self.method)
        settings = known(function, {**self.settings, "layer": self.layer})
        if not facts_of(function).whole_network:
            settings["layer"] = self.layer
        maps = [cam(net, batch, method=self.method, targets=self.index, **settings) for batch in _batches(x)]
        return torch.cat(maps).double().cpu().numpy()


def nulls(
    model: Model,
    explained: MapRecipe,
    sample: Sequence[AuditSample],
    *,
    grids: Grids,
    regions: Sequence[str],
    seeds: int,
    seed: int,
) -> tuple[dict[str, Nulls], dict[str, Grids], int]:
    """Compute the null maps of one label and their enrichments.

    Args:
        model: the label's model.
        explained: method and settings of the study's maps.
        sample: the samples, in the order of their maps.
        grids: (n, h, w) the study's maps, signed.
        regions: names of the regions.
        seeds: number of networks with random weights, and of draws of random CAM.
        seed: the first random seed.

    Returns:
        The enrichments by region; the mean map (h, w) by name of a null map, in units of a uniform map; and the number
        of inputs that passed through a network.
    """
    parameter = next(model.net.parameters(), torch.empty(0))
    x = torch.from_numpy(np.stack([subject.x for subject in sample])).to(parameter.device, parameter.dtype)
    by_weights = [explained.maps(randomised(model.net, seed=seed + n, inputs=x), x) for n in range(seeds)]
    passes = [_activations_and_frozen(model.net, batch, explained) for batch in _batches(x)]
    activations = torch.cat([batch_activations for batch_activations, _ in passes])
    size = grids.shape[1:]
    by_chance = [_at(random_cam(activations, seed=seed + n), size) for n in range(seeds)]
    norms = _at(activations.norm(dim=1), size)
    frozen = [_at(maps, size) for _, maps in passes if maps is not None]
    others = _of_other_patients(grids, [subject.case.patient for subject in sample])
    framed = explained.maps(model.net, _framed(x)) if any(map(_is_frame, regions)) else None
    by_region = {}
    for name in regions:
        frame, content = (float("nan"), float("nan"))
        if framed is not None and _is_frame(name):
            frame, content = _frame_and_content(name, framed, sample)
        by_region[name] = Nulls(
            mean_map=_enrichment(others, sample, name) if is_drawn(name) else float("nan"),
            random_weights=tuple(_enrichment(maps, sample, name) for maps in by_weights),
            random_cam=tuple(_enrichment(maps, sample, name) for maps in by_chance),
            frame=frame,
            content=content,
            norm_map=_enrichment(norms, sample, name),
            frozen_norm=_enrichment(np.concatenate(frozen), sample, name) if frozen else float("nan"),
        )
    mean_maps = {
        "random weights": _mean_map(np.concatenate(by_weights)),
        "random CAM": _mean_map(np.concatenate(by_chance)),
    }
    return by_region, mean_maps, len(x) * (seeds + 1 + (framed is not None))


def _activations_and_frozen(net: nn.Module, x: Tensor, explained: MapRecipe) -> tuple[Tensor, Tensor | None]:
    """Return the activations of a layer, and frozen-norm CAM if it applies to the head, from one forward pass."""
    forward, recorded = record_layer(net, x, layer=explained.layer)
    traces = recorded.traces(forward, [category(explained.index)] * len(x))
    try:
        frozen = joint_map(METHODS["frozennormcam"], traces).detach().float().cpu()
    except MethodError:
        frozen = None
    return torch.cat([trace.activations.detach().float().cpu() for trace in traces], 1), frozen


def _batches(x: Tensor) -> tuple[Tensor, ...]:
    batches: tuple[Tensor, ...] = x.split(batch_for((x.shape[2], x.shape[3]), most=_BATCH))
    return batches


def _at(maps: Tensor, size: Sequence[int]) -> Grids:
    """Return the maps of a layer on the grid of the study's maps, which is finer for whole-network methods."""
    at_size: Grids = (maps if maps.shape[1:] == tuple(size) else upsample(maps, size)).double().numpy()
    return at_size


def _enrichment(maps: Grids, sample: Sequence[AuditSample], name: str) -> float:
    """Return the mean mass over the mean area of a region, over the samples that have it."""
    mass, area = [], []
    for grid, subject in zip(maps, sample, strict=True):
        if name in subject.shares:
            share = evidence(grid, subject.shares[name], subject.visible_cells)
            if not np.isnan(share.mass):
                mass.append(share.mass)
                area.append(share.area)
    return float(np.mean(mass) / np.mean(area)) if mass else float("nan")


def _of_other_patients(grids: Grids, patients: Sequence[str]) -> Grids:
    """Return, per case, the mean positive map of all cases of other patients; each map has the same weight."""
    names, heat = np.array(patients), unit(grids)
    nothing = np.zeros(grids.shape[1:])
    return np.stack([heat[names != name].mean(0) if (names != name).any() else nothing for name in names])


def _mean_map(maps: Grids) -> Grids:
    """Return the mean of the non-empty maps (n, h, w), each normalised to sum 1, in units of a uniform map."""
    heat = unit(maps)
    kept = heat[heat.any((1, 2))]
    result: Grids = kept.mean(0) * maps[0].size if len(kept) else np.zeros(maps.shape[1:])
    return result


def _is_frame(name: str) -> bool:
    return name.partition(":")[0] == "border"


def _framed(x: Tensor) -> Tensor:
    """Extend inputs by their mirror image on all sides, and resize them to the original size."""
    height, width = x.shape[2:]
    up, side = height // _PADDING, width // _PADDING
    wide = F.pad(x, (side, side, up, up), mode="reflect")
    return F.interpolate(wide, size=(height, width), mode="bilinear", antialias=True)


def _frame_and_content(name: str, framed: Grids, sample: Sequence[AuditSample]) -> tuple[float, float]:
    """Return the enrichment of the border of the input and of the original image, in maps of framed images."""
    grid = (framed.shape[1], framed.shape[2])
    height, width = sample[0].visible.shape
    side = (height + 2 * (height // _PADDING), width + 2 * (width // _PADDING))
    argument = name.partition(":")[2]
    whole = Window.whole(side)
    top, left = height // _PADDING, width // _PADDING
    outer = border(argument, Scene(side, whole))
    picture = border(argument, Scene((height, width), Window.whole((height, width))))
    inner = np.pad(picture, ((top, top), (left, left)))
    visible = visible_shares(whole, grid)
    results = []
    for mask in (outer, inner):
        shares = cell_shares(mask, whole, grid)
        heats = [evidence(values, shares, visible) for values in framed]
        masses = [heat.mass for heat in heats if not np.isnan(heat.mass)]
        results.append(float(np.mean(masses) / heats[0].area) if masses else float("nan"))
    return results[0], results[1]
