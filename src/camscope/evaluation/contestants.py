"""What is compared: methods and maps that know nothing, with their settings and what they cost."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from camscope.errors import CamscopeError
from camscope.evaluation.nulls import NULLS, RANDOM
from camscope.explanation.batch import Goal, Pass, Sample
from camscope.explanation.method_lookup import find_method, known
from camscope.methods import METHODS, Method, NetworkMethod
from camscope.methods.passes import reporting
from camscope.models.model import Model
from camscope.trace import tensors

AFFORDABLE = 400
"""Passes that a metric on few pictures may cost for one more map of each."""


@dataclass(frozen=True)
class Contestant:
    """One method or null, and how it is run.

    Attributes:
        name: of the method.
        settings: its keyword arguments, those that keep it affordable among them.
        passes: forward passes of one map, as counted on the first picture.
        restricted: what was done since it needs too many passes; "" where nothing was.
        refused: why it cannot be applied to this model; "" where it can.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 0
    restricted: str = ""
    refused: str = ""

    @property
    def null(self) -> bool:
        """Whether its maps know nothing of the network."""
        return self.name in NULLS and self.name != RANDOM

    @property
    def function(self) -> Method | NetworkMethod:
        """The method; nulls have none."""
        return find_method(self.name)

    def repeats(self, few: int) -> int:
        """Pictures, out of ``few``, on which it can be afforded to make further maps; none for very many passes."""
        return min(few, AFFORDABLE // max(self.passes, 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def chosen_methods(asked: str) -> tuple[str, ...]:
    """The methods that are asked for by name; "all" is all of them. What knows nothing always comes first.

    Raises:
        MethodError: there is no such method.

    >>> chosen_methods("gradcam,layercam")
    ('uniform', 'centre', 'averagemask', 'randomcam', 'gradcam', 'layercam')
    """
    names = [name.strip() for name in asked.split(",")]
    names = list(METHODS) if names == ["all"] else names
    for name in names:
        if name not in NULLS:
            find_method(name)
    return tuple(dict.fromkeys([*NULLS, *names]))


class _Enough(Exception):  # noqa: N818  never leaves this file
    """A method needs more passes than were to be spent on finding that out: at least so many."""

    def __init__(self, passes: int) -> None:
        self.passes = passes


def entered(
    name: str, *, model: Model, sample: Sample, goal: Goal, layer: str | None, settings: Mapping[str, Any], most: int
) -> Contestant:
    """Try a method on one picture: whether it can be applied, and what a map costs.

    A method of more passes than ``most`` that can do with fewer channels is given so many of them that it needs no
    more; any other is found out after its first chunk.

    Args:
        name: of the method.
        model: the model.
        sample: a picture.
        goal: what is explained in it.
        layer: to look at.
        settings: of all methods.
        most: passes that a map may cost.
    """
    if name in NULLS and name != RANDOM:
        return Contestant(name)
    function = find_method(name)
    own = known(function, settings)
    try:
        run = Pass.over(model, [sample], functions=[function], layer=layer)
        if run.seen is not None and "channels" not in own and _all_channels(function):
            (trace, *_) = run.seen.traces(run.forward, [goal.target])
            return _reduced(run, name, function, goal, own, most=most, channels=trace.activations.shape[1])
        passes = _counted(run, name, function, goal, own, most=most)
    except _Enough as enough:
        return Contestant(name, own, enough.passes, f"{enough.passes} passes a map: run on few pictures")
    except CamscopeError as error:
        return Contestant(name, own, refused=" ".join(str(error).split()))
    return Contestant(name, own, passes)


def _all_channels(function: Method | NetworkMethod) -> bool:
    """Whether a method takes all channels unless it is told to make do with fewer."""
    parameter = inspect.signature(function).parameters.get("channels")
    return parameter is not None and parameter.default is None


def _reduced(
    run: Pass,
    name: str,
    function: Method | NetworkMethod,
    goal: Goal,
    settings: Mapping[str, Any],
    *,
    most: int,
    channels: int,
) -> Contestant:
    """A method whose passes grow with its channels, given as many of them as can be afforded."""
    each = _counted(run, name, function, goal, {**settings, "channels": 1}, most=most) - 1
    passes, fewer = 1 + each * channels, max(1, most // max(each, 1))
    if passes <= most:
        return Contestant(name, settings, passes)
    said = f"{passes} passes a map: reduced to the {fewer} channels that vary most, and run on few pictures"
    return Contestant(name, {**settings, "channels": fewer}, 1 + each * fewer, said)


def _counted(
    run: Pass, name: str, function: Method | NetworkMethod, goal: Goal, settings: Mapping[str, Any], *, most: int
) -> int:
    """The passes of one map, the shared forward among them.

    Raises:
        _Enough: they are more than ``most``.
    """

    def watch(_: int, total: int) -> None:
        if max(total, passes[0]) > most:
            raise _Enough(1 + max(total, passes[0]))

    with counting(run.model) as passes, reporting(watch):
        run.maps(name, function, goals={0: goal}, settings=settings)
    if 1 + passes[0] > most:
        raise _Enough(1 + passes[0])
    return 1 + passes[0]


@contextmanager
def counting(model: Model) -> Iterator[list[int]]:
    """Count the images that go through a network; passes that run its end alone count as well."""
    count = [0]

    def add(_: object, inputs: Any) -> None:
        count[0] += len(next(tensors(inputs)))

    handle = model.net.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        handle.remove()


@dataclass(frozen=True)
class Made:
    """Maps of one method, and what they cost.

    Attributes:
        maps: (B, h, w) signed.
        layer: that was looked at.
        notes: of each picture.
        passes: forward passes a picture.
        seconds: a picture.
    """

    maps: Tensor
    layer: str
    notes: Sequence[Sequence[str]]
    passes: int
    seconds: float


def made(contestant: Contestant, run: Pass, goals: Mapping[int, Goal], *, shared: float) -> Made:
    """The maps of a method for some pictures of a pass.

    Args:
        contestant: the method.
        run: the pass.
        goals: by the number of the picture.
        shared: seconds a picture that the pass took.
    """
    start = time.perf_counter()
    with counting(run.model) as passes:
        found = run.maps(contestant.name, contestant.function, goals=goals, settings=contestant.settings)
        maps = found.raw.cpu()
    seconds = shared + (time.perf_counter() - start) / len(goals)
    return Made(maps, found.layer, found.notes, 1 + round(passes[0] / len(goals)), seconds)


def drawn_again(
    contestant: Contestant, model: Model, samples: Sequence[Sample], goals: Sequence[Goal], *, layer: str | None
) -> Tensor:
    """The maps (B, h, w) of a method for other pictures, other goals or another network."""
    run = Pass.over(model, samples, functions=[contestant.function], layer=layer)
    found = run.maps(contestant.name, contestant.function, goals=dict(enumerate(goals)), settings=contestant.settings)
    return torch.as_tensor(found.raw).cpu()
