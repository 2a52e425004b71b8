"""One forward pass of a model over images, and its maps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camscope.errors import OutputError
from camscope.explanation.agreement import SAME_MAP, same_map
from camscope.explanation.apply import apply_method, run_pass
from camscope.explanation.diagnosis import network_notes, notes
from camscope.explanation.method_lookup import check_needs, known
from camscope.explanation.picture_notes import picture_notes, volume_notes
from camscope.explanation.recorded_layer import RecordedLayer, carried_share
from camscope.explanation.result import Explanation
from camscope.explanation.target_spec import ResolvedTarget as ResolvedTarget
from camscope.explanation.target_spec import TargetSpec
from camscope.explanation.target_spec import goals_of as goals_of
from camscope.explanation.volume_result import VolumeExplanation
from camscope.heatmap import place
from camscope.images import Volume, Window
from camscope.methods import Method, NetworkMethod, facts_of
from camscope.methods.joint import without_autocast
from camscope.models.device import stacked
from camscope.models.model import Model
from camscope.targets import Target
from camscope.trace import Forward, Layout
from camscope.trace.outputs import choosing_output

_SHOWN = 5
_UNCLEAR = (
    "the network has one output, and nothing tells whether it is a value or the logit of a class, so it has no "
    "probability; pass labels= or outcome="
)


class Sample(NamedTuple):
    """An image prepared for a model."""

    source: str
    picture: Any  # a Picture or a Volume
    tensor: Tensor
    window: Window
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model, picture: Any, *, source: str | None = None) -> Sample:
        """Prepare an image (a Picture or a Volume) for a model, with the notes on it."""
        tensor, window = model.preprocess(picture)
        if isinstance(picture, Volume):
            notes = volume_notes(picture, tensor, window)
        else:
            notes = (*picture_notes(picture, tensor, window), *model.preprocess.notes(picture))
        return cls(picture.source if source is None else source, picture, tensor, window, notes)


@dataclass(frozen=True)
class BatchExplainer:
    """One forward pass of a model over images.

    Attributes:
        model: the model.
        samples: the prepared images.
        forward: the recorded forward pass.
        recorded: the layer that was recorded; None if no method needs one.
        layer: the layer that was named, by the caller or the model.
        layout: axes of that layer's output, if the model knows them.
    """

    model: Model
    samples: Sequence[Sample]
    forward: Forward
    recorded: RecordedLayer | None
    layer: str | None = None
    layout: Layout | None = None

    @classmethod
    def over(
        cls,
        model: Model,
        samples: Sequence[Sample],
        *,
        functions: Iterable[Method | NetworkMethod] = (),
        layer: str | None = None,
        engine: str = "eager",
        precision: str = "float32",
    ) -> BatchExplainer:
        """Run a model once, and record what some methods need; without methods only the outputs are of use.

        Args:
            model: the model.
            samples: the prepared images.
            functions: methods that will use the pass.
            layer: name of the target layer; None for the model's own, or else `default_layer`.
            engine: backend for the part of the network before the layer: "eager" (PyTorch) or "openvino"; methods that
                see the whole network always run in eager PyTorch.
            precision: of that part: "float32", "bfloat16", "float16" or "auto".

        Raises:
            MethodError: a method needs something that the model cannot give, such as the gradients of a black box.
        """
        functions = list(functions)
        check_needs(model.net, functions)
        parameter = next(model.net.parameters(), torch.empty(0))
        x = stacked([sample.tensor for sample in samples], like=parameter)
        layer = layer or model.layer
        layout = model.layout if layer == model.layer else None
        with choosing_output(model.output, columns=len(model.labels)):
            forward, recorded_layer = run_pass(
                model.net, x, functions, layer=layer, layout=layout, engine=engine, precision=precision
            )
        outputs = forward.outputs
        model.check_labels(outputs.shape[1] if outputs.ndim > 1 else 1)
        return cls(model.after(forward.bypassed), samples, forward, recorded_layer, layer, layout)

    @property
    def outputs(self) -> Tensor:
        """Return the scores (B, ...) before a final softmax or sigmoid."""
        return self.forward.outputs.detach()

    @property
    def scores(self) -> Tensor:
        """Return the scores (B, classes) in float32 before a final softmax or sigmoid, on their device.

        Raises:
            OutputError: the network returns a map of scores or boxes.
        """
        outputs = self.outputs.float()
        if self.model.outcome == "boxes" or outputs.ndim > 2:
            shape = " x ".join(map(str, outputs.shape[1:]))
            what = "boxes" if self.model.outcome == "boxes" else f"{shape} values per image"
            raise OutputError(
                f"{self.model.name} returns {what}, where one score per class is needed: use a classifier (`camscope "
                "explain` takes detectors and segmentation networks too)"
            )
        return outputs[:, None] if outputs.ndim == 1 else outputs

    @property
    def _model_notes(self) -> tuple[str, ...]:
        outputs = self.forward.outputs
        columns = outputs.shape[1] if outputs.ndim == 2 else 1
        is_unclear = outputs.ndim < 3 and self.model.is_unclear(columns)
        return (*((_UNCLEAR,) if is_unclear else ()), *self.model.notes)

    def goals(self, wanted: Sequence[TargetSpec]) -> list[list[ResolvedTarget]]:
        """Return the targets of each image; places are in pixels of the image."""
        pairs = zip(self.outputs, self.samples, strict=True)
        return [goals_of(self.model, wanted, output, window=sample.window) for output, sample in pairs]

    def explain(
        self,
        functions: Sequence[tuple[str, Method | NetworkMethod]],
        goals: Sequence[Sequence[ResolvedTarget]],
        *,
        settings: Mapping[str, Any],
        to: str = "cpu",
    ) -> Iterator[tuple[int, Explanation]]:
        """Explain some targets in each image; images may have different numbers of them.

        Args:
            functions: methods with their names.
            goals: the targets of each image.
            settings: keyword arguments of the methods; each takes those that it knows.
            to: "cpu", or "device" to leave the maps on the device where they were computed.

        Yields:
            The index of the image and the explanation: by image, then by method, then by target.
        """
        columns = [
            {i: image_goals[n] for i, image_goals in enumerate(goals) if len(image_goals) > n}
            for n in range(max(map(len, goals), default=0))
        ]
        map_sets: list[tuple[str, int, dict[int, _ImageMap]]] = []
        for name, function in functions:
            for n, column in enumerate(columns):
                windows = [self.samples[i].window for i in column]
                method_maps = self.maps(name, function, goals=column, settings=settings)
                map_sets.append((name, n, method_maps.placed(windows, to=to)))
        _mark_same(map_sets)
        outputs = self.outputs.float().cpu()
        outputs = outputs[:, None] if outputs.ndim == 1 else outputs
        probabilities = self.model.probability(outputs) if outputs.ndim == 2 else None
        repeat = {name: _RepeatRecord(self, known(function, settings)) for name, function in functions}
        for i, sample in enumerate(self.samples):
            values = outputs[i] if probabilities is None else probabilities[i]
            top = _top(self.model, values)
            for name, n, maps in map_sets:
                if i not in maps:
                    continue
                goal, image_map = goals[i][n], maps[i]
                yield (
                    i,
                    (VolumeExplanation if isinstance(sample.picture, Volume) else Explanation)(
                        heatmap=image_map.heatmap,
                        grid=image_map.grid,
                        label=goal.label,
                        index=goal.index,
                        score=image_map.score,
                        probability=_probability(self.model, goal, image_map.score, probabilities, image=i),
                        model=self.model.name,
                        method=name,
                        layer=image_map.layer,
                        source=sample.source,
                        notes=(
                            *sample.notes,
                            *filter(None, [goal.note]),
                            *image_map.notes,
                            *filter(None, [_score_note(image_map.score)]),
                            *self._model_notes,
                        ),
                        picture=sample.picture,
                        window=sample.window,
                        top=top,
                        repeat=repeat[name],
                    ),
                )

    def maps(
        self,
        name: str,
        function: Method | NetworkMethod,
        *,
        goals: Mapping[int, ResolvedTarget],
        settings: Mapping[str, Any],
    ) -> MethodMaps:
        """Compute the maps of one method, on its grid.

        Args:
            name: name of the method.
            function: the method.
            goals: targets by the index of the image; images without one get no map.
            settings: keyword arguments of the methods; the method takes those that it knows.

        Returns:
            One map per target, in that order.
        """
        rows = list(goals)
        subset = None if rows == list(range(len(self.samples))) else rows
        targets = [goal.target for goal in goals.values()]
        facts = facts_of(function)
        with choosing_output(self.model.output, columns=len(self.model.labels)):
            result = apply_method(
                function,
                self.forward,
                self.recorded,
                targets,
                settings=known(function, settings),
                rows=subset,
                layer=self.layer,
                layout=self.layout,
            )
            raw = result.raw.float()
            if result.traces:
                map_notes = notes(result.traces, raw, method=name, facts=facts)
                map_notes = [
                    [*texts, *shares] for texts, shares in zip(map_notes, self._shares(subset, targets), strict=True)
                ]
            else:
                map_notes = network_notes(result.forward, raw, method=name, facts=facts)
        return MethodMaps(rows, raw, result.scores.detach().tolist(), map_notes, result.layer)

    def _shares(self, rows: list[int] | None, targets: Sequence[Target]) -> list[list[str]]:
        """Return the notes on the layer: the engine, and the share of the score that passes through the layer."""
        if self.recorded is None:
            raise AssertionError("only a pass that was recorded at a layer has a share")
        layer_notes = [*self.recorded.engine.notes, *self.recorded.place_notes]
        if self.recorded.complete:
            return [layer_notes for _ in targets]
        forward = self.forward if rows is None else self.forward.only(rows)
        shares = carried_share(forward, self.recorded, targets)
        return [
            [f"{self.recorded.paths_around}: it carries {share:.0%} of the score", *layer_notes] for share in shares
        ]


class MethodMaps(NamedTuple):
    """Maps of some images: the images' indices, signed grids (B, h, w), scores, notes, and the layer."""

    pictures: list[int]
    raw: Tensor
    scores: list[float]
    notes: list[list[str]]
    layer: str

    def placed(self, windows: list[Window], *, to: str = "cpu") -> dict[int, _ImageMap]:
        """Return each map with its heat map, by the index of its image; on the CPU, or left on the device."""
        cells = self.raw.cpu().numpy()
        heatmaps = _placed(self.raw, windows, to=to)
        grids: Any = self.raw if to == "device" else cells
        return {
            i: _ImageMap(cells[k], grids[k], heatmaps[k], self.scores[k], self.notes[k], self.layer)
            for k, i in enumerate(self.pictures)
        }


