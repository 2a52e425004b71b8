"""Measure the heat of a map in regions, and draw its overlay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from camscope import render
from camscope.array_types import Mask
from camscope.cohort.annotations import annotation_content
from camscope.cohort.case import Case
from camscope.cohort.regions import Scene, Source, cell_shares, evidence, region, visible_shares
from camscope.cohort.store import Row, key_of
from camscope.errors import CamscopeError
from camscope.heatmap import place
from camscope.images import Picture, Window
from camscope.study.config import ExplainSection
from camscope.study.rows import region_values
from camscope.study.study import Study

Grid = npt.NDArray[np.float32]


class Places:
    """The masks of one case; each mask is read once, when it is first needed.

    Args:
        case: the case.
        study: the study, which defines masks and cues.
    """

    def __init__(self, case: Case, study: Study) -> None:
        self.case = case
        self._names = study.file.cohort
        self._made: dict[str, Mask] = {}
        self._contents: dict[str, str] = {}

    def scene(self, label: str, window: Window, *, picture: Picture) -> Scene:
        """Return the scene of one label.

        Args:
            label: the label whose mask is called "label".
            window: the part of the image in the network's input.
            picture: the image, for regions that are computed from its pixels.
        """
        size = (window.picture[0], window.picture[1])

        def source(name: str) -> Source:
            return (lambda: self._mask(name, size)) if name in self.case.masks else None

        masks = {name: source(name) for name in self._names.masks} | {"label": source(f"label:{label}")}
        cues = {name: source(f"cue:{name}") for name in self._names.cues}
        return Scene(size, window, picture.pixels, masks, cues)

    def fingerprint(self, label: str) -> str:
        """Return a fingerprint of the masks that the regions of a label may use."""
        cells = {name: cell for name, cell in self.case.masks.items() if not name.startswith("label:")}
        cells["label"] = self.case.masks.get(f"label:{label}", "")
        return key_of(sorted((name, self._content(cell)) for name, cell in cells.items()))

    def _content(self, cell: str) -> str:
        """Return the fingerprint of a cell; "" for a file that cannot be read."""
        if cell not in self._contents:
            try:
                self._contents[cell] = annotation_content(cell, self.case.root)
            except CamscopeError:
                self._contents[cell] = ""
        return self._contents[cell]

    def _mask(self, name: str, size: tuple[int, int]) -> Mask:
        if name not in self._made:
            self._made[name] = self.case.mask(name, size)
        return self._made[name]


def measured(grid: Grid, scene: Scene, *, regions: tuple[str, ...]) -> Row:
    """Measure mass, area, enrichment and peak of a map in each region.

    Args:
        grid: (h, w) the map, signed.
        scene: the explained image.
        regions: names of the regions.

    Returns:
        The columns of the regions.
    """
    row: Row = {}
    shape = (grid.shape[0], grid.shape[1])
    view = visible_shares(scene.window, shape)
    for name in regions:
        mask = region(name, scene)
        result = None if mask is None else evidence(grid, cell_shares(mask, scene.window, shape), view)
        row |= region_values(name, result)
    return row


def drawn(picture: Picture, grid: Grid, window: Window, *, display: ExplainSection) -> Image.Image:
    """Draw the overlay of a map on its image."""
    heat = torch.from_numpy(np.nan_to_num(grid, posinf=0.0, neginf=0.0)).relu()
    heatmap = place(heat, window).numpy()
    view = window.visible()
    values = np.zeros(picture.size, np.float32)
    values[view] = render.scale(heatmap[view], display.scale)[0]
    return render.overlay(picture, values, cmap=display.cmap, opacity=display.opacity, window=window)
