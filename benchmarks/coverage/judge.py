"""Whether a layer is one to explain: told from outside, by other means than those that chose it.

A layer passes where its grid has the image's shape, where of the four corners of the image, each in its turn
replaced by the image's middle and noise, each changes its own corner of the grid more than the other three do (as a
share of what it changes, beyond what it changes everywhere), and where the gradient of a class score reaches half of
its places or more. Of several layers together each passes by itself, but for the gradient, which one of them needs.
White noise alone would be like no picture: attention and gates then change everywhere. The grid is at least 2 x 2.
Whether a layer lies late in the network is not judged but shown: its grid beside that of the last
stage by timm's own record.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import camscope as cs
from camscope.errors import LayerError
from camscope.models.layer_choice import choose_layer
from camscope.trace import Layout, record, unwrap

Read = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, C, H, W) -> activations and gradients (B, K, h, w) of the layer under judgement."""


def judge_camscope(net: nn.Module, x: Tensor) -> dict[str, Any]:
    """The layer that camscope chooses, what the judge says to it, and what the choice costs."""
    settle(net, x)
    forward = statistics.median(_seconds(lambda: _scores(net, x)) for _ in range(3))
    row: dict[str, Any] = {"forward": round(forward, 4)}
    try:
        row["seconds"] = round(_seconds(lambda: choose_layer(net, x)), 4)
        choice = choose_layer(net, x)
    except LayerError as error:
        return {**row, "found": False, "error": str(error)}
    row.update(layer=choice.name, in_place=choice.in_place)
    layers, layouts = choice.layers, dict(zip(choice.layers, choice.layouts, strict=True))

    def read(pictures: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        passed = record(net, pictures, layers=[layer])
        trace = passed.trace(layer, [_target] * len(pictures), layout=layouts[layer])
        return trace.activations, trace.gradients

    grid = _together([judge(partial(read, layer=layer), x) for layer in layers])
    layout = layouts[layers[0]]
    made = cs.cam(net, x, targets=_target)
    finite = bool(made.isfinite().all()) and list(made.shape[1:]) == grid["grid"]
    return {**row, "found": True, "layout": _words(layout), **grid, "finite": finite, "stage": _stage(net, x)}


def _together(levels: list[dict[str, Any]]) -> dict[str, Any]:
    """One verdict on the levels of a detector: the finest grid; each keeps corners, and one has the gradient."""
    reasons = [why for level in levels for why in level["why"].split(", ") if why]
    if not all("gradient" in level["why"] for level in levels):
        reasons = [why for why in reasons if not why.startswith("gradient")]
    finest = max(levels, key=lambda level: math.prod(level["grid"]))
    return {"grid": finest["grid"], "verified": not reasons, "why": ", ".join(reasons)}


def judge_torchcam(net: nn.Module, x: Tensor) -> dict[str, Any]:
    """The layer that torch-cam chooses where none is named, and what the judge says to it."""
    from torchcam.methods import GradCAM

    try:
        with GradCAM(net, input_shape=tuple(x.shape[1:])) as cam:
            layer = cam.target_names[0]
            scores = unwrap(net(x))
            made = cam(int(scores.flatten().argmax()), scores)[0]
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    row = {"layer": layer, "runs": made.ndim == 3 and bool(made.isfinite().all())}
    module = net.get_submodule(layer)

    def read(pictures: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            score = torch.stack([_target(one) for one in unwrap(net(pictures))]).sum()
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(score, seen[-1], allow_unused=True)
        return seen[-1].detach(), torch.zeros_like(seen[-1]) if gradient is None else gradient

    try:
        return {**row, **judge(read, x)}
    except Exception as error:
        return {**row, "error": f"{type(error).__name__}: {error}"[:200]}


def judge(read: Read, x: Tensor) -> dict[str, Any]:
    """What can be told of a layer by changing one corner of the image after the other."""
    pictures, middle = torch.cat([x] * 5), x[0].roll([side // 2 for side in x.shape[2:]], (1, 2))
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(7)).to(x)
    middle = middle + 0.5 * x.std() * noise
    height, width = (max(1, side // 4) for side in x.shape[2:])
    corners = [(top, left) for top in (True, False) for left in (True, False)]
    for picture, (top, left) in zip(pictures[1:], corners, strict=True):
        place = (slice(None), _side(height, top), _side(width, left))
        picture[place] = middle[place]
    activations, gradients = read(pictures)
    if activations.ndim != 4:
        return {"grid": list(activations.shape[2:]), "verified": False, "why": "no grid"}
    grid = tuple(activations.shape[2:])
    reached = float((gradients[:1] != 0).any(1).float().mean())
    change = (activations[1:] - activations[:1]).float()
    everywhere = change.flatten(2).median(2).values[..., None, None]
    change = (change - everywhere).abs().sum(1)
    moved = [_quadrants(one) for one in change]
    shares = [[part / max(sum(one), 1e-30) for part in one] for one in moved]
    right = sum(all(shares[i][i] > other[i] for other in shares if other is not shares[i]) for i in range(4))
    why = []
    if min(grid) < 2 or not _same_aspect(grid, tuple(x.shape[2:])):
        why.append("grid")
    if right < 4:
        why.append(f"{right} of 4 corners")
    if reached < 0.5:
        why.append(f"gradient at {reached:.0%} of the places")
    return {"grid": list(grid), "verified": not why, "why": ", ".join(why)}


def _side(length: int, first: bool) -> slice:  # noqa: FBT001
    return slice(None, length) if first else slice(-length, None)


def _quadrants(change: Tensor) -> list[float]:
    """Mean change in the top left, top right, bottom left and bottom right quarter."""
    h, w = (max(1, side // 2) for side in change.shape)
    return [float(change[_side(h, top), _side(w, left)].mean()) for top in (True, False) for left in (True, False)]


def _same_aspect(grid: tuple[int, int], picture: tuple[int, int]) -> bool:
    """Whether the grid's sides are as the image's, give or take a cell."""
    (h, w), (height, width) = grid, picture
    return abs(h * width - w * height) <= max(height, width) and h <= height and w <= width


def _stage(net: Any, x: Tensor) -> list[int] | None:
    """The grid of the last stage by timm's own record, where there is one."""
    info = getattr(net, "feature_info", None)
    entries = getattr(info, "info", info)
    if not isinstance(entries, list) or not entries or not isinstance(entries[-1], dict):
        return None
    reduction = entries[-1].get("reduction")
    return None if not reduction else [-(-side // reduction) for side in x.shape[2:]]


def _target(output: Tensor) -> Tensor:
    """The largest score of an image; where it has many rows of scores (pixels, boxes), all of them, squared."""
    return output.max() if output.ndim == 1 else output.square().sum()


def _scores(net: nn.Module, x: Tensor) -> Any:
    with torch.inference_mode():
        return net(x)


def _fill_zeros(net: nn.Module) -> None:
    """Random values for the weights that makers start at zero, which would hide how a network is connected."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not parameter.any() and not name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _words(layout: Layout) -> str:
    if layout.grid is None:
        return "channels first" if layout.channel == 1 else "channels last"
    letters = {layout.batch: "B", layout.channel: "K"}
    order = "".join(letters.get(axis, "N") for axis in range(3))
    return f"tokens {order}, {layout.prefix} before" if layout.prefix else f"tokens {order}"


def settle(net: nn.Module, x: Tensor) -> None:
    """Make a network as made behave as a trained one: no dead weights, and batch norms that know their inputs."""
    _fill_zeros(net)

    def measure(module: Any, args: tuple[Tensor, ...]) -> None:
        mean, var, channel = _statistics(module)
        axes = [axis for axis in range(args[0].ndim) if axis != channel % args[0].ndim]
        mean.copy_(args[0].mean(axes))
        var.copy_(args[0].var(axes, unbiased=False))

    norms = [module for module in net.modules() if _statistics(module)]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        net(torch.cat([x, x.flip(-1), x.flip(-2)]))
    for handle in handles:
        handle.remove()


def _statistics(module: nn.Module) -> Any:
    """Mean and variance that a batch norm keeps, of PyTorch or Keras, and its axis of channels."""
    buffers = module._buffers
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
        return module.running_mean, module.running_var, 1
    return (buffers["moving_mean"], buffers["moving_variance"], -1) if "moving_variance" in buffers else None
