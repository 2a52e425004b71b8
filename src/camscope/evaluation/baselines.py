"""Trivial baselines: maps that do not depend on the network's answer. A useful method has to beat them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from camscope.cohort.case import Case
from camscope.cohort.store import key_of
from camscope.errors import CamscopeError
from camscope.heatmap import place
from camscope.images import Window, peek

UNIFORM, CENTRE, AVERAGE, RANDOM = "uniform", "centre", "averagemask", "randomcam"
BASELINES = (UNIFORM, CENTRE, AVERAGE, RANDOM)
"""Rows of every table; the last is a method, which sees the network."""
MAPLESS = (UNIFORM, CENTRE, AVERAGE)
"""Baselines that are not methods, and take no settings."""
WORDS = {
    UNIFORM: "the same heat everywhere that the network saw",
    CENTRE: "a Gaussian around the centre of what the network saw, its standard deviation a quarter of each side",
    AVERAGE: "the mean of the other images' annotations; of images of other patients, where patients are known",
    RANDOM: "the layer's activations with random weights",
}
"""Baseline -> its description."""

CELLS = 32
_SPREAD = 0.25


def uniform() -> Tensor:
    """Return a uniform map: (CELLS, CELLS) of ones."""
    return torch.ones(CELLS, CELLS)


def centre() -> Tensor:
    """Return a Gaussian (CELLS, CELLS): exp(-(u^2 + v^2) / (2 s^2)), u and v in [-1/2, 1/2] over the sides, s = 1/4.

    >>> bool(centre()[16, 16] > centre()[0, 16] > centre()[0, 0] > 0)
    True
    """
    u = (torch.arange(CELLS) + 0.5) / CELLS - 0.5
    line = torch.exp(-(u**2) / (2 * _SPREAD**2))
    return line[:, None] * line[None]


class AverageMasks:
    """The mean annotation of all images but those of one patient, for each patient.

    Annotations are averaged on CELLS x CELLS cells over the whole image; each image has the same weight.

    Args:
        cases: images with their annotations; annotations that cannot be read are skipped.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        for case in cases:
            if not case.masks or case.problem:
                continue
            try:
                mask = case.annotation(peek(case.source).size)
            except CamscopeError:
                continue
            shares = F.adaptive_avg_pool2d(torch.from_numpy(mask).double()[None], (CELLS, CELLS))[0]
            self._sums[case.patient] = self._sums.get(case.patient, torch.zeros_like(shares)) + shares
            self._counts[case.patient] = self._counts.get(case.patient, 0) + 1
        self._total = sum(self._sums.values(), torch.zeros(CELLS, CELLS, dtype=torch.float64))

    @property
    def fingerprint(self) -> str:
        """Return a key that identifies all the annotations."""
        return key_of([(patient, self._counts[patient], grid.tolist()) for patient, grid in self._sums.items()])

    def without(self, patient: str) -> Tensor | None:
        """Return the mean annotation without one patient, (CELLS, CELLS) over the whole image, in [0, 1].

        It is None if no other patient has an annotation.
        """
        count = sum(self._counts.values()) - self._counts.get(patient, 0)
        if not count:
            return None
        remainder = self._total - self._sums.get(patient, torch.zeros_like(self._total))
        return (remainder / count).clamp_min(0).float()


def as_seen(grid: Tensor, window: Window) -> Tensor:
    """Convert a map over the whole image to a map over what the network saw of it; padding is 0.

    Args:
        grid: (h, w) map over the image.
        window: part of the image that the network saw.

    Returns:
        (CELLS, CELLS) map over the window.

    >>> half = torch.tensor([[1.0, 0.0]])
    >>> as_seen(half, Window((8, 8), (0, 4), (8, 4))).abs().max().item() < 0.6  # the right half alone was seen
    True
    """
    start = tuple(-s / e * CELLS for s, e in zip(window.start, window.extent, strict=True))
    extent = tuple(size / e * CELLS for size, e in zip(window.picture, window.extent, strict=True))
    return place(grid, Window((CELLS, CELLS), start, extent))


def baseline_maps(
    name: str, *, cases: list[Case], windows: list[Window], average: AverageMasks
) -> Mapping[int, Tensor]:
    """Return the maps of a baseline without a network, by the index of the image; images without a map are left out."""
    if name != AVERAGE:
        grid = uniform() if name == UNIFORM else centre()
        return dict.fromkeys(range(len(cases)), grid)
    grids = {i: average.without(case.patient) for i, case in enumerate(cases)}
    return {i: as_seen(grid, windows[i]) for i, grid in grids.items() if grid is not None}
