"""Attributions to the pixels, as captum makes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import SettingError, require
from camscope.methods.network import Targets
from camscope.methods.noise import content_seeds
from camscope.methods.registry import attribution, network_method
from camscope.trace import record, unchanged
from camscope.trace.structure import map_tensors, picture_of, take_images, with_picture

_CHUNK_PIXELS = 32 * 224 * 224


@attribution
@network_method(needs="gradients")
def integratedgradients(
    net: nn.Module,
    inputs: Any,
    targets: Targets,
    *,
    steps: int = 50,
    baseline: float = 0.0,
    chunk: int | None = None,
    picture: int = 0,
) -> Tensor:
    """Integrated gradients: each pixel's share of what the picture scores above a baseline picture.

    L = sum_c (x - x') * integral of dy/dx along the straight line from x' to x. The shares add up to y(x) - y(x').

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one function of an image's output for each image.
        steps: points of the integral.
        baseline: value of every pixel of x', in the unit of the network's normalised input.
        chunk: pictures in one pass; by default as many as 32 of 224 x 224 pixels hold.
        picture: which of several inputs is the picture.

    Returns:
        (B, *space) signed map, summed over the colour channels.

    Raises:
        MissingExtraError: captum is not installed.

    Needs: a score with a gradient by the picture; captum.

    Cost: steps forwards and backwards; 50 by default.

    Reference:
        Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017. arXiv:1703.01365
    """
    with _scores(net, inputs, targets, picture) as scores:
        method = _captum().IntegratedGradients(scores)
        values = method.attribute(
            scores.pictures,
            baselines=baseline,
            additional_forward_args=scores.rows,
            n_steps=_positive("steps", steps),
            internal_batch_size=max(scores.at_once(chunk), len(scores.rows)),
        )
    return _summed(values)


@attribution
@network_method(needs="gradients")
def smoothgrad(
    net: nn.Module,
    inputs: Any,
    targets: Targets,
    *,
    samples: int = 50,
    noise: float = 0.15,
    seed: int = 0,
    chunk: int | None = None,
    picture: int = 0,
) -> Tensor:
    """SmoothGrad: the gradient by the pixels, averaged over noisy copies of the picture.

    L = sum_c mean_n dy/dx (x + e_n), e_n ~ N(0, (noise * (max x - min x))^2).

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one function of an image's output for each image.
        samples: noisy copies.
        noise: standard deviation of the noise, as a share of the range of the picture's values.
        seed: of the noise, together with the content of the picture.
        chunk: pictures in one pass; by default as many as 32 of 224 x 224 pixels hold.
        picture: which of several inputs is the picture.

    Returns:
        (B, *space) signed map, summed over the colour channels.

    Raises:
        MissingExtraError: captum is not installed.

    Needs: a score with a gradient by the picture; captum.

    Cost: samples forwards and backwards; 50 by default.

    Reference:
        Smilkov, Thorat, Kim, Viegas, Wattenberg. SmoothGrad: removing noise by adding noise. 2017. arXiv:1706.03825
    """
    captum = _captum()
    maps = []
    with _scores(net, inputs, targets, picture) as scores:
        method = captum.NoiseTunnel(captum.Saliency(scores))
        seeds = content_seeds(scores.pictures, seed=seed)
        for one, row, own in zip(scores.pictures.split(1), scores.rows.split(1), seeds, strict=True):
            with torch.random.fork_rng(devices=[one.device] if one.is_cuda else []):
                torch.manual_seed(own)
                maps.append(
                    method.attribute(
                        one,
                        nt_samples=_positive("samples", samples),
                        nt_samples_batch_size=scores.at_once(chunk),
                        stdevs=noise * float(one.max() - one.min()),
                        additional_forward_args=row,
                        abs=False,
                    )
                )
    return _summed(torch.cat(maps))


@attribution
@network_method(needs="scores")
def occlusion(
    net: nn.Module,
    inputs: Any,
    targets: Targets,
    *,
    window: int | None = None,
    stride: int | None = None,
    baseline: float = 0.0,
    chunk: int | None = None,
    picture: int = 0,
) -> Tensor:
    """Occlusion: what the score loses when a square of the picture is covered.

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one function of an image's output for each image.
        window: side of the square in pixels; by default an eighth of the picture's shorter side.
        stride: pixels from one square to the next; by default half a window.
        baseline: value of covered pixels, in the unit of the network's normalised input.
        chunk: pictures in one pass; by default as many as 32 of 224 x 224 pixels hold.
        picture: which of several inputs is the picture.

    Returns:
        (B, *space) signed map: in each pixel the mean loss of the squares that cover it.

    Raises:
        MissingExtraError: captum is not installed.
        SettingError: a window larger than the picture.

    Needs: no gradient; captum.

    Cost: 1 forward for each square; 225 + 1 by default on a square picture.

    Reference:
        Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014. arXiv:1311.2901
    """
    with _scores(net, inputs, targets, picture) as scores:
        channels, *space = scores.pictures.shape[1:]
        window = max(1, min(space) // 8) if window is None else _positive("window", window)
        stride = max(1, window // 2) if stride is None else _positive("stride", stride)
        if window > min(space) or stride > window:
            raise SettingError(
                f"window={window}, stride={stride} does not fit a picture of {tuple(space)}; the window must fit in "
                "it, and the stride in the window"
            )
        with torch.no_grad():
            values = (
                _captum()
                .Occlusion(scores)
                .attribute(
                    scores.pictures,
                    sliding_window_shapes=(channels, *[window] * len(space)),
                    strides=(channels, *[stride] * len(space)),
                    baselines=baseline,
                    additional_forward_args=scores.rows,
                    perturbations_per_eval=max(1, scores.at_once(chunk) // len(scores.rows)),
                )
            )
    # A square covers all channels, so that each of them has the whole loss.
    return _summed(values) / channels


class _Scores:
    """The function that captum differentiates: pictures, and the image that each belongs to -> scores.

    Attributes:
        pictures: (B, C, *space) that the attribution is of.
        rows: (B,) their numbers; captum repeats them as it repeats the pictures.
    """

    def __init__(self, net: nn.Module, inputs: Any, targets: Targets, picture: int) -> None:
        self.net, self.targets, self.picture = net, targets, picture
        self.inputs = map_tensors(inputs, lambda tensor: tensor.detach().clone())
        self.pictures = picture_of(self.inputs, picture)
        self.rows = torch.arange(len(self.pictures), device=self.pictures.device)

    def __call__(self, pictures: Tensor, rows: Tensor) -> Tensor:
        # captum's noise and steps are float32 whatever the pictures are.
        others = take_images(self.inputs, rows, batch=len(self.pictures))
        inputs = with_picture(others, pictures.to(self.pictures.dtype, copy=True), picture=self.picture)
        forward = record(self.net, inputs, layers=[], picture=self.picture, differentiable=True)
        return forward.trace("input", [self.targets[row] for row in rows.tolist()]).scores

    def at_once(self, chunk: int | None) -> int:
        """Pictures in one pass."""
        return _positive("chunk", chunk) if chunk else max(1, _CHUNK_PIXELS // self.pictures.shape[2:].numel())


@contextlib.contextmanager
def _scores(net: nn.Module, inputs: Any, targets: Targets, picture: int) -> Iterator[_Scores]:
    with torch.inference_mode(mode=False), torch.enable_grad(), unchanged(net):
        yield _Scores(net, inputs, targets, picture)


def _captum() -> ModuleType:
    return require("captum.attr", "integratedgradients, smoothgrad or occlusion", "attribution")


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise SettingError(f"{name}={value} is not possible; it takes at least 1")
    return value


def _summed(values: Tensor) -> Tensor:
    """(B, C, *space) -> (B, *space), float32 or better."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32)).sum(1)
