"""Check properties of a model's maps that do not depend on the cohort, before the maps are interpreted."""

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
    """The checks of one model on a few images; NaN if a check is not defined for the model's head.

    Attributes:
        layer: the target layer.
        grid: (h, w) of the maps.
        gradcam_is_hirescam: largest relative difference of Grad-CAM and HiResCAM; 0 (up to rounding) for heads with
            global pooling.
        completeness: largest |sum HiResCAM - (y - b)| / |y - b|; for heads of one linear layer.
        level_lost: largest |sum Grad-CAM| / |sum frozen-norm CAM|; near 0 for heads of pooling, layer norm and linear
            layer, whose Grad-CAM is a contrast without a level.
        empty: share of maps without positive values.
        cascade: Spearman correlation of the maps with the maps of the network after its last fifth, two fifths ... of
            modules were given random weights; near 0 if the maps depend on the trained weights (Adebayo et al.,
            Sanity Checks for Saliency Maps, NeurIPS 2018).
        forwards: number of inputs that passed through the network.
        untrained: whether the weights look random, as before training.
        log_odds_map: median Spearman correlation of the Grad-CAM maps of the logit with the Grad-CAM maps of the
            log-odds, the score of the audit; NaN if the two scores are equal.
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
        """Return the results of the checks as one sentence."""
        clauses = [f"target layer {self.layer}, {self.grid[0]} x {self.grid[1]} cells"]
        if self.gradcam_is_hirescam < 1e-3:
            clauses.append("Grad-CAM, HiResCAM and XGrad-CAM give the same map")
        if self.completeness < 1e-3:
            clauses.append("the maps add up to the logit minus its bias")
        if self.level_lost < 1e-2:
            clauses.append(
                "the sum of the map is near 0 for every logit, so the map shows only differences between positions: "
                "compare it with frozennormcam"
            )
        if self.untrained:
            clauses.append("the weights look random, as before training")
        elif self.cascade and abs(self.cascade[-1]) < SANE:
            clauses.append(f"with random weights the maps differ (rank correlation {self.cascade[-1]:.2f})")
        elif self.cascade:
            clauses.append(
                f"warning: with random weights the maps are similar (rank correlation {self.cascade[-1]:.2f}), so they "
                "may not depend on the trained weights"
            )
        if not math.isnan(self.log_odds_map):
            agree = "agree with" if self.log_odds_map > _AGREE else "differ from"
            clauses.append(
                f"the maps of the logit {agree} the maps of the log-odds, the score of the audit (rank correlation "
                f"{self.log_odds_map:.2f})"
            )
        if self.empty:
            clauses.append(f"{self.empty:.0%} of the maps have no positive values")
        return "; ".join(clauses)


def self_test(model: Model, index: int, x: Tensor) -> SelfTest:
    """Run all checks of a model on inputs (B, C, h, w)."""
    forward, recorded = record_layer(model.net, x, layer=model.layer)
    traces = recorded.traces(forward, [category(index)] * len(x))
    gradcam, hirescam = (joint_map(METHODS[name], traces).double() for name in ("gradcam", "hirescam"))
    with torch.enable_grad():
        levels, frozen = (of(traces[0]).double() for of in (linear_levels, frozen_sums))
    if len(traces) > 1:  # with several branches, the sum of one map is not the score
        levels, frozen = torch.full_like(levels, torch.nan), torch.full_like(frozen, torch.nan)
    log_odds_map = float("nan")
    if model.outcome == "one" and forward.outputs.shape[-1] > 1:
        targets: list[Target] = [partial(model.log_odds, index=index)] * len(x)
        of_log_odds = joint_map(METHODS["gradcam"], recorded.traces(forward, targets)).double()
        log_odds_map = float(spearman(gradcam, of_log_odds).nanmedian())
    largest = hirescam.flatten(1).abs().amax(1).clamp_min(1e-30)
    return SelfTest(
        layer=recorded.layer,
        grid=(gradcam.shape[1], gradcam.shape[2]),
        gradcam_is_hirescam=float(((gradcam - hirescam).flatten(1).abs().amax(1) / largest).max()),
        completeness=_largest((hirescam.sum((1, 2)) - levels).abs() / levels.abs()),
        level_lost=_largest(gradcam.sum((1, 2)).abs() / frozen.abs()),
        empty=float((gradcam.flatten(1).amax(1) <= 0).double().mean()),
        cascade=_cascade(model, index, x, recorded.layer, gradcam),
        forwards=len(x) * (1 + _STEPS),
        untrained=looks_untrained(model.net),
        log_odds_map=log_odds_map,
    )


def _cascade(model: Model, index: int, x: Tensor, layer: str, maps: Tensor) -> tuple[float, ...]:
    """Randomise the weights from the last module to the first, in steps; return the correlation with the maps."""
    steps = cascade(lambda net: cam(net, x, layer=layer, targets=index), model.net, steps=_STEPS, maps=maps)
    return tuple(steps.spearman.nanmean(1).nan_to_num(0.0).tolist())


def _largest(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.max()) if len(finite) else float("nan")
