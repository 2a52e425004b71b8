"""What is evaluated, and how: model, data, methods, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from camscope.errors import CamscopeError, check_count
from camscope.evaluation.data import Item, Items
from camscope.evaluation.nulls import MAPLESS
from camscope.evaluation.rows import SCHEMA_VERSION
from camscope.explanation.batch import Goal, Sample, goals_of
from camscope.explanation.method_lookup import check_settings
from camscope.images import decode
from camscope.models.model import Model
from camscope.store import key_of

FEW = 4
MOST_PASSES = 2000


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and how.

    Attributes:
        model: on its device.
        data: the pictures.
        methods: names, as `chosen_methods` gives them.
        metrics: names, as `chosen_metrics` gives them.
        layer: to look at; None for the model's own.
        settings: keyword arguments of the methods; each takes those that it knows.
        few: pictures for what needs many passes.
        most_passes: that a map may cost; a method that needs more is reduced, and run on few pictures.
        batch_size: pictures, or edits of them, in one forward pass.
        seed: of everything random.
        engine: what scores edited pictures, "eager", "packed" or "openvino"; maps are always made in eager PyTorch.
    """

    model: Model
    data: Items
    methods: Sequence[str]
    metrics: Sequence[str]
    layer: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    few: int = FEW
    most_passes: int = MOST_PASSES
    batch_size: int = 16
    seed: int = 0
    engine: str = "eager"

    def __post_init__(self) -> None:
        """Refuse numbers that evaluate nothing, and settings that no method takes."""
        for name in ("few", "most_passes", "batch_size"):
            check_count(name, getattr(self, name))
        check_count("seed", self.seed, least=0)
        check_settings(self.settings, [name for name in self.methods if name not in MAPLESS])

    @property
    def made_with(self) -> tuple[Any, ...]:
        """All that any number depends on but the picture, the annotation and the method."""
        model = self.model
        device = next(model.net.parameters(), torch.empty(0)).device.type
        facts = (model.digest, model.preprocess.to_dict(), model.outcome, self.layer or model.layer, device)
        return (SCHEMA_VERSION, facts, list(self.metrics), self.seed, self.engine)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that stand for the data and all settings."""
        items = [vars(item) for item in self.data.items]
        numbers = (self.few, self.most_passes, self.batch_size)
        return key_of(self.made_with, items, list(self.methods), dict(self.settings), numbers)[:8]

    @property
    def chosen_few(self) -> list[int]:
        """The numbers of the pictures for what needs many passes: the first that are annotated, or the first."""
        usable = [item for item in self.data.items if not item.problem]
        annotated = [item for item in usable if item.cells]
        return [item.number for item in (annotated or usable)[: self.few]]


def sample_of(model: Model, item: Item, content: bytes) -> Sample:
    """A picture made ready for a model, from its file's content."""
    picture = decode(content, item.source)
    return Sample.of(model, picture, source=item.source)


def goal_of(model: Model, item: Item, output: Tensor) -> Goal:
    """What is explained of a picture: its target, or the class that its output is highest for."""
    if output.ndim != 1:
        raise CamscopeError(f"{model.name} returns {tuple(output.shape)} values a picture, not one for each class")
    goals = goals_of(model, [item.target or None], output)
    if len(goals) != 1:
        raise CamscopeError(f"the target {item.target!r} asks for {len(goals)} classes: name one")
    return goals[0]
