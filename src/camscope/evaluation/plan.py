"""Plan of an evaluation: model, data, methods, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from camscope.cohort.case import Case
from camscope.cohort.store import key_of
from camscope.errors import CamscopeError, check_count
from camscope.evaluation.baselines import MAPLESS
from camscope.evaluation.data import EvaluationData
from camscope.evaluation.rows import SCHEMA_VERSION
from camscope.explanation.batch import ResolvedTarget, Sample, goals_of
from camscope.explanation.method_lookup import check_settings
from camscope.images import decode
from camscope.models.device import device_of
from camscope.models.model import Model

FEW = 4
MOST_PASSES = 2000


@dataclass(frozen=True)
class EvaluationPlan:
    """Model, data and settings of an evaluation.

    Attributes:
        model: the model, on its device.
        data: the images.
        methods: names of methods and baselines, from `chosen_methods`.
        metrics: names of metrics, from `chosen_metrics`.
        layer: name of the target layer; None for the model's own, or else `default_layer`.
        settings: keyword arguments of the methods; each takes those that it knows.
        few: number of images for metrics and methods that need many passes.
        most_passes: maximum number of passes per map; a method that needs more is reduced, and run on few images.
        batch_size: images, or edits of them, per forward pass.
        seed: random seed.
        engine: backend for the scores of edited images, "eager" or "openvino"; maps always use eager PyTorch.
    """

    model: Model
    data: EvaluationData
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
        """Reject numbers that evaluate nothing, and settings that no method takes."""
        for name in ("few", "most_passes", "batch_size"):
            check_count(name, getattr(self, name))
        check_count("seed", self.seed, least=0)
        check_settings(self.settings, [name for name in self.methods if name not in MAPLESS])

    @property
    def made_with(self) -> tuple[Any, ...]:
        """Return everything that a number depends on, except the image, its annotation and the method."""
        model = self.model
        layer = self.layer or model.layer
        facts = (model.digest, model.preprocess.to_dict(), model.outcome, layer, device_of(model))
        return (SCHEMA_VERSION, facts, list(self.metrics), self.seed, self.engine)

    @property
    def fingerprint(self) -> str:
        """Return eight hexadecimal digits that identify the data and all settings."""
        cases = [vars(case) for case in self.data.cases]
        numbers = (self.few, self.most_passes, self.batch_size)
        return key_of(self.made_with, cases, list(self.methods), dict(self.settings), numbers)[:8]

    @property
    def chosen_few(self) -> list[int]:
        """Return the indices of the images for what needs many passes: the first annotated ones, or else the first."""
        usable = [case for case in self.data.cases if not case.problem]
        annotated = [case for case in usable if case.masks]
        return [case.number for case in (annotated or usable)[: self.few]]


def sample_of(model: Model, case: Case, content: bytes) -> Sample:
    """Prepare an image for a model, from the content of its file."""
    picture = decode(content, case.source)
    return Sample.of(model, picture, source=case.source)


def goal_of(model: Model, case: Case, output: Tensor) -> ResolvedTarget:
    """Return the target of an image, its own or the predicted class, by its scores (classes,)."""
    goals = goals_of(model, [case.target or None], output)
    if len(goals) != 1:
        raise CamscopeError(f"the target {case.target!r} asks for {len(goals)} classes: name one")
    return goals[0]
