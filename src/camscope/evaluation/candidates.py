"""Methods and trivial baselines to compare, with their settings and their cost."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from camscope.errors import CamscopeError
from camscope.evaluation.baselines import BASELINES, RANDOM
from camscope.explanation.batch import BatchExplainer, ResolvedTarget, Sample
from camscope.explanation.method_lookup import find_method, known
from camscope.methods import METHODS, Method, NetworkMethod
from camscope.methods.passes import reporting
from camscope.models.model import Model
from camscope.naming import method_spelling
from camscope.trace import tensors

FAST_METHODS = "gradcam,hirescam,gradcampp,xgradcam,layercam,eigencam"
"""Well-known methods of one pass each, that are compared by default."""
AFFORDABLE = 400
"""Maximum number of forward passes for one further map of each of the few images."""


@dataclass(frozen=True)
class EvaluatedMethod:
    """A method or baseline, and how it is run.

    Attributes:
        name: name of the method or baseline.
        settings: keyword arguments of the method, including those that limit its cost.
        passes: forward passes per map, as counted on the first image.
        restricted: how a method that needs too many passes is limited; "" if it is not.
        refused: why the method cannot be applied to this model; "" if it can.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 0
    restricted: str = ""
    refused: str = ""

    @property
    def baseline(self) -> bool:
        """Return whether the maps do not depend on the network."""
        return self.name in BASELINES and self.name != RANDOM

    @property
    def function(self) -> Method | NetworkMethod:
        """Return the method; baselines have none."""
        return find_method(self.name)

    def repeats(self, few: int) -> int:
        """Return the number of images, up to ``few``, on which further maps are affordable; 0 for very many passes."""
        return min(few, AFFORDABLE // max(self.passes, 1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def chosen_methods(asked: str) -> tuple[str, ...]:
    """Return the methods with these names, separated by commas, after the baselines; "all" selects all methods.

    Raises:
        MethodError: an unknown method.

    >>> chosen_methods("gradcam,layercam")
    ('uniform', 'centre', 'averagemask', 'randomcam', 'gradcam', 'layercam')
    """
    names = [method_spelling(name) for name in asked.split(",")]
    names = list(METHODS) if names == ["all"] else names
    for name in names:
        if name not in BASELINES:
            find_method(name)
    return tuple(dict.fromkeys([*BASELINES, *names]))


class _TooManyPassesError(Exception):
    """A method needs more passes than the limit: at least this many."""

    def __init__(self, passes: int) -> None:
        self.passes = passes


def try_method(
    name: str,
    *,
    model: Model,
    sample: Sample,
    goal: ResolvedTarget,
    layer: str | None,
    settings: Mapping[str, Any],
    most: int,
) -> EvaluatedMethod:
    """Try a method on one image, to find out whether it can be applied and what a map costs.

    A method with more passes than ``most`` that accepts a number of channels gets as many channels as it can afford.
    Any other such method is stopped after its first chunk of passes.

    Args:
        name: name of the method or baseline.
        model: the model.
        sample: a prepared image.
        goal: target that is explained in the image.
        layer: name of the target layer; None for the model's own, or else `default_layer`.
        settings: keyword arguments of all methods; each takes those that it knows.
        most: maximum number of forward passes per map.
    """
    if name in BASELINES and name != RANDOM:
        return EvaluatedMethod(name)
    function = find_method(name)
    method_settings = known(function, settings)
    try:
        run = BatchExplainer.over(model, [sample], functions=[function], layer=layer)
        count = partial(_counted, run, name, function, goal, most=most)
        if run.recorded is not None and "channels" not in method_settings and _all_channels(function):
            (trace, *_) = run.recorded.traces(run.forward, [goal.target])
            return _reduced(name, method_settings, count, most=most, channels=trace.activations.shape[1])
        passes = count(method_settings)
    except _TooManyPassesError as excess:
        return EvaluatedMethod(
            name, method_settings, excess.passes, f"{excess.passes} passes per map: run on few images"
        )
    except CamscopeError as error:
        return EvaluatedMethod(name, method_settings, refused=" ".join(str(error).split()))
    return EvaluatedMethod(name, method_settings, passes)


def _all_channels(function: Method | NetworkMethod) -> bool:
    """Return whether a method uses all channels by default, and can use fewer."""
    parameter = inspect.signature(function).parameters.get("channels")
    return parameter is not None and parameter.default is None


def _reduced(
    name: str, settings: Mapping[str, Any], count: Callable[[Mapping[str, Any]], int], *, most: int, channels: int
) -> EvaluatedMethod:
    """Return a method whose passes grow with its channels, limited to as many channels as are affordable.

    Args:
        name: name of the method.
        settings: keyword arguments of the method.
        count: settings -> forward passes of one map.
        most: maximum number of forward passes per map.
        channels: number of channels of the layer.
    """
    channel_passes = count({**settings, "channels": 1}) - 1
    passes, limit = 1 + channel_passes * channels, max(1, (most - 1) // max(channel_passes, 1))
    if passes <= most:
        return EvaluatedMethod(name, settings, passes)
    text = f"{passes} passes per map: reduced to the most variable channels ({limit} of {channels}), run on few images"
    return EvaluatedMethod(name, {**settings, "channels": limit}, 1 + channel_passes * limit, text)


def _counted(
    run: BatchExplainer,
    name: str,
    function: Method | NetworkMethod,
    goal: ResolvedTarget,
    settings: Mapping[str, Any],
    *,
    most: int,
) -> int:
    """Count the forward passes of one map, including the shared one.

    Raises:
        _TooManyPassesError: there are more than ``most``.
    """

    def watch(_: int, total: int) -> None:
        if 1 + max(total, passes[0]) > most:
            raise _TooManyPassesError(1 + max(total, passes[0]))

    with counting(run.model) as passes, reporting(watch):
        run.maps(name, function, goals={0: goal}, settings=settings)
    if 1 + passes[0] > most:
        raise _TooManyPassesError(1 + passes[0])
    return 1 + passes[0]


@contextmanager
def counting(model: Model) -> Iterator[list[int]]:
    """Count the images that pass through a network; passes through its last part alone count as well."""
    count = [0]

    def add(_: object, inputs: Any) -> None:
        count[0] += len(next(tensors(inputs)))

    handle = model.net.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        handle.remove()


@dataclass(frozen=True)
class TimedMaps:
    """Maps of one method, and their cost.

    Attributes:
        maps: (B, h, w) signed maps.
        layer: name of the target layer.
        notes: notes on each image.
        passes: forward passes per image.
        seconds: seconds per image.
    """

    maps: Tensor
    layer: str
    notes: Sequence[Sequence[str]]
    passes: int
    seconds: float


def timed_maps(
    contestant: EvaluatedMethod, run: BatchExplainer, goals: Mapping[int, ResolvedTarget], *, shared: float
) -> TimedMaps:
    """Compute the maps of a method for some images of a forward pass.

    Args:
        contestant: the method.
        run: the recorded forward pass.
        goals: targets, by the index of the image in the pass.
        shared: seconds per image that the forward pass took.
    """
    start = time.perf_counter()
    with counting(run.model) as passes:
        method_maps = run.maps(contestant.name, contestant.function, goals=goals, settings=contestant.settings)
        maps = method_maps.raw.cpu()
    seconds = shared + (time.perf_counter() - start) / len(goals)
    return TimedMaps(maps, method_maps.layer, method_maps.notes, 1 + round(passes[0] / len(goals)), seconds)


def drawn_again(
    contestant: EvaluatedMethod,
    model: Model,
    samples: Sequence[Sample],
    goals: Sequence[ResolvedTarget],
    *,
    layer: str | None,
) -> Tensor:
    """Compute the maps (B, h, w) of a method for other images, other targets or another network."""
    run = BatchExplainer.over(model, samples, functions=[contestant.function], layer=layer)
    maps = run.maps(contestant.name, contestant.function, goals=dict(enumerate(goals)), settings=contestant.settings)
    return torch.as_tensor(maps.raw).cpu()
