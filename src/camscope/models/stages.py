"""Stages of a network, first to last: one layer per grid size, or per block if there is only one size.

As with `default_layer`, computations decide, not names: a stage is a layer with a grid that every path from the image
to the scores passes through.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import weakref
from collections import Counter
from typing import Any

import torch
from torch import nn

from camscope.models.layer_choice import choice_of
from camscope.models.probe import Probe
from camscope.models.probe_cache import Cache, probed_once
from camscope.trace.hooks import unchanged
from camscope.trace.layer_path import JOINT
from camscope.trace.layout import fits
from camscope.trace.pytree import Input

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_Cut = tuple[str, tuple[int, ...]]

_stages: Cache[list[str]] = weakref.WeakKeyDictionary()


def stage_layers(net: nn.Module, x: Any, *, picture: Input = None, output: int | str | None = None) -> list[str]:
    """Return the names of the stages of a network; cached, as `default_layer` is.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or a tuple of inputs; only the shape of the images is used.
        picture: which of several inputs is the batch of images.
        output: which of several outputs holds the scores.

    Returns:
        Names of layers in execution order: the last layer of each grid size, or every block if there is only one size.
        The last name is `default_layer`, also if that names several layers.

    Raises:
        LayerError: no tensor of the network is a spatial feature map.

    >>> import torch
    >>> body = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()]
    >>> net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> stage_layers(net, torch.randn(1, 3, 32, 32))
    ['1', '3']
    """
    layers: list[str] = probed_once(_stages, _stages_of, net, x, picture, output)
    return list(layers)


def spatial_convolutions(net: nn.Module, x: Any) -> list[str]:
    """Return the names of the convolutions whose output has more than one cell, in the order in which they run.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or a tuple of inputs.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.Flatten())
    >>> spatial_convolutions(net, torch.randn(1, 3, 8, 8))
    ['0']
    """
    run: list[str] = []

    def record(name: str, output: Any) -> None:
        if math.prod(output.shape[2:]) > 1 and name not in run:
            run.append(name)

    with contextlib.ExitStack() as stack, unchanged(net), torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, _CONVOLUTIONS):
                hook = module.register_forward_hook(lambda _, __, output, name=name: record(name, output))
                stack.callback(hook.remove)
        net(*x) if isinstance(x, tuple) else net(x)
    return run


def _stages_of(probe: Probe) -> list[str]:
    last = choice_of(probe).name
    first = last.partition(JOINT)[0]
    cuts, grid = _cuts(probe, until=first)
    if _is_even(grid, probe):  # attention, (B, heads, tokens, width), may pass for a grid with a stride per axis
        cuts = [cut for cut in cuts if _is_even(cut[1], probe)]
    sizes = _by_size([*cuts, (first, grid)])
    if len(sizes) == 1:
        return [*_blocks([name for name, _ in cuts]), last]
    before = (_end_of(size, following, cuts) for size, following in itertools.pairwise(sizes))
    return [*before, last]


def _is_even(grid: tuple[int, ...], probe: Probe) -> bool:
    return len(grid) == len(probe.space) and fits(grid, probe.space)


def _by_size(cuts: list[_Cut]) -> list[list[_Cut]]:
    """Group successive layers whose number of cells differs by less than a factor of 2: convolutions may lose a few."""
    sizes: list[list[_Cut]] = []
    for cut in cuts:
        cells = math.prod(cut[1])
        if sizes and 1 / 2 < cells / math.prod(sizes[-1][0][1]) < 2:
            sizes[-1].append(cut)
        else:
            sizes.append([cut])
    return sizes


def _end_of(size: list[_Cut], following: list[_Cut], cuts: list[_Cut]) -> str:
    """Return the last cut of a size; the last before the module that leads to the next size, where it lies within that.

    An item of a numbered list is a stage by itself.

    >>> wide, narrow = [("a.0", (8, 8)), ("a.1.conv", (8, 8))], [("a.1", (4, 4)), ("a.2", (4, 4))]
    >>> _end_of(wide, narrow, [*wide, *narrow, ("a.3", (2, 2))])
    'a.0'
    >>> _end_of([("stem", (8, 8)), ("stages.0", (8, 8))], [("stages.1", (4, 4))], [])
    'stages.0'
    """
    last, first = size[-1][0], following[0][0]
    parent, _, item = last.rpartition(".")
    pairs = zip(last.split("."), first.split("."), strict=False)
    shared = [part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    for depth in range(1, len(shared) + 1):
        module = ".".join(shared[:depth])
        inside = {name for name, _ in cuts if (name + ".").startswith(module + ".")}
        before = [name for name, _ in size if name not in inside]
        if module == parent and item.isdigit():
            break
        if before and len(_by_size([cut for cut in cuts if cut[0] in inside])) <= 2:
            return before[-1]
    return last


def _cuts(probe: Probe, *, until: str) -> tuple[list[_Cut], tuple[int, ...]]:
    """Return the cuts that run before a layer, by name and grid, and the grid of that layer."""
    cuts: dict[str, tuple[int, ...]] = {}
    for candidate in probe.candidates:
        name = probe.name(candidate)
        if until in (name, candidate.name):
            return list(cuts.items()), candidate.grid
        if probe.is_cut(candidate) and probe.is_readable(candidate):
            cuts.setdefault(name, candidate.grid)
    return list(cuts.items()), ()


def _blocks(names: list[str]) -> list[str]:
    """Return those names that are the most numerous siblings: the blocks of a network, without its stem.

    >>> _blocks(["patch_embed", "blocks.0.add()#0", "blocks.0", "blocks.1.add()#0", "blocks.1"])
    ['blocks.0', 'blocks.1']
    """
    modules = [name for name in names if not name.partition("#")[0].endswith("()")]
    parents = Counter(name.rpartition(".")[0] for name in modules)
    if not parents:
        return []
    parent = parents.most_common(1)[0][0]
    return [name for name in modules if name.rpartition(".")[0] == parent]
