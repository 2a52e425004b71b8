"""Right for the right reasons: a penalty on attribution outside of masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from camscope.explanation import cam
from camscope.heatmap import upsample

_TINY = 1e-6


def share_outside(net: nn.Module, x: Tensor, *, masks: Tensor, targets: Sequence[int], layer: str) -> Tensor:
    """Compute the share of each Grad-CAM that lies outside a mask: 1 - sum(m M) / sum(M), M = up(ReLU(map)).

    A map without positive values would have no gradient. For such a map, its softmax over cells, in units of its mean
    size, replaces the ReLU.

    Args:
        net: the network; its parameters get gradients through the maps.
        x: (B, C, h, w) inputs.
        masks: (B, h, w) m, where the evidence should lie.
        targets: index of the explained class, one per image.
        layer: name of the target layer.

    Returns:
        (B,) in [0, 1], differentiable.

    Reference:
        Ross, Hughes, Doshi-Velez. Right for the Right Reasons: Training Differentiable Models by Constraining their
        Explanations. IJCAI 2017. arXiv:1703.03717 (there of input gradients; here of the map that users look at).

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> x, whole = torch.rand(2, 1, 8, 8), torch.ones(2, 8, 8)
    >>> bool((share_outside(net, x, masks=0 * whole, targets=[0, 1], layer="1") == 1).all())
    True
    """
    maps = cam(net, x, targets=list(targets), layer=layer, differentiable=True).float()
    size = maps.detach().abs().mean((1, 2), keepdim=True) + _TINY
    soft = (maps / size).flatten(1).softmax(1).view_as(maps)
    empty = (maps <= 0).flatten(1).all(1)[:, None, None]
    heat = upsample(torch.where(empty, soft, maps.relu()), masks.shape[1:])
    inside: Tensor = (heat * masks).sum((1, 2)) / (heat.sum((1, 2)) + _TINY)
    return 1 - inside
