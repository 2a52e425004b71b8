"""What must hold of a model's maps whatever the cohort; looked at before anything is concluded from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from camscope.explanation.maps import cam
from camscope.explanation.recorded_layer import record_layer
from camscope.methods import METHODS
from camscope.methods.heads import frozen_sums, linear_levels
from camscope.methods.joint import joint_map
from camscope.metrics.comparison import spearman
from camscope.metrics.sanity import SANE, cascade, looks_untrained
from camscope.models.model import Model
from camscope.targets import Target, category

_STEPS = 5
_AGREE = 0.95


@dataclass(frozen=True)
class SelfTest:
    """Checks of one model on a few pictures; NaN where a check is not defined for this kind of head.

    Attributes:
        layer: that is looked at.
        grid: (h, w) of its maps.
        gradcam_is_hirescam: largest relative difference of the two; 0 (to rounding) where the head pools globally.
        completeness: largest |sum HiResCAM - (y - b)| / |y - b|; for heads of one linear layer.
        level_lost: largest |sum Grad-CAM| / |sum frozen-norm CAM|; near 0 for heads of pooling, layer norm and linear
            layer, whose Grad-CAM is a contrast without a level.
        empty: share of maps without any positive evidence.
        cascade: Spearman's correlation of the maps with those of the network whose last fifth, two fifths ... of
            modules have random weights; near 0 where the maps depend on what was learned (Adebayo et al., Sanity
            Checks for Saliency Maps, NeurIPS 2018).
        forwards: inputs that went through the network for all of this.
        untrained: whether the weights look random, as before training.
        log_odds_map: median Spearman correlation of the Grad-CAM maps of the logit with those of the log-odds, which
            the audit judges; NaN where the two are the same score.
    """

    layer: str
    grid: tuple[int, int]
    gradcam_is_hirescam: float
    completeness: float
    level_lost: float
    empty: float
    cascade: tuple[float, ...]
    forwards: int
    untrained: bool = False
    log_odds_map: float = float("nan")

    @property
    def sentence(self) -> str:
        """Return the checks in words."""
        said = [f"target layer {self.layer}, {self.grid[0]} x {self.grid[1]} cells"]
        if self.gradcam_is_hirescam < 1e-3:
            said.append("Grad-CAM, HiResCAM and XGrad-CAM give the same map")
        if self.completeness < 1e-3:
            said.append("the maps add up to the logit less its bias")
        if self.level_lost < 1e-2:
            said.append(
                "the sum of the map is near 0 for every logit, so that it shows only differences between places: "
                "compare it with frozennormcam"
            )
        if self.untrained:
            said.append("the weights look random, as before training")
        elif self.cascade and abs(self.cascade[-1]) < SANE:
            said.append(f"with random weights the maps are others (rank correlation {self.cascade[-1]:.2f})")
        elif self.cascade:
            said.append(f"maps of random weights look alike (rank correlation {self.cascade[-1]:.2f}): beware")
        if not math.isnan(self.log_odds_map):
            agree = "agree with" if self.log_odds_map > _AGREE else "differ from"
            said.append(
                f"the maps of the logit {agree} those of the log-odds, which the audit judges (rank correlation "
                f"{self.log_odds_map:.2f})"
            )
        if self.empty:
            said.append(f"{self.empty:.0%} of the maps have no positive evidence")
        return "; ".join(said)


def self_test(model: Model, index: int, x: Tensor) -> SelfTest:
    """Check a model on inputs (B, C, h, w)."""
    forward, seen = record_layer(model.net, x, layer=model.layer)
    traces = seen.traces(forward, [category(index)] * len(x))
    gradcam, hirescam = (joint_map(METHODS[name], traces).double() for name in ("gradcam", "hirescam"))
    with torch.enable_grad():
        levels, frozen = (of(traces[0]).double() for of in (linear_levels, frozen_sums))
    if len(traces) > 1:  # the score of one branch is not the sum of its map
        levels, frozen = torch.full_like(levels, torch.nan), torch.full_like(frozen, torch.nan)
    log_odds_map = float("nan")
    if model.outcome == "one" and forward.outputs.shape[-1] > 1:
        targets: list[Target] = [partial(model.log_odds, index=index)] * len(x)
        of_log_odds = joint_map(METHODS["gradcam"], seen.traces(forward, targets)).double()
        log_odds_map = float(spearman(gradcam, of_log_odds).nanmedian())
    largest = hirescam.flatten(1).abs().amax(1).clamp_min(1e-30)
    return SelfTest(
        layer=seen.layer,
        grid=(gradcam.shape[1], gradcam.shape[2]),
        gradcam_is_hirescam=float(((gradcam - hirescam).flatten(1).abs().amax(1) / largest).max()),
        completeness=_largest((hirescam.sum((1, 2)) - levels).abs() / levels.abs()),
        level_lost=_largest(gradcam.sum((1, 2)).abs() / frozen.abs()),
        empty=float((gradcam.flatten(1).amax(1) <= 0).double().mean()),
        cascade=_cascade(model, index, x, seen.layer, gradcam),
        forwards=len(x) * (1 + _STEPS),
        untrained=looks_untrained(model.net),
        log_odds_map=log_odds_map,
    )


def _cascade(model: Model, index: int, x: Tensor, layer: str, maps: Tensor) -> tuple[float, ...]:
    """Random weights from the last module to the first, in steps; how far the maps stay what they were."""
    found = cascade(lambda net: cam(net, x, layer=layer, targets=index), model.net, steps=_STEPS, maps=maps)
    return tuple(found.spearman.nanmean(1).nan_to_num(0.0).tolist())


def _largest(values: Tensor) -> float:
    known = values[values.isfinite()]
    return float(known.max()) if len(known) else float("nan")