class _ImageMap(NamedTuple):
    """Map of one image, method and target: the signed grid (as an array, and as requested), the heat map, and notes."""

    cells: npt.NDArray[np.float32]
    grid: Any
    heatmap: Any
    score: float
    notes: list[str]
    layer: str


def _mark_same(map_sets: list[tuple[str, int, dict[int, _ImageMap]]]) -> None:
    """Add a note to maps of methods that coincide on this model: the maps differ only by a positive factor."""
    for position, (name, column, maps) in enumerate(map_sets):
        for earlier_name, earlier_column, earlier_maps in map_sets[:position]:
            if column != earlier_column or name == earlier_name:
                continue
            for i, image_map in maps.items():
                if same_map(image_map.cells, earlier_maps[i].cells):
                    image_map.notes.append(f"{SAME_MAP}{earlier_name}: the two methods coincide on this model")


def _placed(grids: Tensor, windows: list[Window], *, to: str) -> list[Any]:
    """Return the maps after the ReLU, placed on their images; images with the same window are placed together."""
    heat = grids.nan_to_num(0.0, 0.0, 0.0).relu()
    row_maps: dict[int, Any] = {}
    for window in dict.fromkeys(windows):
        rows = [i for i, row_window in enumerate(windows) if row_window == window]
        with without_autocast(heat):
            maps = place(heat[rows], window)
        row_maps |= dict(zip(rows, maps if to == "device" else maps.cpu().numpy(), strict=True))
    return [row_maps[i] for i in range(len(windows))]


