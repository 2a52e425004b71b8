"""Compute and draw the mean maps of a label: by outcome and group, by cluster, and on the mean image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from camscope.cohort.store import OK
from camscope.heatmap import upsample
from camscope.images import Picture
from camscope.page.lines import Drawn
from camscope.page.pictures import data_address
from camscope.page.svg import SETTINGS, svg
from camscope.page.words import short
from camscope.render import colourise, overlay
from camscope.report.choice import Shown
from camscope.report.results import Results
from camscope.study.grids import stacked, unit

Values = npt.NDArray[np.float64]
K = TypeVar("K")

_MEMBER = ("case", "patient", "grid_height", "grid_width", "map_max")
_ON_SCALE = 3  # patients; mean maps of fewer patients do not set the scale
_SIDE = 160  # pixels of the image on the first screen
_PICTURES = 200
_WIDE = 1000  # maps; larger numbers need two lines above a panel
_OUTCOMES = {
    "TP": "present, predicted",
    "FN": "present, missed",
    "FP": "absent, predicted",
    "TN": "absent, not predicted",
}


@dataclass(frozen=True)
class MeanMap:
    """The mean over patients of some maps, each normalised to sum 1.

    Attributes:
        values: (h, w) in units of a uniform map.
        maps: number of maps with positive values.
        patients: number of patients of these maps.
        aspect: height over width of the window.
    """

    values: Values
    maps: int
    patients: int
    aspect: float

    def at(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Return the map at a size, with the interpolation of the overlays."""
        image: npt.NDArray[np.float32] = upsample(torch.from_numpy(self.values).float(), size).numpy()
        return image


def mean_maps(parts: Mapping[K, pl.DataFrame], maps: Iterable[pl.DataFrame]) -> dict[K, MeanMap]:
    """Compute the mean maps of several sets of maps; each map is read once.

    The mean of a set is cells x mean over patients of the mean over maps of R(L) / sum R(L), R the positive part.

    Args:
        parts: the rows of each set, with case, patient, grid_height, grid_width and map_max. Rows whose grid differs
            from the most frequent grid of the set are left out.
        maps: tables of the maps, with case, grid, grid_height, grid_width and window.

    Returns:
        The means; sets without any map with positive values are left out.
    """
    members = {key: member for key, rows in parts.items() if len(member := _weighed(rows))}
    weights = {key: (member["case"].to_numpy(), member["weight"].to_numpy()) for key, member in members.items()}
    sums: dict[K, Values] = {}
    aspects: dict[K, float] = {}
    for table in maps:
        table_cases = table["case"].to_numpy()
        for key, (cases, shares) in weights.items():
            place = np.minimum(np.searchsorted(cases, table_cases), len(cases) - 1)
            mask = cases[place] == table_cases
            if mask.any():
                part = table.filter(mask)
                _, _, tall, wide = part["window"][0]
                aspects.setdefault(key, float(tall / wide))
                sums[key] = sums.get(key, 0.0) + np.tensordot(shares[place[mask]], unit(stacked(part)), 1)
    contributors = {key: member.filter(pl.col("weight") > 0) for key, member in members.items()}
    return {
        key: MeanMap(sums[key] * sums[key].size, len(part), part["patient"].n_unique(), aspects[key])
        for key, part in contributors.items()
    }


