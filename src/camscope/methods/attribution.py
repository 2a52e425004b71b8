"""Attributions to pixels: those of captum, and RISE."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import SettingError, require
from camscope.methods.network import Targets
from camscope.methods.noise import content_seeds
from camscope.methods.passes import in_chunks
from camscope.methods.registry import MethodFacts, method
from camscope.trace import record, unchanged
from camscope.trace.pytree import map_tensors, picture_of, take_images, with_picture

_CHUNK_PIXELS = 32 * 224 * 224


@method(
    MethodFacts(
        needs="gradients",
        whole_network=True,
        at_input=True,
        passes="steps forwards and backwards; 50 by default",
        reference="Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017. arXiv:1703.01365",
    )
)
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
    """Integrated gradients: each pixel's share of the score difference between image and baseline image.

    L = sum_c (x - x') * integral of dy/dx along the straight line from x' to x. The shares add up to y(x) - y(x').

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        steps: points of the integral.
        baseline: value of every pixel of x', in the unit of the network's normalised input.
        chunk: images in one pass; by default as many as 32 of 224 x 224 pixels hold.
        picture: which of several inputs is the image.

    Returns:
        (B, *space) signed map, summed over the colour channels.

    Raises:
        MissingExtraError: captum is not installed.

    Needs: a score with a gradient by the image; captum.
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


@method(
    MethodFacts(
        needs="gradients",
        whole_network=True,
        at_input=True,
        passes="samples forwards and backwards; 50 by default",
        reference=(
            "Smilkov, Thorat, Kim, Viegas, Wattenberg. SmoothGrad: removing noise by adding noise. 2017. "
            "arXiv:1706.03825"
        ),
    )
)
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
    """SmoothGrad: gradient with respect to the pixels, averaged over noisy copies of the image.

    L = sum_c mean_n dy/dx (x + e_n), e_n ~ N(0, (noise * (max x - min x))^2).

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        samples: noisy copies.
        noise: standard deviation of the noise, as a share of the range of the image's values.
        seed: of the noise, together with the content of the image.
        chunk: images in one pass; by default as many as 32 of 224 x 224 pixels hold.
        picture: which of several inputs is the image.

    Returns:
        (B, *space) signed map, summed over the colour channels.

    Raises:
        MissingExtraError: captum is not installed.

    Needs: a score with a gradient by the image; captum.
    """
    captum = _captum()
    maps = []
    with _scores(net, inputs, targets, picture) as scores:
        method = captum.NoiseTunnel(captum.Saliency(scores))
        seeds = content_seeds(scores.pictures, seed=seed)
        for image, row, image_seed in zip(scores.pictures.split(1), scores.rows.split(1), seeds, strict=True):
            with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
                torch.manual_seed(image_seed)
                maps.append(
                    method.attribute(
                        image,
                        nt_samples=_positive("samples", samples),
                        nt_samples_batch_size=scores.at_once(chunk),
                        stdevs=noise * float(image.max() - image.min()),
                        additional_forward_args=row,
                        abs=False,
                    )
                )
    return _summed(torch.cat(maps))


@method(
    MethodFacts(
        needs="scores",
        whole_network=True,
        at_input=True,
        passes="1 forward for each square; 225 + 1 by default on a square image",
        reference="Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014. arXiv:1311.2901",
    )
)
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
    """Occlusion: decrease of the score when a square of the image is covered.

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        window: side of the square in pixels; by default an eighth of the image's shorter side.
        stride: pixels from one square to the next; by default half a window.
        baseline: value of covered pixels, in the unit of the network's normalised input.
        chunk: images in one pass; by default as many as 32 of 224 x 224 pixels hold.
        picture: which of several inputs is the image.

    Returns:
        (B, *space) signed map: in each pixel the mean loss of the squares that cover it.

    Raises:
        MissingExtraError: captum is not installed.
        SettingError: a window larger than the image.

    Needs: no gradient; captum.
    """
    with _scores(net, inputs, targets, picture) as scores:
        channels, *space = scores.pictures.shape[1:]
        window = max(1, min(space) // 8) if window is None else _positive("window", window)
        stride = max(1, window // 2) if stride is None else _positive("stride", stride)
        if window > min(space) or stride > window:
            raise SettingError(
                f"window={window}, stride={stride} does not fit an image of {tuple(space)}; the window must fit in "
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
    # A square covers all channels, so each channel has the whole decrease.
    return _summed(values) / channels


@method(
    MethodFacts(
        needs="scores",
        whole_network=True,
        at_input=True,
        passes="masks forwards; 4000 by default",
        reference=(
            "Petsiuk, Das, Saenko. RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC "
            "2018. arXiv:1806.07421"
        ),
    )
)
def rise(
    net: nn.Module,
    inputs: Any,
    targets: Targets,
    *,
    masks: int = 4000,
    cells: int = 7,
    kept: float = 0.5,
    baseline: float = 0.0,
    seed: int = 0,
    chunk: int | None = None,
    picture: int = 0,
) -> Tensor:
    """RISE: increase of the score when a pixel is visible, over random masks of the image.

    L = 1 / (N p) * sum_i (y(x * M_i) - m) M_i, m the mean of the scores of all masked images. The paper has m = 0;
    with the mean taken off the map differs by a constant in expectation, is less noisy, and is 0 where seeing a pixel
    changes nothing. A mask is a grid of cells, each seen with the probability p, that is resized bilinearly to a cell
    more than the image and moved by a random part of a cell.

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        masks: how many, N; the paper takes 4000 for VGG-16 and 8000 for ResNet-50.
        cells: cells of a mask per axis.
        kept: p, the probability that a cell is seen, between 0 and 1.
        baseline: value of hidden pixels, in the unit of the network's normalised input.
        seed: another one gives other masks; they also depend on the image, and not on the batch that it is in.
        chunk: images in one pass; by default as many as 32 of 224 x 224 pixels hold.
        picture: which of several inputs is the image.

    Returns:
        (B, *space) signed map.

    Raises:
        SettingError: fewer than 2 masks, more cells than pixels, or a probability that is not between 0 and 1.

    Needs: no gradient.
    """
    with _scores(net, inputs, targets, picture) as scores, torch.no_grad():
        space = scores.pictures.shape[2:]
        if masks < 2 or not 1 <= cells <= min(space) or not 0 < kept < 1:
            raise SettingError(
                f"masks={masks}, cells={cells}, kept={kept} is not possible: it takes 2 masks or more, 1 to "
                f"{min(space)} cells for this image, and a probability between 0 and 1"
            )
        seeds = content_seeds(scores.pictures, seed=seed)
        mask_sets = [_RandomMasks(image_seed, masks, cells, kept, tuple(space)) for image_seed in seeds]
        maps = [
            _seen(scores, row, image_masks, baseline, scores.at_once(chunk))
            for row, image_masks in enumerate(mask_sets)
        ]
    return torch.stack(maps) / kept


def _seen(scores: _Scores, row: int, masks: _RandomMasks, baseline: float, at_once: int) -> Tensor:
    """Return the mean over the masks of score times mask, the mean score taken off: (*space)."""
    image = scores.pictures[row]
    kind = torch.promote_types(image.dtype, torch.float32)
    mask_scores = torch.empty(masks.count, dtype=kind, device=image.device)
    for chunk in in_chunks(masks.count, at_once, like=image):
        mask = masks.of(chunk).to(image)[:, None]
        rows = torch.full((len(chunk),), row, device=image.device)
        mask_scores[chunk] = scores(image * mask + baseline * (1 - mask), rows).to(kind)
    weights = (mask_scores - mask_scores.mean()) / masks.count
    chunks = torch.arange(masks.count).split(at_once)
    return torch.stack([torch.tensordot(weights[c], masks.of(c).to(weights), 1) for c in chunks]).sum(0)


class _RandomMasks:
    """Random smooth masks of one image, generated again at each use.

    Attributes:
        count: how many.
    """

    def __init__(self, seed: int, count: int, cells: int, kept: float, space: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.count, self._space = count, space
        self._sides = [math.ceil(length / cells) for length in space]
        self._sizes = [(cells + 1) * side for side in self._sides]
        self._grids = (torch.rand(count, *[cells] * len(space), generator=generator) < kept).float()
        moves = [torch.randint(side, (count,), generator=generator) for side in self._sides]
        self._starts = torch.stack(moves, 1).tolist()

    def of(self, numbers: Tensor) -> Tensor:
        """Return masks (n, *space) in [0, 1], 1 where the image is visible."""
        indices = numbers.tolist()
        modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
        large = nn.functional.interpolate(self._grids[indices][:, None], self._sizes, mode=modes[len(self._space)])[
            :, 0
        ]
        windows = [
            [slice(a, a + n) for a, n in zip(self._starts[index], self._space, strict=True)] for index in indices
        ]
        return torch.stack([mask[tuple(window)] for mask, window in zip(large, windows, strict=True)])


class _Scores:
    """Function that captum differentiates: (images, index of the original image) -> scores.

    Attributes:
        pictures: (B, C, *space) that the attribution is of.
        rows: (B,) their numbers; captum repeats them as it repeats the images.
    """

    def __init__(self, net: nn.Module, inputs: Any, targets: Targets, picture: int) -> None:
        self.net, self.targets, self.picture = net, targets, picture
        self.inputs = map_tensors(inputs, lambda tensor: tensor.detach().clone())
        self.pictures = picture_of(self.inputs, picture)
        self.rows = torch.arange(len(self.pictures), device=self.pictures.device)

    def __call__(self, pictures: Tensor, rows: Tensor) -> Tensor:
        # captum's noise and steps are always float32.
        row_inputs = take_images(self.inputs, rows, batch=len(self.pictures))
        inputs = with_picture(row_inputs, pictures.to(self.pictures.dtype, copy=True), picture=self.picture)
        forward = record(self.net, inputs, layers=[], picture=self.picture, differentiable=True)
        return forward.trace("input", [self.targets[row] for row in rows.tolist()]).scores

    def at_once(self, chunk: int | None) -> int:
        """Return the number of images per pass."""
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
    """Sum over channels, (B, C, *space) -> (B, *space), in float32 or better."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32)).sum(1)
