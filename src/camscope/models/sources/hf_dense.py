"""Object detectors and segmentation networks of transformers as networks with one tensor for an output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import ModelError
from camscope.models.sources.dense import box_rows_of_queries, class_maps, corners


class Detector(nn.Module):
    """A detector of transformers: (B, 3, h, w) images -> (B, boxes, 6), see `box_rows`.

    It scores C classes for each of its queries. DETR and YOLOS score "no object" as well, and a class then is scored
    against all others (softmax); the others score each class separately (sigmoid).

    Args:
        model: returns ``logits`` (B, queries, C or C + 1) and ``pred_boxes`` (B, queries, 4).
        classes: C.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, pictures: Tensor) -> Tensor:
        """Return boxes (B, boxes, 6), the best of each image first."""
        output: Any = self.model(pixel_values=pictures)
        logits, boxes = getattr(output, "logits", None), getattr(output, "pred_boxes", None)
        if logits is None or boxes is None or logits.shape[2] not in (self.classes, self.classes + 1):
            raise ModelError(
                f"{type(self.model).__name__} does not return boxes with a score for each of its {self.classes} "
                "classes: wrap it yourself as a network that returns (batch, boxes, 6)"
            )
        if logits.shape[2] == self.classes + 1:
            logits = _against_all_others(logits)[:, :, :-1]
        height, width = pictures.shape[-2:]
        return box_rows_of_queries(corners(boxes, (height, width)), logits)


class Segmenter(nn.Module):
    """A segmentation network of transformers: (B, 3, h, w) images -> (B, classes, h, w) scores.

    Networks that score masks (MaskFormer, Mask2Former) give each place the sum over their queries of the probability
    of the class times that of the mask, as their papers do; the others' logits are resized to the input.

    Reference:
        Cheng, Schwing, Kirillov. Per-Pixel Classification is Not All You Need for Semantic Segmentation. NeurIPS 2021.
        arXiv:2107.06278

    Args:
        model: returns ``logits``, or ``class_queries_logits`` and ``masks_queries_logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        """Return scores (B, classes, h, w)."""
        output: Any = self.model(pixel_values=pictures)
        height, width = pictures.shape[-2:]
        masks, logits = getattr(output, "masks_queries_logits", None), getattr(output, "logits", None)
        if masks is not None:
            classes = output.class_queries_logits.softmax(-1)[:, :, :-1]
            maps = torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid())
            # The background of a single class.
            return class_maps(torch.cat([1 - maps, maps], 1) if maps.shape[1] == 1 else maps, (height, width))
        if logits is None or logits.ndim != 4:
            raise ModelError(
                f"{type(self.model).__name__} returns no map of scores for each class: wrap it yourself as a network "
                "that returns (batch, classes, height, width)"
            )
        return class_maps(logits, (height, width))


def _against_all_others(logits: Tensor) -> Tensor:
    """Return the log-odds (..., C) of the classes of a softmax, exact where probabilities are rounded to 1.

    >>> _against_all_others(torch.tensor([1.0, 3.0]))
    tensor([-2.,  2.])
    """
    rivals = logits[..., None, :].expand(*logits.shape, logits.shape[-1])
    diagonal = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return logits - rivals.masked_fill(diagonal, -torch.inf).logsumexp(-1)
