"""Answer questions about one picture: its classes, its maps, its layers, its files."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from camscope.app.bodies import MOST_MAPS, Contrast, ExplainBody, FilesBody, LayersBody, PredictBody, StepsBody
from camscope.app.uploads import Upload
from camscope.errors import SettingError, nearest
from camscope.explanation import Explanation, explain, explain_all
from camscope.explanation.batch import BatchExplainer, Sample
from camscope.explanation.figures import layer_maps, layer_names, steps_of_map
from camscope.explanation.file_kinds import FIGURES, FILES, kinds
from camscope.explanation.pictures import speaking
from camscope.explanation.target_spec import TargetSpec, class_target, goals_of
from camscope.models.model import Model
from camscope.naming import file_name
from camscope.trace.locks import lock_of
from camscope.viewer.data import grid_data

_ENDINGS = {"svg": "image/svg+xml", "pdf": "application/pdf", "json": "application/json", "zip": "application/zip"}
_ENDINGS |= {"png": "image/png", "jpg": "image/jpeg", "npy": "application/octet-stream"}
_VECTOR = 1
_FEW = 3


def find_model(models: Mapping[str, Model], name: str) -> Model:
    """Return a loaded model by its name.

    Raises:
        SettingError: there is none.
    """
    if name not in models:
        raise SettingError(nearest("model", name, models))
    return models[name]


@contextmanager
def using(model: Model) -> Iterator[None]:
    """Lock a model for one request; its exceptions become one sentence."""
    with lock_of(model.net), speaking(model):
        yield


def number(value: float | None) -> float | None:
    """Return a number for JSON; None for what JSON does not have.

    >>> number(float("inf")), number(0.5)
    (None, 0.5)
    """
    return None if value is None or not math.isfinite(value) else float(value)


def classes(model: Model, upload: Upload, body: PredictBody) -> dict[str, Any]:
    """Return the highest classes of a picture.

    Returns:
        ``classes``: index, label, probability (None if the model has none), score and log-odds of each, the highest
        first; for boxes and segmentations label and index alone. ``notes`` on the picture and the model.
    """
    with using(model):
        run = BatchExplainer.over(model, [Sample.of(model, upload.picture)])
        output = run.outputs[0].float().cpu()
        output = output[None] if output.ndim == 0 else output
        model = run.model
        if output.ndim != _VECTOR or model.outcome == "boxes":
            goals = goals_of(model, [f"top{_FEW}"] if model.outcome == "boxes" else [None], output)
            found = [
                {"index": goal.index, "label": goal.label, "probability": None, "score": None, "log_odds": None}
                for goal in goals
            ]
        else:
            found = _ranked(model, output, body.count)
    return {"classes": found, "notes": [*run.samples[0].notes, *model.notes], "outcome": model.outcome}


def _ranked(model: Model, output: Tensor, count: int) -> list[dict[str, Any]]:
    probabilities = model.probability(output)
    scores = _with_opposite(model, output)
    order = scores if probabilities is None else probabilities
    return [
        {
            "index": i,
            "label": model.label(i),
            "probability": None if probabilities is None else number(float(probabilities[i])),
            "score": number(float(scores[i])),
            "log_odds": number(float(model.log_odds(output.double(), i))),
        }
        for i in order.topk(min(count, len(order))).indices.tolist()
    ]


def _with_opposite(model: Model, output: Tensor) -> Tensor:
    return output.new_tensor([-float(output[0]), float(output[0])]) if model.has_opposite(len(output)) else output


def target_of(model: Model, wanted: int | str | Contrast | None) -> TargetSpec:
    """Return the target of a class, or of the contrast of two.

    Raises:
        TargetError: there is no such class.
    """
    if not isinstance(wanted, Contrast):
        return wanted
    first, second = (one if isinstance(one, int) else model.index(one) for one in (wanted.of, wanted.against))

    def contrast(output: Tensor) -> Tensor:
        return class_target(model, first, output)(output) - class_target(model, second, output)(output)

    names = [model.label(index).partition(",")[0] for index in (first, second)]
    contrast.__name__ = f"{names[0]}, not {names[1]}"
    return contrast


def maps(model: Model, upload: Upload, body: ExplainBody) -> dict[str, Any]:
    """Return the maps of a picture, by method, then by target; see `map_facts`."""
    targets = [target_of(model, one) for one in body.targets]
    if len(targets) * len(body.methods or [""]) > MOST_MAPS:
        raise SettingError(f"expected at most {MOST_MAPS} maps per request, targets times methods")
    with using(model):
        found = explain_all(model, [upload.picture], methods=body.methods, targets=targets, layer=body.layer)
        return {"maps": [map_facts(e) for e in found]}


def map_facts(e: Explanation) -> dict[str, Any]:
    """Return one map as plain JSON values.

    Returns:
        label, index, score, probability, method, layer, notes, window (the part of the picture that the network saw)
        and grid: height, width, and values, the raw signed map as little-endian float32 in base64.
    """
    return {
        "label": e.label,
        "index": e.index,
        "score": number(e.score),
        "probability": number(e.probability),
        "model": e.model,
        "method": e.method,
        "layer": e.layer,
        "notes": list(e.remarks),
        "window": e.window.to_dict(),
        "grid": grid_data(e),
    }


def layer_list(model: Model, upload: Upload) -> list[str]:
    """Return the layers that a map can be asked for: one per stage of the network."""
    with using(model):
        return layer_names(model, upload.picture, "stages")


def at_layers(model: Model, upload: Upload, body: LayersBody) -> dict[str, Any]:
    """Return the map of one class at each stage of the network, first to last."""
    target = target_of(model, body.target)
    with using(model):
        found = layer_maps(model, upload.picture, layers="stages", method=body.method, target=target)
        return {"maps": [map_facts(e) for e in found]}


def step_sheet(model: Model, upload: Upload, body: StepsBody) -> bytes:
    """Return a PNG file with the steps of one map."""
    target = target_of(model, body.target)
    with using(model):
        _, sheet = steps_of_map(model, upload.picture, method=body.method, target=target, layer=body.layer)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def files(model: Model, upload: Upload, body: FilesBody) -> tuple[bytes, str, str]:
    """Return a file of one map, its media type, and a name for it; "zip" holds all of them."""
    target = target_of(model, body.target)
    with using(model):
        e = explain(model, upload.picture, method=body.method, target=target, layer=body.layer)
    display: dict[str, Any] = {
        "scale": body.scale,
        "cmap": body.cmap,
        "opacity": body.opacity,
        "picture_sha256": upload.sha256,
    }
    stem = file_name("_".join([e.name_fields()["image"], e.method, e.short_label]))
    if body.kind != "zip":
        name = f"{stem}_{FILES[body.kind]}"
        return e.content(body.kind, **display), _media_type(name), name
    contents = {FILES[kind]: e.content(kind, **display) for kind in (*kinds("all"), *FIGURES)}
    return _zipped(contents), _ENDINGS["zip"], f"{stem}.zip"


def _media_type(name: str) -> str:
    return _ENDINGS[name.rpartition(".")[2]]


def _zipped(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()
