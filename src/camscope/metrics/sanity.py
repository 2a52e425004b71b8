"""Sanity checks: replace the network's weights by random ones, and compare the maps."""

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
"""A network of the same architecture -> its maps (B, h, w), always of the same batch and the same classes."""

SANE = 0.5
"""Rank correlation with the maps of random weights at which maps fail the sanity check."""

_BATCH = 32
_NARROWEST = 8
_BEYOND = 1.15
_FEW = 0.1


class Randomisation(NamedTuple):
    """Similarity of the maps to those of the trained network while weights become random.

    Attributes:
        shares: (S,) share of the network that is random, by the number of its modules with weights.
        spearman: (S, B) rank correlation with the maps of the trained network; NaN where a map is flat.
        ssim: (S, B) structural similarity to the maps of the trained network.
    """

    shares: tuple[float, ...]
    spearman: Tensor
    ssim: Tensor


def passes(curve: Sequence[float]) -> bool:
    """Return whether maps pass the sanity check: they change once half of the network is random, and stay changed.

    The rule: in the second half of the cascade's steps no mean rank correlation reaches `SANE`, 0.5, in absolute value.
    The last step alone is not enough. A deep network with random weights throughout may pass on so little signal that
    all its maps are noise, and then even a method that only shows edges would pass.

    Args:
        curve: mean rank correlation with the maps of the trained network after each step of `cascade`; NaN for a step
            at which all maps are flat, which does not count.

    Returns:
        Whether the maps pass; False also if no step counts.

    >>> passes([0.9, 0.5, 0.2, 0.1, 0.0]), passes([0.7, 0.6, 0.6, 0.6, 0.1])
    (True, False)
    """
    late = [abs(value) for value in curve[len(curve) // 2 :] if not math.isnan(value)]
    return bool(late) and max(late) < SANE


def looks_untrained(net: nn.Module) -> bool:
    """Return whether nearly all weights of a network look like random numbers, as before training.

    The largest singular value of an (m, n) matrix of independent numbers of root mean square s is near
    s (sqrt(m) + sqrt(n)), the edge of the Marchenko-Pastur law. Training adds directions beyond it. A matrix stands out
    if its largest singular value is more than 1.15 times the edge; a network looks untrained if less than a tenth of
    its matrices do. Measured: 0 to 3 % of the matrices of 16 untrained architectures, 30 to 100 % of those of 20
    trained networks.

    Args:
        net: any network; convolutions are (out, in * kernel) matrices. Matrices with a side below 8 say little, and are
            left out.

    Returns:
        Also False if no matrix is large enough.

    Reference:
        Martin, Mahoney. Implicit Self-Regularization in Deep Neural Networks. JMLR 2021. arXiv:1810.01075

    >>> _ = torch.manual_seed(0)
    >>> looks_untrained(nn.Linear(64, 32)), looks_untrained(nn.Linear(4, 4))
    (True, False)
    """
    standing_out = []
    for parameter in net.parameters():
        if parameter.ndim < 2 or not parameter.is_floating_point() or parameter.is_quantized:
            continue
        matrix = parameter.detach().flatten(1).float()
        scale = float(matrix.square().mean().sqrt())
        if min(matrix.shape) >= _NARROWEST and scale > 0:
            edge = scale * (math.sqrt(matrix.shape[0]) + math.sqrt(matrix.shape[1]))
            standing_out.append(float(torch.linalg.matrix_norm(matrix, 2)) > _BEYOND * edge)
    return bool(standing_out) and sum(standing_out) < _FEW * len(standing_out)


def cascade(
    explain: ExplainNet,
    net: nn.Module,
    *,
    steps: int = 5,
    seed: int = 0,
    maps: Tensor | None = None,
    inputs: Tensor | None = None,
) -> Randomisation:
    """Randomise the weights from the last module to the first, in cumulative steps, and compare the maps.

    Args:
        explain: function of a network that returns its maps (B, h, w), always of the same images and classes.
        net: the trained network; only a copy of it is changed.
        steps: number of steps; the modules with weights are divided evenly among them.
        seed: random seed of the weights.
        maps: (B, h, w) maps of the trained network; None to compute them.
        inputs: (n, C, H, W) images on which randomised batch norms estimate their statistics, so that signal still
            passes through the network; None leaves them at mean 0 and variance 1.

    Returns:
        The similarity to the maps of the trained network after each step.

    Reference:
        Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim. Sanity Checks for Saliency Maps. NeurIPS 2018.
        arXiv:1810.03292
    """
    _parts(net, steps)  # a network without weights may not support copies
    random_net, clean_map = copy.deepcopy(net), explain(net) if maps is None else maps
    parts, count, similarities = _parts(random_net, steps), 0, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts:
            _randomise(part)
            count += len(part)
            if inputs is not None:
                _settle(random_net, [module for part in parts for module in part][:count], inputs)
            random_map = explain(random_net)
            similarities.append((spearman(clean_map, random_map), ssim(clean_map, random_map)))
    total = sum(map(len, parts))
    shares = torch.tensor([len(part) for part in parts]).cumsum(0) / total
    return Randomisation(tuple(shares.tolist()), *(torch.stack(values) for values in zip(*similarities, strict=True)))


def independent(
    explain: ExplainNet, net: nn.Module, *, steps: int = 5, seed: int = 0, maps: Tensor | None = None
) -> Randomisation:
    """Randomise one part of the network at a time, from the last to the first, and compare the maps.

    The other parts keep their trained weights.

    Args:
        explain: function of a network that returns its maps (B, h, w), always of the same images and classes.
        net: the trained network; only copies of it are changed.
        steps: number of parts; the modules with weights are divided evenly among them.
        seed: random seed of the weights.
        maps: (B, h, w) maps of the trained network; None to compute them.

    Returns:
        The similarity to the maps of the trained network with each part randomised.

    Reference:
        Adebayo et al. NeurIPS 2018. arXiv:1810.03292
    """
    clean_map, similarities, sizes = explain(net) if maps is None else maps, [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(len(_parts(net, steps))):
            random_net = copy.deepcopy(net)
            part = _parts(random_net, steps)[step]
            _randomise(part)
            random_map = explain(random_net)
            similarities.append((spearman(clean_map, random_map), ssim(clean_map, random_map)))
            sizes.append(len(part))
    shares = tuple(size / sum(sizes) for size in sizes)
    return Randomisation(shares, *(torch.stack(values) for values in zip(*similarities, strict=True)))


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
    """Compute the rank correlation of the maps with those of random weights throughout: the end of the `cascade`.

    Args:
        explain: function of a network that returns its maps (B, h, w), always of the same images and classes.
        net: the trained network; only a copy of it is changed.
        steps: number of steps; the modules with weights are divided evenly among them.
        seed: random seed of the weights.
        maps: (B, h, w) maps of the trained network; None to compute them.
        inputs: (n, C, H, W) images on which randomised batch norms estimate their statistics, so that signal still
            passes through the network; None leaves them at mean 0 and variance 1.

    Returns:
        (B,) in [-1, 1]; near 0 the maps show what was learned, near 1 they show the image or the architecture.

    Reference:
        Adebayo et al. NeurIPS 2018. arXiv:1810.03292
    """
    return cascade(explain, net, steps=steps, seed=seed, maps=maps, inputs=inputs).spearman[-1]


@metric(Facts("low", low=-1.0))
def independent_randomisation(
    explain: ExplainNet, net: nn.Module, *, steps: int = 5, seed: int = 0, maps: Tensor | None = None
) -> Tensor:
    """Compute the rank correlation of the maps with those of one random part of the network, the mean over the parts.

    Parts whose random weights make the map flat do not count, as when no signal passes through.

    Args:
        explain: function of a network that returns its maps (B, h, w), always of the same images and classes.
        net: the trained network; only copies of it are changed.
        steps: number of parts; the modules with weights are divided evenly among them.
        seed: random seed of the weights.
        maps: (B, h, w) maps of the trained network; None to compute them.

    Returns:
        (B,) in [-1, 1]; NaN where no part counts.

    Reference:
        Adebayo et al. NeurIPS 2018. arXiv:1810.03292
    """
    return independent(explain, net, steps=steps, seed=seed, maps=maps).spearman.nanmean(0)


def randomised(net: nn.Module, *, seed: int, inputs: Tensor) -> nn.Module:
    """Return a copy of a network with random weights, and batch norm statistics estimated on images.

    Modules with ``reset_parameters`` are initialised again. The values of other modules, such as layer scales and
    position embeddings, are shuffled.

    Args:
        net: the network to copy; it is not changed.
        seed: random seed of the weights.
        inputs: (n, C, h, w) images on which the statistics of batch norms are estimated.

    Returns:
        The copy, in eval mode.
    """
    random_net = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _randomise(random_net.modules())
    _settle(random_net, list(random_net.modules()), inputs)
    return random_net.eval()


def _parts(net: nn.Module, steps: int) -> list[list[nn.Module]]:
    """Return the modules with weights of their own, from the last to the first, in ``steps`` parts of equal size.

    Raises:
        SettingError: less than one step, or a network without weights.
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
    """Give each module new weights, from torch's global random generator."""
    for module in modules:
        if _starts(module):
            module.reset_parameters()  # type: ignore[operator]
            continue
        for parameter in module.parameters(recurse=False):
            order = torch.randperm(parameter.numel())
            parameter.data.copy_(parameter.detach().flatten()[order].view_as(parameter))


def _settle(net: nn.Module, modules: Iterable[nn.Module], inputs: Tensor) -> None:
    """Estimate the statistics of batch norms on images, and set the network to eval mode."""
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
