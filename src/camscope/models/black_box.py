"""Black boxes: any function from images to scores as a model."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from camscope.arguments import checked
from camscope.errors import ModelError, SettingError
from camscope.models.labels import read_labels
from camscope.models.model import Model, Outcome
from camscope.models.preprocess import Preprocess
from camscope.trace.boxes import COLUMNS, has_boxes

Takes = Literal["numpy", "torch"]
Returns = Literal["probabilities", "scores"]

_EPS = 1e-6
_SUM = 1e-3


class BlackBox(nn.Module):
    """Network without layers, weights and gradients around a function from images to scores.

    Args:
        function: maps a batch of images to scores, see `black_box`.
        takes: "numpy" or "torch".
        returns: "probabilities" or "scores".
        outcome: see `Model`.
        labels: number of class names; 0 for none.
        version: identifies the function's state in `Model.digest`.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        takes: Takes,
        returns: Returns,
        outcome: Outcome,
        labels: int,
        version: str,
    ) -> None:
        super().__init__()
        self.function, self.takes, self.returns = function, takes, returns
        self.outcome, self.labels, self.version = outcome, labels, version

    def get_extra_state(self) -> str:
        """Return the version, which replaces the weights in `Model.digest`."""
        return self.version

    def set_extra_state(self, state: str) -> None:
        """Set the version."""
        self.version = state

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the scores (B, ...) of images (B, C, h, w).

        Raises:
            ModelError: the function returned something else than scores.
        """
        pictures = pictures.detach()
        inputs = pictures.movedim(1, -1).clamp(0, 1).cpu().numpy() if self.takes == "numpy" else pictures
        with torch.no_grad():
            returned = self.function(inputs)
        scores = _as_scores(returned, like=pictures)
        self._check_shape(tuple(scores.shape))
        return scores if self.returns == "scores" or self.outcome == "value" else self._from_probabilities(scores)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise unless outputs of a shape fit the outcome and the labels."""
        if self.outcome == "boxes":
            if not has_boxes(shape):
                raise ModelError(
                    f"the function returned {shape}; outcome='boxes' expects (batch, boxes, {COLUMNS}): left, top, "
                    "right, bottom, score, class"
                )
        elif self.labels and (self.labels, shape[1]) != (2, 1) and self.labels != shape[1]:
            raise ModelError(f"the function returned {shape[1]} classes, but there are {self.labels} labels")
        elif self.outcome == "one" and shape[1] == 1:
            raise ModelError(
                "the function returned one score per image: pass outcome='any' where it says whether something is "
                "there, or outcome='value' for another number"
            )

    def _from_probabilities(self, p: Tensor) -> Tensor:
        """Return scores before a sigmoid or softmax, computed from the probabilities."""
        values = p[:, :, 4] if self.outcome == "boxes" else p
        if bool((values < 0).any()) or bool((values > 1).any()):
            low, high = float(values.min()), float(values.max())
            raise ModelError(
                f"expected probabilities in [0, 1], but the function returned {low:.4g} to {high:.4g}: pass "
                "returns='scores' for logits, or outcome='value' for other numbers"
            )
        if self.outcome == "boxes":
            return torch.cat([p[:, :, :4], torch.logit(p[:, :, 4:5], eps=_EPS), p[:, :, 5:]], 2)
        if self.outcome == "any":
            # The sigmoid is undone where scores are read, which also adds the note.
            return torch.logit(p, eps=_EPS).sigmoid()
        if bool(((p.sum(1) - 1).abs() > _SUM).any()):
            raise ModelError(
                "expected the probabilities of an image to add up to 1, but they do not: pass outcome='any' where "
                "each class has a probability of its own"
            )
        return p if p.ndim == 2 else p.clamp_min(torch.finfo(p.dtype).tiny).log()


