"""Models: a network with everything needed to use it on images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from camscope.arguments import check_fields, checked
from camscope.errors import ModelError, SettingError, TargetError, nearest, shortened
from camscope.models import bundle
from camscope.models.callable_form import INSTEAD
from camscope.models.preprocess import Preprocess, assumed_preprocess
from camscope.models.transform import Transform
from camscope.models.untrained import note as untrained_note
from camscope.models.untrained import untrained
from camscope.models.volume_preprocess import assumed_volume_preprocess
from camscope.models.weights import digest

if TYPE_CHECKING:
    from camscope.trace import Layout

_SIGMOIDS = ("sigmoid", "expit", "special_expit")

Outcome = Literal["one", "any", "value", "boxes"]


@dataclass(frozen=True)
class Recipe:
    """Arguments with which a source builds the network again.

    Attributes:
        spec: the source and the name of the architecture, such as "timm:resnet18".
        classes: number of outputs; 0 for a network without a classifier.
        options: keyword arguments of the caller for the source.
        weights: "default" (the published ones), "none", or the path of a file.
        sha256: sha256 of that file; None without a file.
    """

    spec: str
    _: KW_ONLY
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "default"
    sha256: str | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its preprocessing, class names and target layer.

    Attributes:
        name: name of the model in results.
        net: the network; inputs (B, C, h, w), or (B, C, *size) of volumes; outputs (B, classes) before any softmax or
            sigmoid.
        preprocess: a Preprocess, or any callable from a Pillow image or an array to a tensor, such as a Compose of
            torchvision (see `Transform`); of volumes a VolumePreprocess. None: it is assumed (ImageNet's normalisation
            at 224 x 224), and a note says so.
        labels: class names in the order of the outputs; may be empty. With two names for a single logit, the second
            is the class of the logit, and the first the opposite.
        layer: name of the target layer; None: chosen at first use.
        layout: axes of that layer's output; None: determined at first use.
        outcome: "one" class is right (softmax), "any" number of them is (sigmoid), the outputs are a "value", or they
            are "boxes": (B, boxes, 6) left, top, right, bottom in pixels of the input, score, class.
        recipe: how to build the network again; None for a network of the caller.
        facts: other facts about the model, such as a test AUC, as plain JSON values. "assumed" and
            "weights_note" are repeated in the notes of each explanation.
        output: which of several outputs of the network holds the scores: its index, key or attribute; None for
            ``logits``, ``out``, the one with as many columns as there are labels, or else the first.

    Examples:
        >>> model = Model("mine", nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), labels=("cat", "tabby, tabby cat"))
        >>> model.index("Tabby"), model.label(0), model.label(7)
        (1, 'cat', 'class 7')
        >>> model.probability(torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000])
    """

    name: str
    net: nn.Module = field(repr=False)
    _: KW_ONLY
    preprocess: Preprocess = None  # type: ignore[assignment]  # settled below
    labels: tuple[str, ...] = field(default=(), repr=False)
    layer: str | None = None
    layout: Layout | None = None
    outcome: Outcome = "one"
    recipe: Recipe | None = field(default=None, repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    output: int | str | None = None

    def __post_init__(self) -> None:
        """Set the assumed preprocessing if there is none, convert a callable to a Transform, reject other types."""
        check_fields(self, but=["preprocess"])
        if not isinstance(self.net, nn.Module):
            raise ModelError(f"net must be a torch.nn.Module, but got {shortened(self.net)}")
        preprocess: Any = self.preprocess
        if preprocess is None:
            preprocess, note = assumed_for(self.net)
            object.__setattr__(self, "preprocess", preprocess)
            object.__setattr__(self, "facts", {"assumed": note, **self.facts})
        if not isinstance(preprocess, Preprocess):
            if not callable(preprocess):
                raise SettingError(
                    f"preprocess must be a camscope.Preprocess or a callable, but got an object of type "
                    f"{type(preprocess).__name__}; use {INSTEAD}"
                )
            if takes_volumes(self.net):
                raise SettingError(
                    f"{self.name} takes volumes, for which preprocess must be a camscope.VolumePreprocess, but got "
                    f"{shortened(preprocess)}"
                )
            preprocess = Transform.of(preprocess, channels=input_channels(self.net))
            object.__setattr__(self, "preprocess", preprocess)
        if self.outcome == "boxes" and isinstance(preprocess, Transform) and not preprocess.fixed_size:
            raise SettingError(
                f"the preprocessing {preprocess.name} makes inputs of different sizes, and the places of boxes need "
                f"one: use {INSTEAD}"
            )

    @checked
    def index(self, label: str) -> int:
        """Return the index of the class with this name.

        The name as it stands wins over another spelling of its letters, and that over one of several synonyms
        (ImageNet's "tabby, tabby cat" answers to "tabby").

        Raises:
            TargetError: for a name that no class or more than one class has.
        """
        if not self.labels:
            raise TargetError(f"{self.name} has no class names, so {label!r} cannot be found: give the class's index")
        query = label.strip().lower()
        rules: tuple[Callable[[str], bool], ...] = (
            lambda name: name == label,
            lambda name: name.strip().lower() == query,
            lambda name: query in [synonym.strip() for synonym in name.lower().split(",")],
        )
        for fits in rules:
            matches = [i for i, name in enumerate(self.labels) if fits(name)]
            if len(matches) > 1:
                indices = ", ".join(str(i) for i in matches)
                raise TargetError(f"{len(matches)} classes are called {label!r}: give one of their indices, {indices}")
            if matches:
                return matches[0]
        synonyms = dict.fromkeys(synonym.strip() for name in self.labels for synonym in name.split(","))
        raise TargetError(nearest("class", label, synonyms))

    @checked
    def label(self, index: int) -> str:
        """Return the name of a class, or "class 3" if it has none."""
        return self.labels[index] if 0 <= index < len(self.labels) else f"class {index}"

    def probability(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Return the probabilities of logits (..., classes); None if the outputs are values or boxes.

        One output of a network that the caller brought may be a value as well as a logit: without labels or an outcome
        it has no probability.
        """
        if self.outcome in ("value", "boxes") or self.is_unclear(logits.shape[-1]):
            return None
        if self.has_opposite(logits.shape[-1]):
            return self.class_scores(logits).sigmoid()
        return logits.softmax(-1) if self.outcome == "one" and logits.shape[-1] > 1 else logits.sigmoid()

    def class_scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the score of each class (..., classes); of a lone logit with two class names, -logit and logit."""
        return torch.cat([-logits, logits], -1) if self.has_opposite(logits.shape[-1]) else logits

    def log_odds(self, logits: torch.Tensor, index: int) -> torch.Tensor:
        """Return log p / (1 - p) of a class, p its probability; for values, the output itself.

        Of a softmax this is the logit minus the log-sum-exp of all others: unlike the logit alone, it does not change
        when a constant is added to all logits, and neither do the probabilities.

        Args:
            logits: (..., classes).
            index: of the class.

        >>> model = Model("mine", nn.Flatten(), labels=("a", "b"), preprocess=Preprocess())
        >>> model.log_odds(torch.tensor([[1.0, 3.0]]), 1), model.log_odds(torch.tensor([[8.0, 10.0]]), 1)
        (tensor([2.]), tensor([2.]))
        """
        if self.has_opposite(logits.shape[-1]):
            return logits[..., 0] if index else -logits[..., 0]
        if self.outcome != "one" or logits.shape[-1] < 2:
            return logits[..., index]
        others = logits.index_fill(-1, torch.tensor([index], device=logits.device), -torch.inf)
        return logits[..., index] - others.logsumexp(-1)

    def after(self, bypassed: str) -> Model:
        """Return the model with the outcome of its last function: a final sigmoid means "any".

        Args:
            bypassed: the function at the end of the network that was undone, see `camscope.trace.Forward`.
        """
        return self._any if self.outcome == "one" and bypassed in _SIGMOIDS else self

    @cached_property
    def _any(self) -> Model:
        return replace(self, outcome="any")

    def is_unclear(self, outputs: int) -> bool:
        """Return whether it is unknown if the only output is a logit or a value."""
        return outputs == 1 and self.outcome == "one" and not self.labels and self.recipe is None

    def check_labels(self, outputs: int) -> None:
        """Refuse another number of labels than of outputs.

        Raises:
            SettingError: they differ, and are not two names for one output.
        """
        if self.outcome == "boxes" or self.has_opposite(outputs) or not self.labels:
            return
        if outputs not in (len(self.labels), 0):
            raise SettingError(
                f"{self.name} has {outputs} outputs, but got {len(self.labels)} labels: pass one label per output"
            )

    def has_opposite(self, outputs: int) -> bool:
        """Return whether a single output is the logit of the second of two classes."""
        return outputs == 1 and len(self.labels) == 2 and self.outcome != "value"

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes for every result of the model: random weights, assumed preprocessing, and its weights file.

        >>> facts = {"weights_note": "left over in the weights file: ema.*"}
        >>> Model("mine", nn.Identity(), preprocess=Preprocess(), facts=facts).notes
        ('left over in the weights file: ema.*',)
        """
        what = self.untrained
        return (*([untrained_note(what)] if what else []), *self.assumptions)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Return the notes on assumed preprocessing and on the weights file."""
        return tuple(str(self.facts[key]) for key in ("assumed", "weights_note") if key in self.facts)

    @property
    def untrained(self) -> str:
        """Return "random weights" or "random classifier" of a network loaded so and not trained since; or ""."""
        return untrained(self.net, self.facts)

    @property
    def title(self) -> str:
        """Return the name, with what is random about the network."""
        return f"{self.name} ({self.untrained})" if self.untrained else self.name

    @checked
    def save(self, folder: str | Path) -> Path:
        """Write a bundle, ``model.json`` and ``weights.safetensors``, that ``load`` reads; returns the folder.

        Raises:
            ModelError: for a network that the caller brought: a bundle names its architecture by a source.
        """
        return bundle.write(self, Path(folder))

    @cached_property
    def digest(self) -> str:
        """Return the sha256 over names, dtypes, shapes and bytes of the state_dict; cached."""
        return digest(self.net)


def assumed_for(net: nn.Module) -> tuple[Preprocess, str]:
    """Return the preprocessing that is assumed for a network of images or volumes, and the note on it."""
    channels = input_channels(net)
    return assumed_volume_preprocess(channels or 1) if takes_volumes(net) else assumed_preprocess(channels or 3)


def takes_volumes(net: nn.Module) -> bool:
    """Return whether the first convolution of a network is one of volumes.

    >>> takes_volumes(nn.Sequential(nn.Conv3d(1, 2, 3))), takes_volumes(nn.Conv2d(1, 2, 3))
    (True, False)
    """
    return isinstance(_first_convolution(net), nn.Conv3d)


def input_channels(net: nn.Module) -> int | None:
    """Return the number of channels that a network takes by its first convolution; None where that is not known.

    >>> input_channels(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 3)))
    4
    """
    first = _first_convolution(net)
    return None if first is None else first.in_channels or None


def _first_convolution(net: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    return next((module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))), None)