def _probability(
    model: Model, goal: ResolvedTarget, score: float, of_classes: Tensor | None, *, image: int
) -> float | None:
    """Return the probability of a class or a box; None for other targets."""
    if goal.index is None:
        return None
    if model.outcome == "boxes":
        return float(torch.tensor(score).sigmoid())
    return None if of_classes is None else float(of_classes[image, goal.index])


def _score_note(score: float) -> str:
    return "" if math.isfinite(score) else f"the score is {score}: the network overflows, or has such weights"


def _top(model: Model, values: Tensor) -> tuple[tuple[str, float], ...]:
    if values.ndim > 1:
        return ()
    best = values.reshape(-1).topk(min(_SHOWN, values.numel()))
    return tuple((model.label(int(i)), float(v)) for v, i in zip(best.values, best.indices, strict=True))


class _RepeatRecord(Mapping[str, Any]):
    """Record of settings that reproduce the explanations; the weights are hashed on first use."""

    def __init__(self, run: BatchExplainer, settings: Mapping[str, Any]) -> None:
        """Take a pass, and the settings that the method has."""
        self._model = model = run.model
        self._known = {
            "settings": dict(settings),
            "recipe": None if model.recipe is None else dataclasses.asdict(model.recipe),
            "preprocess": model.preprocess.to_dict(),
            "outcome": model.outcome,
            "engine": "eager" if run.recorded is None else run.recorded.engine.name,
            "precision": "float32" if run.recorded is None else run.recorded.engine.precision,
        }

    def __getitem__(self, name: str) -> Any:
        return self._model.digest if name == "weights_sha256" else self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._known, "weights_sha256"))

    def __len__(self) -> int:
        return len(self._known) + 1

    def __reduce__(self) -> Any:
        return dict, (dict(self),)
