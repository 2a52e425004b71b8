"""Common format of the outputs of detectors and segmentation networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camscope.trace.boxes import NEVER

# As torchvision's detectors: minimum probability and maximum number of boxes per image.
_LEAST = 0.05
_MOST = 300

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (n, 4) left, top, right, bottom in pixels of the input, their log-odds (n,), and their classes (n,)."""


def box_rows(found: Sequence[Found]) -> Tensor:
    """Return the boxes of each image as rows (B, boxes, 6), the best first.

    A row is left, top, right, bottom in pixels of the input, log-odds of the score, class. Rows beyond an image's
    last box have the class -1 and the lowest score.

    Args:
        found: boxes of each image.

    >>> one = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([2.0]), torch.tensor([1])
    >>> none = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0)
    >>> box_rows([one, none])[:, :, 5].tolist()
    [[1.0], [-1.0]]
    """
    rows = max(1, *(len(scores) for _, scores, _ in found))
    filled = []
    for boxes, scores, classes in found:
        best_first = scores.argsort(descending=True, stable=True)
        columns = [boxes, scores[:, None], classes[:, None].to(boxes.dtype)]
        empty = boxes.new_tensor([0, 0, 0, 0, torch.logit(torch.tensor(NEVER)), -1])
        filled.append(torch.cat([torch.cat(columns, 1)[best_first], empty.expand(rows - len(boxes), 6)]))
    return torch.stack(filled)


def box_rows_of_queries(boxes: Tensor, logodds: Tensor, *, suppress: float | None = None) -> Tensor:
    """Return rows, see `box_rows`, of what a network says of each query or place.

    Of each, every class with a probability of 0.05 or more is a box, and of an image the 300 best are kept.

    Args:
        boxes: (B, N, 4) left, top, right, bottom in pixels of the input.
        logodds: (B, N, classes) of their scores; gradients reach them.
        suppress: boxes of a class that overlap with a better one by this share of their union are left out; None:
            all are kept.
    """
    from torchvision.ops import batched_nms  # its import takes seconds

    least = torch.logit(torch.tensor(_LEAST))
    detections: list[Found] = []
    for places, scores in zip(boxes, logodds, strict=True):
        rows, classes = (scores.detach() >= least).nonzero(as_tuple=True)
        picks = scores.detach()[rows, classes].argsort(descending=True, stable=True)
        if suppress is not None:
            picks = batched_nms(
                places[rows].detach().float(), scores.detach()[rows, classes].float(), classes, suppress
            )
        rows, classes = rows[picks[:_MOST]], classes[picks[:_MOST]]
        detections.append((places[rows], scores[rows, classes], classes))
    return box_rows(detections)


def corners(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return left, top, right, bottom in pixels of boxes (..., 4) with centre and size as shares of the input.

    Args:
        boxes: centre x, centre y, width, height in [0, 1].
        size: (height, width) of the input.

    >>> corners(torch.tensor([0.5, 0.5, 1.0, 0.5]), (40, 20))
    tensor([ 0., 10., 20., 30.])
    """
    height, width = size
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    edges = torch.cat((centre - half, centre + half), -1)
    return edges * boxes.new_tensor([width, height, width, height])


def class_maps(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps of scores (B, classes, H, W) at input size.

    One map for one class becomes two: what speaks against the class, and what speaks for it.

    Args:
        scores: (B, classes, h, w).
        size: (height, width) of the input.

    >>> class_maps(torch.ones(1, 1, 2, 2), (4, 4)).shape
    torch.Size([1, 2, 4, 4])
    """
    scores = torch.cat([-scores, scores], 1) if scores.shape[1] == 1 else scores
    if tuple(scores.shape[2:]) == size:
        return scores
    return interpolate(scores, size, mode="bilinear", align_corners=False)
