"""Compare models and methods on one image."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import nn

from camscope.arguments import checked
from camscope.errors import SettingError, unwritable
from camscope.explanation.agreement import SAME_MAP, agreement
from camscope.explanation.pictures import Source, as_model, explain_all
from camscope.explanation.result import Explanation
from camscope.explanation.target_spec import TargetSpec
from camscope.images import as_picture
from camscope.methods import Method
from camscope.models.model import Model
from camscope.render import Cell, sheet

_TOP = 5


@dataclass(frozen=True, eq=False)
class Comparison:
    """The maps of several models, methods and targets for one image.

    Attributes:
        columns: the explanations, one column per model; rows are methods, then targets.
        titles: of the models, each unlike the others, with what is random about their weights.
        spearman: (n, n) rank correlation of the n signed maps, column by column; NaN if a map is constant.

    A notebook shows it as its sheet.
    """

    columns: tuple[tuple[Explanation, ...], ...]
    _: KW_ONLY
    titles: tuple[str, ...]
    spearman: npt.NDArray[np.float64] = field(repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a note if maps of one row are of different classes, as where models predict different ones."""
        mixed = next((cells for cells in zip(*self.columns, strict=True) if not _labels_agree(cells)), None)
        if mixed is None:
            return ()
        text = "; ".join(f"{title}: {e.short_label}" for title, e in zip(self.titles, mixed, strict=True))
        return (f"the maps of a row are of different classes ({text}); to compare maps of one class, name the class",)

    @checked
    def save(self, path: str | Path, *, scale: str = "minmax", cmap: str = "byr", opacity: float = 0.5) -> Path:
        """Write the sheet as an image.

        Args:
            path: the file; its suffix is the format, such as .png, .jpg or .pdf.
            scale: see `sheet`.
            cmap: see `sheet`.
            opacity: see `sheet`.

        Returns:
            The path.

        Raises:
            SettingError: a suffix that is no format of images.
            StoreError: it cannot be written, as on a full disk.

        >>> cs.compare(models, "dog.jpg").save("sheet.png")  # doctest: +SKIP
        PosixPath('sheet.png')
        """
        path = Path(path)
        image_format = Image.registered_extensions().get(path.suffix.lower())
        if image_format not in Image.SAVE:
            raise SettingError(f"cannot write {str(path)!r}: expected a file name that ends in .png, .jpg or .pdf")
        figure = self.sheet(scale=scale, cmap=cmap, opacity=opacity)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.save(path, image_format)
        except OSError as fault:
            raise unwritable(path, fault) from None
        return path

    @checked
    def sheet(self, *, scale: str = "minmax", cmap: str = "byr", opacity: float = 0.5) -> Image.Image:
        """Draw the comparison: one column per model with its five highest classes, one row per method and target.

        Args:
            scale: for display: "minmax", "max", "percentile" or "fixed:LO,HI".
            cmap: "byr" (low blue, medium yellow, high red) or a Matplotlib colour map.
            opacity: of the map in the overlay, 0 to 1.

        Returns:
            An RGB image.
        """
        first = [Cell(Image.fromarray(column[0].picture.rgb), _classes(column[0])) for column in self.columns]
        maps = [
            [Cell(e.overlay(scale=scale, cmap=cmap, opacity=opacity), _caption(e)) for e in cells]
            for cells in zip(*self.columns, strict=True)
        ]
        headings = [_heading(cells) for cells in zip(*self.columns, strict=True)]
        return sheet(
            [first, *maps],
            column_headings=self.titles,
            row_headings=["highest classes", *headings],
            title=self.columns[0][0].source,
            cell_width=300,
            caption_lines=_TOP + 1,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the pixels, as plain JSON values: the image, the maps and their agreement."""
        # JSON has no NaN, the agreement of a constant map.
        table = [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in self.spearman]
        maps = [e for column in self.columns for e in column]
        content = {"picture": maps[0].source, "maps": [e.to_dict() for e in maps], "spearman": table}
        return content | {"notes": list(self.notes)}

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.sheet().save(buffer, format="PNG")
        return buffer.getvalue()


@checked
def compare(
    models: Sequence[Model | nn.Module | str | Path],
    picture: Source,
    *,
    methods: Sequence[str | Method] = ("gradcam",),
    targets: TargetSpec | Sequence[TargetSpec] = None,
    engine: str = "auto",
    precision: str = "float32",
    **settings: Any,
) -> Comparison:
    """Compare models and methods on one image.

    Args:
        models: each as in `camscope.explain`; two of one name are told apart by their weights files or by a number.
        picture: as in `camscope.explain`.
        methods: names in `METHODS`, or functions.
        targets: as in `camscope.explain_all`; None for the class that each model predicts.
        engine: backend for the part of the network before the layer: "auto", "eager" (PyTorch) or "openvino".
        precision: of that part: "float32", "bfloat16", "float16" or "auto".
        **settings: keyword arguments of the methods; each takes those that it knows.

    Returns:
        The maps, and their agreement; a notebook shows it as a sheet.

    Raises:
        CamscopeError: an image, class, layer, method or setting that cannot be used.

    >>> networks = [nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()) for _ in range(2)]
    >>> found = compare(networks, np.zeros((48, 64, 3), np.uint8), methods=["gradcam", "layercam"])
    >>> found.titles, found.spearman.shape
    (('Sequential, 1', 'Sequential, 2'), (4, 4))
    """
    if isinstance(models, (str, Path)) or not len(models):
        raise SettingError("models must be a list of at least one model")
    image = as_picture(picture)
    loaded = distinct([as_model(model) for model in models])
    columns = []
    for model in loaded:
        found = explain_all(
            model, [image], methods=methods, targets=targets, engine=engine, precision=precision, **settings
        )
        columns.append(tuple(found))
    maps = [e for column in columns for e in column]
    return Comparison(tuple(columns), titles=tuple(model.title for model in loaded), spearman=agreement(maps))


def distinct(models: Sequence[Model]) -> list[Model]:
    """Return models whose names differ: those of one name get the name of their weights file, or else a number.

    >>> net = nn.Conv2d(3, 2, 1)
    >>> [model.name for model in distinct([Model("a", net), Model("b", net), Model("a", net)])]
    ['a, 1', 'b', 'a, 2']
    """
    counts = Counter(model.name for model in models)
    files = [
        model.name
        if counts[model.name] == 1 or model.recipe is None or model.recipe.weights in ("default", "none")
        else f"{model.name}, {Path(model.recipe.weights).name}"
        for model in models
    ]
    counts, seen = Counter(files), Counter[str]()
    result = []
    for model, name in zip(models, files, strict=True):
        seen[name] += 1
        result.append(replace(model, name=name if counts[name] == 1 else f"{name}, {seen[name]}"))
    return result


def _labels_agree(cells: Sequence[Explanation]) -> bool:
    return len({e.label for e in cells}) == 1


def _heading(cells: Sequence[Explanation]) -> str:
    """Return the heading of a row: its method, and its class, or the rank of different classes in their models."""
    if _labels_agree(cells):
        return f"{cells[0].method}: {cells[0].short_label}"
    ranks = {next((n for n, (label, _) in enumerate(e.top, 1) if label == e.label), 0) for e in cells}
    rank = ranks.pop() if len(ranks) == 1 else 0
    return f"{cells[0].method}: class {f'{rank} ' if rank else ''}of each model (differs)"


def _classes(e: Explanation) -> str:
    top = e.top or ((e.label, e.score),)
    return ", ".join(f"{label.partition(',')[0]} {value:.3f}" for label, value in top[:_TOP])


def _caption(e: Explanation) -> str:
    twins = [note.removeprefix(SAME_MAP).partition(":")[0] for note in e.notes if note.startswith(SAME_MAP)]
    prefix = [f"{SAME_MAP}{', '.join(twins)}"] if twins else []
    return "; ".join(filter(None, [*prefix, f"{e.short_label}, {e.certainty}", e.why_empty]))