def _weighed(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the cases of one set with the weights of their maps; empty if no map has positive values."""
    sizes = rows.group_by("grid_height", "grid_width", maintain_order=True).len()
    usual = sizes.sort("len", descending=True, maintain_order=True).head(1)
    members = rows.join(usual, on=["grid_height", "grid_width"], maintain_order="left")
    members = members.select(
        "case", pl.col("patient").fill_null(""), (pl.col("map_max") > 0).fill_null(value=False).alias("counts")
    )
    patients = members.filter("counts")["patient"].n_unique()
    share = pl.col("counts") / (patients * pl.col("counts").sum().over("patient"))
    weights = members.select("case", "patient", pl.when("counts").then(share).otherwise(0.0).alias("weight"))
    return weights.sort("case") if patients else weights.clear()


@dataclass(frozen=True)
class LabelMaps:
    """The mean maps of a label.

    Attributes:
        label: the label.
        whole: mean map of the true positives, or of all maps if there are no true positives.
        of: name of the cases of ``whole``.
        cells: (group, outcome) -> mean map; combinations without maps are left out.
        clusters: number of a cluster -> mean map; empty for fewer than two clusters.
        nulls: name of a null map -> mean map, on the same grid as the other maps.
    """

    label: str
    whole: MeanMap | None
    of: str
    cells: Mapping[tuple[str, str], MeanMap]
    clusters: Mapping[int, MeanMap]
    nulls: Mapping[str, MeanMap]


def label_maps(results: Results, label: str) -> LabelMaps:
    """Read the maps of a label and compute their means."""
    condition = (pl.col("label") == label) & (pl.col("status") == OK) & pl.col("grid_height").is_not_null()
    maps = results.first.filter(condition).select(*_MEMBER, "group", "outcome")
    hits = maps.filter(pl.col("outcome") == "TP")
    parts: dict[tuple[str, ...], pl.DataFrame] = {("whole",): hits if len(hits) else maps}
    for group in results.groups or ("",):
        of_group = maps.filter(pl.col("group") == group) if group else maps
        parts |= {("cell", group, outcome): of_group.filter(pl.col("outcome") == outcome) for outcome in _OUTCOMES}
    audited = {} if results.audit is None else results.audit["labels"].get(label, {})
    content = audited.get("clusters", {})
    if content.get("number", 0) > 1:
        for number in range(content["number"]):
            members = [int(case) for case, cluster in content["cases"].items() if cluster == number]
            parts["cluster", str(number)] = maps.filter(pl.col("case").is_in(members))
    means = mean_maps(parts, results.maps(label, results.methods[0]))
    cells = {(key[1], key[2]): mean for key, mean in means.items() if key[0] == "cell"}
    clusters = {int(key[1]): mean for key, mean in means.items() if key[0] == "cluster"}
    of = "present and predicted" if len(hits) else "all"
    whole = means.get(("whole",))
    nulls = {
        name: MeanMap(np.array(values, np.float64), 0, 0, 1.0 if whole is None else whole.aspect)
        for name, values in audited.get("null_maps", {}).items()
    }
    return LabelMaps(label, whole, of, cells, clusters, nulls)


def top_of(labels: Sequence[LabelMaps]) -> float:
    """Return the upper end of the scale that all mean maps share; the lower end is 0."""
    means = [m for label_map in labels for m in (*label_map.cells.values(), label_map.whole) if m is not None]
    reliable = [m for m in means if m.patients >= _ON_SCALE] or means
    return max([2.0, *(float(m.values.max()) for m in reliable)])


def outcome_figure(maps: LabelMaps, *, top: float, name: str) -> Drawn | None:
    """Draw the mean maps by outcome and group, with the null maps in the last row."""
    if not maps.cells:
        return None
    groups = list(dict.fromkeys(group for group, _ in maps.cells))
    kinds = [kind for kind in _OUTCOMES if any(kind == outcome for _, outcome in maps.cells)]
    panels = [
        [(f"{kind} {short(group, 10)}".strip(), maps.cells.get((group, kind))) for group in groups] for kind in kinds
    ]
    flat = next(iter(maps.cells.values()))
    uniform = MeanMap(np.ones_like(flat.values), 0, 0, flat.aspect)
    panels.append([("uniform map", uniform), *maps.nulls.items()])
    rows = [
        (
            group or "all",
            f"{kind} ({_OUTCOMES[kind]})",
            str(m.maps),
            str(m.patients),
            f"{m.values.max():.2f}",
            _place(m),
        )
        for (group, kind), m in maps.cells.items()
    ]
    text = "; ".join(f"{row[0]} {row[1]}: {row[2]} maps, highest {row[4]} at the {row[5]}" for row in rows)
    columns = ("Group", "Outcome", "Maps", "Patients", "Highest (1 = uniform)", "Where")
    picture = _panels(panels, top=top, name=name, text=f"Mean maps of {maps.label}. {text}.")
    return Drawn(maps.label, picture, columns, rows)


def cluster_figure(maps: LabelMaps, *, top: float, name: str) -> Drawn | None:
    """Draw the mean map of each cluster."""
    if not maps.clusters:
        return None
    panels = [[(f"cluster {number + 1}", m) for number, m in maps.clusters.items()]]
    rows = [
        (f"cluster {number + 1}", str(m.maps), str(m.patients), f"{m.values.max():.2f}", _place(m))
        for number, m in maps.clusters.items()
    ]
    text = "; ".join(f"{row[0]}: {row[1]} maps, highest at the {row[4]}" for row in rows)
    columns = ("Cluster", "Maps", "Patients", "Highest (1 = uniform)", "Where")
    picture = _panels(panels, top=top, name=name, text=f"Clusters of {maps.label}. {text}.")
    return Drawn(maps.label, picture, columns, rows)


def _panels(panels: Sequence[Sequence[tuple[str, MeanMap | None]]], *, top: float, name: str, text: str) -> str:
    down, across = len(panels), max(map(len, panels))
    aspect = next(m.aspect for row in panels for _, m in row if m is not None)
    colours = ListedColormap(colourise(np.linspace(0, 1, 256)[None])[0] / 255)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(1.0 * across + 0.6, (aspect + 0.42) * down), layout="constrained")
        axes: Any = figure.subplots(down, across, squeeze=False)
        image = None
        for i, j in np.ndindex(down, across):
            ax, panel = axes[i, j], panels[i][j] if j < len(panels[i]) else ("", None)
            ax.set_axis_off()
            title, m = panel
            if m is None:
                if title:
                    ax.set_title(f"{title}\nno maps", fontsize=8, color="#55606f", fontweight="normal", loc="center")
                continue
            people = f"({m.patients})" if m.maps < _WIDE else f"\n({m.patients:,})"
            count = f"\n{m.maps:,} maps {people}" if m.maps else ""
            ax.set_title(
                (title if m.maps else title.replace(" ", "\n", 1)) + count,
                fontsize=8,
                fontweight="normal",
                loc="center",
            )
            image = ax.imshow(m.at((96, 96)), cmap=colours, vmin=0, vmax=top, aspect=aspect, interpolation="nearest")
        if image is not None:
            bar = figure.colorbar(image, ax=axes, fraction=0.05, shrink=0.9, pad=0.03)
            bar.outline.set_visible(False)
            bar.ax.axhline(1, color="#1b2330", lw=1)
            bar.set_ticks(
                sorted({0, 1, round(top / 2, 1), round(top, 1)} - ({round(top / 2, 1)} if top < 4 else set()))
            )
    return svg(figure, name, text=text)


def _place(m: MeanMap) -> str:
    """Return the position of the maximum of a mean map, in words."""
    i, j = np.unravel_index(int(m.values.argmax()), m.values.shape)
    height, width = m.values.shape
    rows = ("top", "middle", "bottom")[min(int(3 * (int(i) + 0.5) / height), 2)]
    columns = ("left", "centre", "right")[min(int(3 * (int(j) + 0.5) / width), 2)]
    return f"{rows} {columns}"


class MeanPictures:
    """Average the images of each label's true positives, one image at a time.

    Args:
        results: results of a study.
        shown: the cases of the gallery, whose images are read.
    """

    def __init__(self, results: Results, shown: Shown) -> None:
        self._sums: dict[str, Values] = {}
        self._counts: Counter[str] = Counter()
        self._windows: dict[int, list[tuple[str, list[float]]]] = {}
        first = pl.col("method") == results.methods[0]
        hits = shown.rows.filter(first & (pl.col("outcome") == "TP") & pl.col("window").is_not_null())
        for label in results.labels:
            label_hits = hits.filter(pl.col("label") == label).head(_PICTURES)
            for case, window in label_hits.select("case", "window").iter_rows():
                self._windows.setdefault(case, []).append((label, window))

    def add(self, case: int, thumbnail: Image.Image, *, size: tuple[int, int]) -> None:
        """Add the thumbnail of a case; size is the (height, width) of the original image."""
        grey = thumbnail.convert("L")
        across, down = grey.width / size[1], grey.height / size[0]
        for label, (top, left, height, width) in self._windows.get(case, ()):
            box = (left * across, top * down, (left + width) * across, (top + height) * down)
            inside = (max(box[0], 0), max(box[1], 0), min(box[2], grey.width), min(box[3], grey.height))
            if inside != box:
                grey_box = grey.crop(tuple(map(round, box)))  # type: ignore[arg-type]  # padding is black
                crop = grey_box.resize((_SIDE, _SIDE))
            else:
                crop = grey.resize((_SIDE, _SIDE), box=box)
            self._sums[label] = self._sums.get(label, np.zeros((_SIDE, _SIDE))) + np.asarray(crop, np.float64) / 255
            self._counts[label] += 1

    def count(self, label: str) -> int:
        """Return the number of images in the mean of a label."""
        return self._counts[label]

    def shown(self, maps: LabelMaps, *, top: float) -> str:
        """Return the mean map of a label over its mean image, as a data address; "" without a map."""
        if maps.whole is None:
            return ""
        values = maps.whole.at((_SIDE, _SIDE)) / top
        if self._counts[maps.label]:
            grey = (self._sums[maps.label] / self._counts[maps.label]).astype(np.float32)
            image = overlay(Picture(grey[..., None]), values, opacity=0.45)
        else:
            image = Image.fromarray(colourise(values))
        image = image.resize((_SIDE, max(1, round(_SIDE * maps.whole.aspect))))
        return data_address(image)


def scale_address() -> str:
    """Return the colours of the maps from low to high, as a data address."""
    strip: npt.NDArray[Any] = np.linspace(0, 1, 128)[None].repeat(8, 0)
    return data_address(Image.fromarray(colourise(strip)), quality=95)
