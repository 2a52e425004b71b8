"""One explanation: the map of one image for one target, with the data to show, save and repeat it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from camscope import render
from camscope.arguments import checked
from camscope.errors import SettingError, unwritable
from camscope.explanation.file_kinds import FIGURES, FILES, OF_VOLUMES, file_names
from camscope.explanation.replaced_files import warn_if_replaced
from camscope.images import Picture, Window
from camscope.naming import file_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PASSED = "completeness residual below"
"""Beginning of the note on a passed check."""
_EMPTY = ("the map is empty", "the map is flat")
"""Beginnings of the notes on maps that show nothing."""
_JPEG_QUALITY = 92
_PNG_LEVEL = 3

Shown = tuple[npt.NDArray[np.float32], tuple[float, float]]
"""A heatmap (H, W) scaled to [0, 1] for display, and the raw values at 0 and 1."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Explanation of one image: the map of one target.

    With ``explain_all(..., to="device")``, heat map and grid are tensors on the model's device. `cpu` returns arrays;
    methods that show or write the map call it.

    Attributes:
        heatmap: (H, W) float32 >= 0, the map after the ReLU at image size, 0 outside of what the network saw; not
            rescaled.
        grid: (h, w) float32, the map on the layer's own grid: signed, not scaled, before the ReLU.
        label: name of the target.
        index: class index of the target; None for a target function.
        score: the explained score, before a final softmax or sigmoid.
        probability: probability of the class, in [0, 1]; None if the model has no probabilities.
        model: name of the model.
        method: name of the method.
        layer: name of the target layer.
        source: path, address or name of the image.
        notes: notes on the map, such as why it is empty.
        picture: the image.
        window: the part of the image that the network saw.
        top: the five highest classes, (label, probability or score).
        repeat: further settings that reproduce the explanation; plain JSON values.
    """

    heatmap: npt.NDArray[np.float32] = field(repr=False)
    grid: npt.NDArray[np.float32] = field(repr=False)
    _: KW_ONLY
    label: str
    index: int | None
    score: float
    probability: float | None
    model: str
    method: str
    layer: str
    source: str
    notes: tuple[str, ...] = ()
    picture: Picture = field(repr=False)
    window: Window = field(repr=False)
    top: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    repeat: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def short_label(self) -> str:
        """Return the first synonym of a label: "tabby" of "tabby, tabby cat"."""
        return self.label.partition(",")[0]

    @property
    def certainty(self) -> str:
        """Return the probability, or the score where there is none, as in "p = 0.875"."""
        return certainty(self.probability, self.score)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return the notes that a reader of the map needs: all but those on passed checks."""
        return tuple(note for note in self.notes if not note.startswith(_PASSED))

    @property
    def why_empty(self) -> str:
        """Return the note that says why the map shows nothing; "" if there is none."""
        return next((note for note in self.notes if note.startswith(_EMPTY)), "")

    def cpu(self) -> Explanation:
        """Return the same with the heatmap and the grid as NumPy arrays."""
        return replace(self, heatmap=_array(self.heatmap), grid=_array(self.grid))

    @checked
    def scaled(self, scale: str = "minmax") -> Shown:
        """Return the heatmap scaled for display, over the part of the image that the network saw.

        Args:
            scale: "minmax", "max", "percentile" or "fixed:LO,HI".

        Returns:
            (H, W) in [0, 1], and the raw values at 0 and 1.
        """
        region = self.window.visible()
        values, limits = render.scale(_array(self.heatmap[region]), scale)
        whole = np.zeros(self.heatmap.shape, np.float32)
        whole[region] = values
        return whole, limits

    @checked
    def overlay(self, *, scale: str = "minmax", cmap: str = "byr", opacity: float = 0.5) -> Image.Image:
        """Return the heatmap laid over the image, at image size; what the network did not see stays uncoloured."""
        return self._image("overlay", lambda: self.scaled(scale), cmap=cmap, opacity=opacity)

    @checked
    def panel(self, *, scale: str = "minmax", cmap: str = "byr", opacity: float = 0.5) -> Image.Image:
        """Draw original, heat map and overlay side by side, labelled, with a colour bar in real values."""
        return self._image("panel", lambda: self.scaled(scale), cmap=cmap, opacity=opacity)

    @checked
    def figure(self, *, scale: str = "minmax", cmap: str = "byr", opacity: float = 0.5) -> Figure:
        """Return the image and the overlay as a Matplotlib figure, with a colour bar in real values."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize

        low, high = self.scaled(scale)[1]
        figure = _shown_figure()(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.imshow(self.picture.rgb)
        right.imshow(self.overlay(scale=scale, cmap=cmap, opacity=opacity))
        left.set_title("image")
        right.set_title(f"{self.short_label}, {self.certainty}")
        for axes in (left, right):
            axes.set_axis_off()
        colours = ListedColormap(render.colourise(np.linspace(0, 1, 256)[None], cmap)[0] / 255)
        figure.colorbar(ScalarMappable(Normalize(low, high), colours), ax=right, label=self.method)
        figure.suptitle(f"{self.model} | {self.method} | {self.layer}")
        return figure

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.panel().save(buffer, format="PNG")
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the pixels, as plain JSON values."""
        grid = _array(self.grid)
        finite = grid[np.isfinite(grid)]
        raw = (
            {"min": float(finite.min()), "max": float(finite.max()), "sum": float(finite.sum())} if finite.size else {}
        )
        return {
            "source": self.source,
            "label": self.label,
            "index": self.index,
            "score": self.score,
            "probability": self.probability,
            "top": [{"label": label, "value": value} for label, value in self.top],
            "model": self.model,
            "method": self.method,
            "layer": self.layer,
            "grid": list(grid.shape),
            "raw": raw,
            "notes": list(self.notes),
            "window": self.window.to_dict(),
            **self.repeat,
            "versions": versions(),
        }

    @checked
    def save(
        self,
        folder: str | Path,
        *,
        write: str | Sequence[str] = "all",
        files: str = "{kind}",
        scale: str = "minmax",
        cmap: str = "byr",
        opacity: float = 0.5,
    ) -> list[Path]:
        """Write the explanation into a folder.

        Files of the same names are replaced; a warning says if the record is that of another explanation.

        Args:
            folder: output folder; created if missing.
            write: kinds of file, see `FILES`, as a list or with commas: the original, the map as an 8-bit grey
                image (grayscale) and in colours (heatmap), the overlay, a labelled panel, the signed map on the
                layer's grid (npy), and everything needed to repeat it (json); or "all" for these; also the figure as
                svg or pdf.
            files: pattern of their paths in the folder, with the fields image, method, label, model and kind in
                braces, such as "{image}_{kind}.png"; .jpg or .png at its end is the format of all images.
            scale: for display: "minmax", "max", "percentile" or "fixed:LO,HI".
            cmap: "byr" (low blue, medium yellow, high red) or a Matplotlib colour map.
            opacity: of the map in the overlay, 0 to 1.

        Returns:
            The paths of the files.

        Raises:
            SettingError: an unknown kind, pattern, scale or colour map.
            StoreError: it cannot be written, as on a full disk.
        """
        folder = Path(folder)
        paths = {kind: folder / name for kind, name in self.file_names(files, write, self.name_fields()).items()}
        warn_if_replaced(paths, self.to_dict)
        self.write_files(paths, scale=scale, cmap=cmap, opacity=opacity)
        return list(paths.values())

    def file_names(self, files: str, write: str | Sequence[str], fields: Mapping[str, str]) -> dict[str, str]:
        """Return the relative path of each kind of file, by the names for the fields of a pattern; see `save`."""
        names = file_names(files, write, fields)
        if wrong := next((kind for kind in names if kind in OF_VOLUMES), None):
            raise SettingError(f"{wrong!r} is a file of volumes, and {self.source!r} is an image")
        return names

    def name_fields(self) -> dict[str, str]:
        """Return the harmless names for the fields of a pattern of file names, but for the kind."""
        stem = Path(self.source.partition("#")[0]).stem + self.source.partition("#")[2]
        names = {"image": stem, "method": self.method, "label": self.short_label, "model": self.model}
        return {field: file_name(text) for field, text in names.items()}

    def write_files(
        self, paths: Mapping[str, Path], *, scale: str = "minmax", cmap: str = "byr", opacity: float = 0.5
    ) -> None:
        """Write kinds of file, each to its path; see `save`."""
        scaled_map = functools.cache(functools.partial(self.scaled, scale))
        display = {"scale": scale, "cmap": cmap, "opacity": opacity}
        for kind, path in paths.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._content(kind, path.suffix, scaled_map, display, _file_hash))
            except OSError as fault:
                raise unwritable(path, fault) from None

    @checked
    def content(
        self,
        kind: str,
        *,
        scale: str = "minmax",
        cmap: str = "byr",
        opacity: float = 0.5,
        picture_sha256: str | None = None,
    ) -> bytes:
        """Return the bytes of one kind of file, as `save` writes it, without touching any file.

        Args:
            kind: in `FILES`, such as "panel" or "pdf".
            scale: for display, see `save`.
            cmap: colour map, see `save`.
            opacity: of the map in the overlay, 0 to 1.
            picture_sha256: hash of the file of the image, for "json".

        Raises:
            SettingError: an unknown kind, scale or colour map.
        """
        (kind,) = self.file_names("{kind}", [kind], {})
        scaled_map = functools.cache(functools.partial(self.scaled, scale))
        display = {"scale": scale, "cmap": cmap, "opacity": opacity}
        return self._content(kind, PurePosixPath(FILES[kind]).suffix, scaled_map, display, lambda _: picture_sha256)

    def _content(
        self,
        kind: str,
        suffix: str,
        scaled_map: Callable[[], Shown],
        display: Mapping[str, Any],
        hash_of: Callable[[str], str | None],
    ) -> bytes:
        """Return the bytes of a kind of file; ``hash_of`` returns the sha256 of the source."""
        buffer = io.BytesIO()
        if kind in FIGURES:
            self.figure(**display).savefig(buffer, format=kind)
        elif kind == "npy":
            np.save(buffer, _array(self.grid))
        elif kind == "json":
            low, high = scaled_map()[1]
            content = self.to_dict() | {"display": {**display, "low": low, "high": high}}
            text = json.dumps(content | {"picture_sha256": hash_of(self.source)}, indent=2, ensure_ascii=False)
            # File names that are not UTF-8 contain characters that JSON must escape.
            return (text + "\n").encode("utf-8", "backslashreplace")
        else:
            colours = {"cmap": display["cmap"], "opacity": display["opacity"]}
            # Each format ignores the option of the other.
            image = self._image(kind, scaled_map, **colours)
            image_format = Image.registered_extensions()[suffix.lower()]
            image.save(buffer, image_format, quality=_JPEG_QUALITY, compress_level=_PNG_LEVEL)
        return buffer.getvalue()

    def _image(self, kind: str, scaled_map: Callable[[], Shown], *, cmap: str, opacity: float) -> Image.Image:
        """Return a kind of image of a scaled map."""
        if kind == "original":
            return Image.fromarray(self.picture.rgb)
        values, limits = scaled_map()
        if kind == "grayscale":
            return render.grey(values)
        if kind == "heatmap":
            return Image.fromarray(render.colourise(values, cmap, window=self.window))
        if kind == "overlay":
            return render.overlay(self.picture, values, cmap=cmap, opacity=opacity, window=self.window)
        return render.panel(
            self.picture,
            values,
            limits=limits,
            title=self.label,
            facts=self._panel_facts(),
            notes=self.remarks,
            cmap=cmap,
            opacity=opacity,
            window=self.window,
        )

    def _panel_facts(self) -> dict[str, str]:
        facts = {"score": f"{self.score:.3g}"}
        if self.probability is not None:
            facts["probability"] = f"{self.probability:.3f}"
        if self.top:
            facts["highest"] = ", ".join(f"{label.partition(',')[0]} {value:.3f}" for label, value in self.top)
        return facts | {"model": self.model, "method": self.method, "layer": self.layer, "image": self.source}


def certainty(probability: float | None, score: float = math.nan) -> str:
    """Return a probability, or the score where there is none, in words.

    >>> certainty(0.875, 2.0), certainty(None, 2.0)
    ('p = 0.875', 'score 2')
    """
    return f"score {score:.3g}" if probability is None else f"p = {probability:.3f}"


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    packages = ("camscope", "torch", "torchvision", "timm", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


@functools.cache
def _shown_figure() -> type[Figure]:
    """Return the class of figures that notebooks show without pyplot."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return ShownFigure


def _array(values: Any) -> npt.NDArray[np.float32]:
    """Return an array as it is, and a tensor on any device as an array."""
    array: npt.NDArray[np.float32] = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    return array


def _file_hash(source: str) -> str | None:
    path = Path(source)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    except OSError:
        return None
