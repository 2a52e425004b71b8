"""One explanation of a volume: the map of one target, on the volume's own grid."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from camscope.arguments import checked
from camscope.errors import require
from camscope.explanation.file_kinds import file_names
from camscope.explanation.result import Explanation, Shown
from camscope.images import Volume, volume_suffix
from camscope.naming import file_name
from camscope.render.panel import framed
from camscope.render.slices import VolumeView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GZIP_LEVEL = 6
_SIDES = (("R", "L"), ("A", "P"), ("S", "I"))


@dataclass(frozen=True, eq=False)
class VolumeExplanation(Explanation):
    """Explanation of one volume: the map of one target.

    Images of it show the axial, coronal and sagittal slice through the peak of the map, in the radiological convention:
    the patient's right is on the left.

    Attributes:
        heatmap: (I, J, K) float32 >= 0, the map after the ReLU on the volume's own grid, 0 outside of what the network
            saw.
        grid: the map on the layer's own grid, in the axes of the network's input: signed, not scaled, before the ReLU.
        picture: the volume.
        window: the part of the volume that the network saw, on the volume's own axes.

    Examples:
        >>> import camscope as cs
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> volume = cs.Volume(np.random.default_rng(0).random((20, 24, 16)).astype(np.float32))
        >>> e = cs.explain(net, volume, preprocess=cs.VolumePreprocess((16, 16, 16)), target=0)
        >>> e.heatmap.shape, e.grid.shape
        ((20, 24, 16), (14, 14, 14))
    """

    picture: Volume = field(kw_only=True, repr=False)  # type: ignore[assignment]

    @cached_property
    def peak(self) -> tuple[int, int, int] | None:
        """Return the voxel (i, j, k) with the highest value of the heat map; None of an empty map.

        Of several, the one nearest to their mean.
        """
        heatmap = self.cpu().heatmap
        highest = heatmap.max()
        if not highest > 0:
            return None
        places = np.argwhere(heatmap == highest)
        i, j, k = places[((places - places.mean(0)) ** 2).sum(1).argmin()].tolist()
        return i, j, k

    @property
    def peak_world(self) -> tuple[float, float, float] | None:
        """Return the place of the peak in millimetres, right, anterior and superior (RAS); None of an empty map."""
        return None if self.peak is None else self.picture.world(self.peak)

    @property
    def peak_text(self) -> str:
        """Return the place of the peak in words, such as "L 12, A 30, S 94 mm"; "" of an empty map."""
        if self.peak_world is None:
            return ""
        places = zip(self.peak_world, _SIDES, strict=True)
        return ", ".join(f"{sides[int(mm < 0)]} {abs(mm):.0f}" for mm, sides in places) + " mm"

    @checked
    def montage(self, *, scale: str = "minmax", cmap: str = "byr", opacity: float = 0.5) -> Image.Image:
        """Draw axial slices with the heat map, from the upper end of what the network saw to its lower end."""
        return self._image("montage", lambda: self.scaled(scale), cmap=cmap, opacity=opacity)

    @checked
    def figure(self, *, scale: str = "minmax", cmap: str = "byr", opacity: float = 0.5) -> Figure:
        """Return the three slices through the peak, alone and with the map, as a Matplotlib figure."""
        from matplotlib.figure import Figure

        drawn = self.panel(scale=scale, cmap=cmap, opacity=opacity)
        figure = Figure(figsize=(drawn.width / 120, drawn.height / 120))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(drawn)
        axes.set_axis_off()
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the voxels, as plain JSON values."""
        peak = None if self.peak is None else {"voxel": list(self.peak), "world": list(self.peak_world or ())}
        return {**super().to_dict(), "volume": self.picture.to_dict(), "peak": peak}

    def file_names(self, files: str, write: str | Sequence[str], fields: Mapping[str, str]) -> dict[str, str]:
        """Return the relative path of each kind of file, by the names for the fields of a pattern; see `save`."""
        return file_names(files, write, fields, volume=True)

    def name_fields(self) -> dict[str, str]:
        """Return the harmless names for the fields of a pattern of file names, but for the kind."""
        name, _, frame = Path(self.source).name.partition("#")
        stem = name[: len(name) - len(volume_suffix(name))]
        return super().name_fields() | {"image": file_name(stem + frame)}

    def _content(
        self,
        kind: str,
        suffix: str,
        scaled_map: Callable[[], Shown],
        display: Mapping[str, Any],
        hash_of: Callable[[str], str | None],
    ) -> bytes:
        """Return the bytes of a kind of file; ``hash_of`` returns the sha256 of the source."""
        if kind != "nii":
            return super()._content(kind, suffix, scaled_map, display, hash_of)
        nibabel = require("nibabel", "writing map.nii.gz", "volumes")
        image = nibabel.Nifti1Image(self.cpu().heatmap, self.picture.affine)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = f"camscope {self.method} {self.short_label}".encode("ascii", "replace")[:79]
        image.set_qform(self.picture.affine, code=1)  # a shear, as of a tilted gantry, is in the sform alone
        image.set_sform(self.picture.affine, code=1)
        return gzip.compress(image.to_bytes(), compresslevel=_GZIP_LEVEL)

    def _image(self, kind: str, scaled_map: Callable[[], Shown], *, cmap: str, opacity: float) -> Image.Image:
        """Return a kind of image of a scaled map."""
        values, limits = scaled_map()
        voxel = self.peak or tuple(n // 2 for n in self.picture.size)
        view = VolumeView(self.picture, values, self.window, self._levels, cmap, opacity)
        if kind == "montage":
            return view.montage(voxel, title=f"{self.label}, {self.certainty}, {self.method}")
        if kind != "panel":
            return view.strip(kind, voxel)
        tiles: dict[str, Image.Image] = {}
        for shown in ("original", "overlay"):
            captions = (
                view.captions(voxel) if shown == "original" else ["with the map", "with the map ", "with the map  "]
            )
            tiles |= dict(zip(captions, view.tiles(shown, voxel), strict=True))
        facts = self._panel_facts() | {"volume": self.source}
        facts.pop("image", None)
        facts |= {"peak": self.peak_text} if self.peak else {}
        return framed(tiles, limits=limits, title=self.label, facts=facts, notes=self.remarks, cmap=cmap)

    @property
    def _levels(self) -> tuple[float, float] | None:
        """Return the values that are shown black and white: those that the network's preprocessing cuts to."""
        levels = self.repeat.get("preprocess", {}).get("value_range")
        return (float(levels[0]), float(levels[1])) if levels else None