@checked
def black_box(
    function: Callable[[Any], Any],
    *,
    input_size: int | tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | str = (),
    outcome: Outcome = "one",
    name: str = "black box",
    takes: Takes = "numpy",
    returns: Returns = "probabilities",
    version: str | None = None,
) -> Model:
    """Wrap any function from images to scores as a `Model`, for methods that need only scores.

    The model has no layers and no gradients: methods that need them, such as Grad-CAM, raise a `MethodError` that
    names the methods that work. The function gets CPU tensors, and may compute on any device.

    Args:
        function: maps a batch of images to an array or tensor (B, classes), (B,) for a single score, (B, classes,
            H, W) for a segmentation, or (B, boxes, 6) for a detector (see ``outcome`` of `Model`).
        input_size: (height, width) that images are resized to, or one number for both; 224 by default. Pixels are
            in [0, 1], and the whole image is squashed to that size.
        preprocess: preprocessing of the images, instead of ``input_size``.
        labels: class names in the order of the outputs, or a file of them.
        outcome: "one" class is right, "any" number of them is, the outputs are a "value", or "boxes".
        name: name of the model in results.
        takes: "numpy": the function gets float32 arrays (B, height, width, channels) with pixels in [0, 1];
            "torch": float32 tensors (B, channels, height, width), normalised as ``preprocess`` says.
        returns: "probabilities" in [0, 1], or "scores" before a softmax or sigmoid (logits). For probabilities, log p
            is explained, or the log-odds if ``outcome`` is "any" or "boxes".
        version: identifier of the function's state, such as a hash of its weights. A study reuses rows of the same
            version; None: rows are never reused.

    Raises:
        SettingError: settings that contradict each other.

    Examples:
        >>> def redness(pictures):  # (B, h, w, 3) in [0, 1]
        ...     red = pictures[:, :, :, 0].mean((1, 2))
        ...     return np.stack([1 - red, red], 1)
        >>> model = black_box(redness, input_size=32, labels=["pale", "red"])
        >>> model.label(1), model.net(torch.zeros(1, 3, 32, 32))
        ('red', tensor([[1., 0.]]))
    """
    for key, value, possible in (
        ("takes", takes, get_args(Takes)),
        ("returns", returns, get_args(Returns)),
        ("outcome", outcome, get_args(Outcome)),
    ):
        if value not in possible:
            raise SettingError(f"{key} cannot be {value!r}; possible: {', '.join(possible)}")
    if preprocess is None:
        side = 224 if input_size is None else input_size
        size = (side, side) if isinstance(side, int) else side
        preprocess = Preprocess(input_size=size, mean=(0.0,) * 3, std=(1.0,) * 3, fit="squash")
    elif input_size is not None:
        raise SettingError("expected input_size or preprocess, but got both: preprocess has an input_size of its own")
    elif takes == "numpy" and (set(preprocess.mean), set(preprocess.std)) != ({0.0}, {1.0}):
        raise SettingError(
            "takes='numpy' hands over pixels in [0, 1], so preprocess must not normalise: use mean 0 and std 1, or "
            "takes='torch' for normalised tensors"
        )
    names = read_labels(labels) if len(labels) else ()
    net = BlackBox(
        function,
        takes=takes,
        returns=returns,
        outcome=outcome,
        labels=len(names),
        version=version or uuid.uuid4().hex,
    )
    return Model(name, net.eval(), preprocess=preprocess, labels=names, outcome=outcome)


def _as_scores(returned: Any, *, like: Tensor) -> Tensor:
    """Return what a function returned as a tensor (B, ...) of floats.

    Raises:
        ModelError: it is no array of numbers with one row per image.
    """
    try:
        scores = returned.detach() if isinstance(returned, Tensor) else torch.from_numpy(np.array(returned))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the function returned {type(returned).__name__}; expected an array or tensor (batch, classes)"
        ) from error
    if scores.ndim == 0 or len(scores) != len(like) or scores.is_complex() or scores.dtype == torch.bool:
        raise ModelError(
            f"the function returned {tuple(scores.shape)} {scores.dtype} for {len(like)} images; expected numbers "
            f"(batch, classes) with a batch of {len(like)}"
        )
    return (scores[:, None] if scores.ndim == 1 else scores).to(like.device, like.dtype)
