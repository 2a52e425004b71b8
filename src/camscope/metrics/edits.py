"""Edited inputs: substrates, the order of pixels, and the scores of many edits in few forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from camscope.errors import SettingError, nearest
from camscope.metrics.fitting import at_size
from camscope.metrics.registry import Score

Substrate = str | Tensor
"""A name in `SUBSTRATES`, or a tensor that broadcasts to the inputs."""

_BLUR = 5 / 224
"""RISE: a Gaussian of 5 px, cut off at 5 px, on images of 224 px."""


def scores(edit: Callable[[Tensor, Tensor], Tensor], *, rows: int, edits: int, score: Score, batch_size: int) -> Tensor:
    """Compute the scores (rows, edits) of ``edits`` edits of each image, ``batch_size`` inputs per forward pass.

    Args:
        edit: (rows (N,), numbers of edits (N,)) -> (N, C, *space) edited inputs.
        rows: number of images.
        edits: number of edits per image.
        score: (inputs (N, C, *space), rows (N,)) -> (N,) scores; row i is an edit of image rows[i].
        batch_size: inputs per call of ``score``.
    """
    jobs = torch.arange(rows * edits)
    with torch.no_grad():
        batches = [score(edit(job // edits, job % edits), job // edits) for job in jobs.split(batch_size)]
    return torch.cat(batches).detach().double().view(rows, edits) if batches else torch.empty(rows, edits).double()


def clean_scores(inputs: Tensor, score: Score, clean: Tensor | None, *, batch_size: int) -> Tensor:
    """Return the scores (B,) of the unedited inputs: ``clean`` if available, else computed."""
    if clean is not None:
        return clean.detach().double()
    return scores(lambda rows, _: inputs[rows], rows=len(inputs), edits=1, score=score, batch_size=batch_size)[:, 0]


def ranks(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return the rank of each pixel at the size of the inputs, (B, pixels); 0 is the most relevant pixel.

    Equal values are in a random order, the same for every map, as in ROAD. So a flat map orders pixels at random, and
    not from the top.
    """
    values = at_size(maps, size).flatten(1)
    shuffle = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(0)).to(values.device)
    order = shuffle[values[:, shuffle].argsort(stable=True, dim=1, descending=True)]
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def substitute(inputs: Tensor, substrate: Substrate) -> Tensor:
    """Return the substrate of each input, (B, C, *space): what replaces edited pixels.

    Raises:
        SettingError: an unknown substrate.
    """
    if isinstance(substrate, Tensor):
        return substrate.to(inputs).expand_as(inputs)
    if substrate not in SUBSTRATES:
        raise SettingError(nearest("substrate", substrate, SUBSTRATES))
    return SUBSTRATES[substrate](inputs)


def _blurred(inputs: Tensor) -> Tensor:
    blurred = inputs.double()
    for axis in range(2, inputs.ndim):
        side = inputs.shape[axis]
        reach = max(1, round(_BLUR * min(inputs.shape[2:])))
        place = torch.arange(side, device=inputs.device, dtype=torch.float64)
        distance = place[:, None] - place
        weights = torch.where(distance.abs() <= reach, (-0.5 * (distance / reach) ** 2).exp(), 0.0)
        blurred = (blurred.movedim(axis, -1) @ (weights / weights.sum(1, keepdim=True)).T).movedim(-1, axis)
    return blurred.to(inputs.dtype)


def _own_mean(inputs: Tensor) -> Tensor:
    return inputs.flatten(2).mean(2).view(*inputs.shape[:2], *[1] * (inputs.ndim - 2)).expand_as(inputs)


SUBSTRATES: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "mean": _own_mean,
    "blur": _blurred,
}
"""Name -> function of inputs (B, C, *space) that returns their substrate.

* zero: 0 of the normalised input, which is the mean colour of the data set that the model was trained on;
* mean: each image's own mean colour;
* blur: RISE's blur, a Gaussian of 5 px cut off at 5 px on 224 px, and in proportion on other sizes.
"""
