"""Sanity check: test whether a model's maps depend on its learned weights, with `sanity(model, pictures)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from camscope.arguments import checked
from camscope.errors import SettingError, check_count
from camscope.explanation.batch import BatchExplainer, ResolvedTarget, Sample
from camscope.explanation.method_lookup import check_settings, find_method, method_name
from camscope.explanation.target_spec import TargetSpec
from camscope.images import Picture
from camscope.images.memory import as_picture
from camscope.methods import Method, facts_of
from camscope.metrics.sanity import SANE, cascade, looks_untrained, passes
from camscope.models.layer_choice import default_layer
from camscope.models.model import Model


@dataclass(frozen=True)
class Sanity:
    """Similarity of maps while the weights of the network become random, from the last module to the first.

    Attributes:
        method: name of the method.
        layer: name of the target layer; "" for a method that sees the whole network.
        pictures: number of explained images.
        shares: share of the network that is random after each step.
        spearman: mean rank correlation with the maps of the trained network after each step, on the native grid; NaN
            where all maps are flat.
        ssim: mean structural similarity to the maps of the trained network after each step.
        untrained: whether the network's weights look random (`looks_untrained`), so that the check is inconclusive.
    """

    method: str
    layer: str
    pictures: int
    shares: tuple[float, ...]
    spearman: tuple[float, ...]
    ssim: tuple[float, ...]
    untrained: bool = False

    @property
    def passed(self) -> bool:
        """Return whether the maps change once half of the network is random, and stay changed (`passes`).

        False for a network that looks untrained: its maps change too, but there is nothing learned to depend on.
        """
        return not self.untrained and passes(self.spearman)

    @property
    def sentence(self) -> str:
        """Return the verdict with its curve, in words."""
        at = f" at {self.layer}" if self.layer else ""
        curve = ", ".join(f"{r:.2f} at {s:.0%}" for s, r in zip(self.shares, self.spearman, strict=True))
        verdict = "passed: maps depend on what was learned" if self.passed else "failed: maps depend little on learning"
        if self.untrained:
            verdict = "cannot tell: the network's own weights look random, as before training"
        return (
            f"{self.method}{at} {verdict}; rank correlation with the trained network's maps, by the share of random "
            f"weights: {curve}; from half of them on it must stay below {SANE}"
        )


@checked
def sanity(
    model: Model,
    pictures: Iterable[str | Path | Picture | Image.Image | npt.NDArray[Any]],
    *,
    method: str | Method = "gradcam",
    target: TargetSpec = None,
    layer: str | None = None,
    settings: Mapping[str, Any] | None = None,
    steps: int = 5,
    networks: int = 2,
    seed: int = 0,
) -> Sanity:
    """Test whether maps depend on what the network has learned: the cascading randomisation test.

    The weights become random from the last module to the first. After each step the maps for the same classes are
    compared with the trained network's. Randomised batch norms estimate their statistics on the images, so that signal
    still passes through. A method that fails shows the image, or the architecture.

    Args:
        model: from `load`, or a `Model` around a network of your own; it is not changed.
        pictures: images, all in one batch; eight or more for a steady curve.
        method: a name in `METHODS`, or a function of a `Trace` or of (net, inputs, targets).
        target: a class name or index, a target function, or None for the predicted class.
        layer: name of the target layer; None for the model's own, or else `default_layer`.
        settings: keyword arguments of the method; a mapping, since some methods have ``steps`` and a ``seed`` too.
        steps: number of steps of the cascade.
        networks: number of random networks, whose curves are averaged.
        seed: random seed of the first network.

    Returns:
        The curve; ``.passed`` and ``.sentence`` say what it means.

    Raises:
        SettingError: no images, or a target that asks for several maps per image.

    Reference:
        Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018. arXiv:1810.03292

    >>> import numpy as np
    >>> from camscope.models.loading import load
    >>> found = sanity(load("timm:resnet18", weights="none"), np.random.rand(2, 40, 40, 3), steps=2, networks=1)
    >>> found.layer, len(found.spearman)
    ('layer4', 2)
    """
    _check_counts(steps=steps, networks=networks)
    samples = [Sample.of(model, as_picture(source)) for source in pictures]
    if not samples:
        raise SettingError("a sanity check needs images to explain; give at least one")
    check_settings(settings or {}, [method])
    function, name = find_method(method), method_name(method)
    if not facts_of(function).whole_network:
        layer = layer or model.layer or default_layer(model.net, samples[0].tensor[None])
    run = BatchExplainer.over(model, samples, functions=[function], layer=layer)
    goals = _one_each(run, target)

    def explain(net: nn.Module) -> Tensor:
        rerun = BatchExplainer.over(dataclasses.replace(model, net=net), samples, functions=[function], layer=layer)
        return rerun.maps(name, function, goals=goals, settings=settings or {}).raw

    trained, inputs = run.maps(name, function, goals=goals, settings=settings or {}).raw, run.forward.pictures.detach()
    curves = [
        cascade(explain, model.net, steps=steps, seed=seed + n, maps=trained, inputs=inputs) for n in range(networks)
    ]
    return Sanity(
        method=name,
        layer="" if facts_of(function).whole_network else str(layer),
        pictures=len(samples),
        shares=tuple(round(share, 3) for share in curves[0].shares),
        spearman=_mean([curve.spearman for curve in curves]),
        ssim=_mean([curve.ssim for curve in curves]),
        untrained=looks_untrained(model.net),
    )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        check_count(name, count, most=1000)


def _one_each(run: BatchExplainer, target: TargetSpec) -> dict[int, ResolvedTarget]:
    goals = run.goals([target])
    if any(len(image_goals) != 1 for image_goals in goals):
        raise SettingError(f"a sanity check explains one target of each image, and {target!r} asks for others")
    return {i: image_goals[0] for i, image_goals in enumerate(goals)}


def _mean(curves: list[Tensor]) -> tuple[float, ...]:
    """Return the mean over networks and images, for each step."""
    return tuple(torch.cat(curves, 1).nanmean(1).tolist())
