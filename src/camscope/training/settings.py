"""How a model is trained: the defaults are meant to be left alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from camscope.errors import SettingError, check_count
from camscope.training.splits import FRACTIONS

_FROZEN = 2


@dataclass(frozen=True)
class Settings:
    """How a model is trained; two trainings with the same settings, data and start are the same.

    Attributes:
        epochs: at most.
        patience: epochs without a lower validation loss after which training stops.
        batch_size: pictures in a step.
        rate: highest learning rate of AdamW, of the head. A backbone that has learnt before has a
            tenth of it.
        decay: of the weights.
        frozen: epochs in which the head alone is trained; None for 2 where the backbone has learnt before, else 0.
        fractions: shares of training, validation and test, where the data do not say.
        flip: whether pictures are mirrored in training; not for chests, whose heart is on the left.
        hide: regions that are hidden in every training picture, such as "border:0.1".
        reasons: name of the mask outside of which attribution is punished.
        reasons_weight: of that penalty, beside the cross-entropy.
        precision: "auto" (16 bits on a GPU, else 32), or any of Lightning's, such as "bf16-mixed".
        seed: of everything random.
    """

    epochs: int = 30
    patience: int = 8
    batch_size: int = 32
    rate: float = 1e-3
    decay: float = 0.05
    frozen: int | None = None
    fractions: tuple[float, float, float] = FRACTIONS
    flip: bool = False
    hide: tuple[str, ...] = ()
    reasons: str | None = None
    reasons_weight: float = 1.0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that train nothing."""
        for name in ("epochs", "patience", "batch_size"):
            check_count(name, getattr(self, name))
        for name in ("seed", *(["frozen"] if self.frozen is not None else [])):
            check_count(name, getattr(self, name), least=0)
        for name, least in (("rate", math.ulp(0.0)), ("decay", 0.0), ("reasons_weight", 0.0)):
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise SettingError(f"{name} must be finite and {'above' if least else 'at least'} 0, but got {value}")

    def frozen_epochs(self, *, learnt: bool) -> int:
        """Epochs in which the head alone is trained, fewer than there are."""
        wanted = (_FROZEN if learnt else 0) if self.frozen is None else self.frozen
        return min(wanted, self.epochs - 1)
