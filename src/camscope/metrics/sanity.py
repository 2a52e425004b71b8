"""Do maps depend on what the network has learned? Weights are replaced by random ones, and the maps compared."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from camscope.errors import SettingError
from camscope.metrics.comparison import spearman, ssim
from camscope.metrics.registry import Facts, metric

ExplainNet = Callable[[nn.Module], Tensor]
"""A network of the same architecture -> its maps (B, h, w) of one batch and its classes, which are always the same."""

SANE = 0.5
"""Rank correlation with the maps of random weights from which on one must doubt that maps show what was learned."""

_BATCH = 32


class Randomisation(NamedTuple):
    """How alike maps stay while weights become random.

    Attributes:
        shares: (S,) how much of the network is random, by the number of its modules with weights.
        spearman: (S, B) rank correlation with the maps of the trained network; NaN where a map is flat.
        ssim: (S, B) structural similarity with them.
    """

    shares: tuple[float, ...]
    spearman: Tensor
    ssim: Tensor


def passes(curve: Sequence[float]) -> bool:
    """Whether maps pass the sanity check: once half of the network is random, they are others, and stay so.

    The rule: in the second half of the cascade's steps no mean rank correlation reaches `SANE`, 0.5. The last step
    alone would not do: a deep network with random weights throughout may let so little through that every map of it is
    noise, and a method that only shows edges passes for a reason of its own.

    Args:
        curve: mean rank correlation with the maps of the trained network after each step of `cascade`; steps at which
            all maps are flat are NaN and do not count.

    Returns:
        False also where no step counts.

    >>> passes([0.9, 0.5, 0.2, 0.1, 0.0]), passes([0.7, 0.6, 0.6, 0.6, 0.1])
    (True, False)
    """
    late = [abs(value) for value in curve[len(curve) // 2 :] if not math.isnan(value)]
    return bool(late) and max(late) < SANE


def cascade(
    explain: ExplainNet,
    net: nn.Module,
    *,
    steps: int = 5,
    seed: int = 0,
    maps: Tensor | None = None,
    inputs: Tensor | None = None,
) -> Randomisation:
    """Random weights from the last module to the first, in steps that add up.

    Args:
        explain: gives the maps (B, h, w) of the network that it is handed.
        net: trained; a copy of it is changed.
        steps: parts of the network, of as many modules each.
        seed: of the weights.
        maps: (B, h, w) of the trained network, where they are known.
        inputs: (n, C, H, W) on which batch norms that were made random estimate their statistics, so that pictures
            still get through the network; None leaves them at mean 0 and variance 1.

    Reference:
        Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim. Sanity Checks for Saliency Maps. NeurIPS 2018.
        arXiv:1810.03292
    """
    _parts(net, steps)  # a network without weights may not be one that can be copied
    made, here = copy.deepcopy(net), explain(net) if maps is None else maps
    parts, done, found = _parts(made, steps), 0, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts:
            _randomise(part)
            done += len(part)
            if inputs is not None:
                _settle(made, [module for part in parts for module in part][:done], inputs)
            now = explain(made)
            found.append((spearman(here, now), ssim(here, now)))
    total = sum(map(len, parts))
    shares = torch.tensor([len(part) for part in parts]).cumsum(0) / total
    return Randomisation(tuple(shares.tolist()), *(torch.stack(one) for one in zip(*found, strict=True)))


def independent(
    explain: ExplainNet, net: nn.Module, *, steps: int = 5, seed: int = 0, maps: Tensor | None = None
) -> Randomisation:
    """Random weights in one part of the network at a time, from the last to the first; the others stay trained.

    Args:
        explain: as for `cascade`.
        net: as for `cascade`.
        steps: as for `cascade`.
        seed: as for `cascade`.
        maps: as for `cascade`.

    Reference:
        Adebayo et al. NeurIPS 2018. arXiv:1810.03292
    """
    here, found, sizes = explain(net) if maps is None else maps, [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(len(_parts(net, steps))):
            made = copy.deepcopy(net)
            part = _parts(made, steps)[step]
            _randomise(part)
            now = explain(made)
            found.append((spearman(here, now), ssim(here, now)))
            sizes.append(len(part))
    shares = tuple(size / sum(sizes) for size in sizes)
    return Randomisation(shares, *(torch.stack(one) for one in zip(*found, strict=True)))


@metric(Facts("low", low=-1.0))
def cascading_randomisation(
    explain: ExplainNet,
    net: nn.Module,
    *,
    steps: int = 5,
    seed: int = 0,
    maps: Tensor | None = None,
    inputs: Tensor | None = None,
) -> Tensor:
    """Whether maps stay the same when all weights are random: the rank correlation at the end of the `cascade`.

    Args:
        explain: as for `cascade`.
        net: as for `cascade`.
        steps: as for `cascade`.
        seed: as for `cascade`.
        maps: as for `cascade`.
        inputs: as for `cascade`.

    Returns:
        (B,) in [-1, 1]; near 0 the maps show what was learned, near 1 they show the picture or the architecture.

    Reference:
        Adebayo et al. NeurIPS 2018. arXiv:1810.03292
    """
    return cascade(explain, net, steps=steps, seed=seed, maps=maps, inputs=inputs).spearman[-1]


@metric(Facts("low", low=-1.0))
def independent_randomisation(
    explain: ExplainNet, net: nn.Module, *, steps: int = 5, seed: int = 0, maps: Tensor | None = None
) -> Tensor:
    """Whether maps stay the same when one part of the network is random: the mean rank correlation over the parts.

    Parts with whose random weights the map is flat do not count, as when no signal gets through.

    Args:
        explain: as for `cascade`.
        net: as for `cascade`.
        steps: as for `cascade`.
        seed: as for `cascade`.
        maps: as for `cascade`.

    Returns:
        (B,) in [-1, 1]; NaN where no part counts.

    Reference:
        Adebayo et al. NeurIPS 2018. arXiv:1810.03292
    """
    return independent(explain, net, steps=steps, seed=seed, maps=maps).spearman.nanmean(0)


def randomised(net: nn.Module, *, seed: int, inputs: Tensor) -> nn.Module:
    """A network of the same architecture with random weights, its batch norms settled on pictures.

    Modules that know how to start (``reset_parameters``) do so; of the others, such as layer scales and position
    embeddings, the values are shuffled.

    Args:
        net: whose architecture it is; it is left as it is.
        seed: of the weights.
        inputs: (n, C, h, w) on which the statistics of batch norms are estimated.
    """
    made = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _randomise(made.modules())
    _settle(made, list(made.modules()), inputs)
    return made.eval()


def _parts(net: nn.Module, steps: int) -> list[list[nn.Module]]:
    """The modules with weights of their own, from the last to the first, in parts of as many each.

    Raises:
        SettingError: no step, or no weights.
    """
    weighted = [m for m in net.modules() if _starts(m) or any(True for _ in m.parameters(recurse=False))][::-1]
    if not weighted:
        raise SettingError(f"{type(net).__name__} has no weights that could be random: a sanity check needs some")
    if steps < 1:
        raise SettingError(f"{steps} steps through {len(weighted)} modules with weights are not possible; at least 1")
    return [weighted[i * len(weighted) // steps : (i + 1) * len(weighted) // steps] for i in range(steps)]


def _starts(module: nn.Module) -> bool:
    return callable(getattr(module, "reset_parameters", None))


def _randomise(modules: Iterable[nn.Module]) -> None:
    """New weights for each, from torch's own stream of random numbers."""
    for module in modules:
        if _starts(module):
            module.reset_parameters()  # type: ignore[operator]
            continue
        for parameter in module.parameters(recurse=False):
            order = torch.randperm(parameter.numel())
            parameter.data.copy_(parameter.detach().flatten()[order].view_as(parameter))


def _settle(net: nn.Module, modules: Iterable[nn.Module], inputs: Tensor) -> None:
    """Let batch norms estimate their statistics on pictures; the network is in eval mode afterwards."""
    norms = [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    if norms:
        with torch.no_grad():
            for batch in inputs.split(_BATCH):
                net(batch)
    net.eval()
