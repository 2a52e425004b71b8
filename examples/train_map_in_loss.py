"""A map in a loss: teach a network where to look, in a training loop of your own.

    python examples/train_map_in_loss.py

``cs.cam(..., differentiable=True)`` keeps the graph from the map to the parameters. Two networks learn to see a pleural
effusion in generated radiographs; the second is also told, by a penalty, that its reasons lie in the effusion (Ross,
Hughes, Doshi-Velez, Right for the Right Reasons, IJCAI 2017).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

import camscope as cs
from camscope.heatmap import upsample
from camscope.phantoms.cohort import pictures_and_masks, plan_training

SIDE = 64


def outside(net: torch.nn.Module, x: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Share of each Grad-CAM outside the mask, (B,) in [0, 1], differentiable by the network's parameters."""
    maps = cs.cam(net, x, targets=0, layer="layer4", differentiable=True)
    # A smooth ReLU: a map that is nowhere positive must have a gradient to come back by.
    heat = upsample(F.softplus(10 * maps / maps.detach().abs().mean((1, 2), keepdim=True)), masks.shape[1:])
    return 1 - (heat * masks).sum((1, 2)) / heat.sum((1, 2))


def train(weight: float, *, pictures: int = 48, steps: int = 30) -> tuple[float, float]:
    """Train with this weight of the penalty; returns the last cross-entropy and the share outside on other patients."""
    x, truth, masks = data(0, pictures)
    torch.manual_seed(0)
    options = {"in_chans": 1, "output_stride": 8}
    model = cs.load("timm:resnet10t", weights="none", labels=["Effusion"], input_size=SIDE, options=options)
    net = model.net.train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = torch.randperm(len(x))[:16]
        with_it = rows[truth[rows] == 1]
        loss = F.binary_cross_entropy_with_logits(net(x[rows])[:, 0], truth[rows])
        penalty = outside(net, x[with_it], masks[with_it]).mean()
        optimiser.zero_grad()
        (loss + weight * penalty).backward()
        optimiser.step()
    others, present, places = data(1, pictures)
    found = outside(net, others[present == 1], places[present == 1])
    return float(loss.detach()), float(found.mean().detach())


def data(seed: int, pictures: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Generated radiographs (N, 1, H, W), whether they have the finding (N,), and where (N, H, W)."""
    cases = plan_training("Effusion", seed=seed, pictures=pictures)
    made, masks = pictures_and_masks(cases, "Effusion", side=SIDE)
    truth = torch.tensor([float("Effusion" in case.findings) for case in cases])
    return (torch.from_numpy(made)[:, None] / 255 - 0.5) / 0.25, truth, torch.from_numpy(masks)


if __name__ == "__main__":
    for weight in (0.0, 2.0):
        loss, share = train(weight)
        print(f"penalty {weight}: cross-entropy {loss:.2f}, {share:.0%} of the map outside the effusion")
