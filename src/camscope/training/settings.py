"""Training settings. The defaults are meant to be kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from camscope.errors import SettingError, check_count
from camscope.training.splits import FRACTIONS

_FROZEN = 2


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training; two trainings with the same settings, data and start are the same.

    Attributes:
        epochs: maximum number of epochs.
        patience: number of epochs without a lower validation loss after which training stops.
        batch_size: images per step.
        rate: highest learning rate of AdamW, for the head. A pretrained backbone has a tenth of it.
        decay: weight decay.
        frozen: number of epochs in which only the head is trained; None for 2 if the backbone is pretrained, else 0.
        fractions: shares of training, validation and test set, for data without splits.
        flip: whether training images are mirrored at random; not for chests, whose heart is on the left.
        hide: regions that are hidden in every training image, such as "border:0.1".
        exchange: regions and acquisition properties that each training and validation image gets from another image,
            such as "border:0.15" and "contrast".
        balance: cue by which the loss is weighted, so that each combination of label and cue counts the same.
        group_dro: cue by which the loss is weighted towards the combination of label and cue with the highest loss.
        reasons: name of the mask outside of which attribution is penalised; None for no penalty.
        reasons_weight: weight of that penalty relative to the cross-entropy.
        precision: "auto" (16 bits on a GPU, else 32), or any of Lightning's, such as "bf16-mixed".
        seed: random seed.
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
    exchange: tuple[str, ...] = ()
    balance: str | None = None
    group_dro: str | None = None
    reasons: str | None = None
    reasons_weight: float = 1.0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject values that train nothing."""
        for name in ("epochs", "patience", "batch_size"):
            check_count(name, getattr(self, name))
        for name in ("seed", *(["frozen"] if self.frozen is not None else [])):
            check_count(name, getattr(self, name), least=0)
        for name, least in (("rate", math.ulp(0.0)), ("decay", 0.0), ("reasons_weight", 0.0)):
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise SettingError(f"{name} must be finite and {'above' if least else 'at least'} 0, but got {value}")

        if self.balance is not None and self.group_dro is not None:
            raise SettingError("group DRO weights the combinations of label and cue itself: leave balance out")

    @property
    def cue(self) -> str | None:
        """Return the cue by which the loss is weighted; None for none.

        >>> TrainingSettings(balance="token").cue
        'token'
        """
        return self.balance if self.group_dro is None else self.group_dro

    def frozen_epochs(self, *, learnt: bool) -> int:
        """Return the number of epochs in which only the head is trained, less than the total."""
        epochs = (_FROZEN if learnt else 0) if self.frozen is None else self.frozen
        return min(epochs, self.epochs - 1)
