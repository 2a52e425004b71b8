"""Find the batch, channel and space axes of a layer's output from its shape."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from camscope.errors import LayerError

_MOST_PREFIX_TOKENS = 16
_MOST_SUFFIX_TOKENS = 128
"""Maximum number of tokens after the grid, such as the detection tokens of YOLOS."""
_SLACK = 1.0
"""Cells by which a grid may differ from the image's aspect, since strides and unpadded convolutions round."""
_LOSS = 0.08
"""Share of an axis that unpadded convolutions may lose if strides differ per axis."""
_CLOSE = 0.4
"""The same for tokens: on a square image, 4 x 4 cells and five tokens are preferred to 4 x 5 cells and one."""


@dataclass(frozen=True)
class Layout:
    """The axes of a layer's output, with conversion to (B, K, *grid) and back.

    Attributes:
        batch: the batch axis.
        channel: the channel axis; without ``grid``, every other axis is space, in order.
        grid: for token layers, the (h, w) that the one remaining axis unfolds to.
        prefix: tokens before the grid (class, distillation and register tokens); tokens after it are left alone.
        frames: frames or views of each image that are folded into the batch axis; they become the first axis of the
            grid.
        frame_major: whether they are folded frame by frame (T * B), and not image by image (B * T).
    """

    batch: int = 0
    channel: int = 1
    grid: tuple[int, ...] | None = None
    prefix: int = 0
    frames: int = 1
    frame_major: bool = False

    def read(self, output: Tensor) -> Tensor:
        """Return a layer's output as (B, K, *grid).

        >>> Layout(channel=2, grid=(14, 14), prefix=1).read(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])
        >>> Layout(frames=3).read(torch.zeros(6, 8, 7, 7)).shape
        torch.Size([2, 8, 3, 7, 7])
        >>> Layout(frames=3, frame_major=True).read(torch.arange(6).view(6, 1, 1, 1))[1].flatten()
        tensor([1, 3, 5])
        """
        moved = output.movedim((self.batch, self.channel), (0, 1))
        if self.grid is not None:
            tokens = moved[:, :, self.prefix : self.prefix + math.prod(self.grid)]
            moved = tokens.reshape(*moved.shape[:2], *self.grid)
        if self.frames > 1:
            folded = (self.frames, -1) if self.frame_major else (-1, self.frames)
            moved = moved.unflatten(0, folded).movedim(0 if self.frame_major else 1, 2)
        return moved

    def write(self, output: Tensor, activations: Tensor) -> Tensor:
        """Return ``output`` with its grid replaced by ``activations`` (B, K, *grid); prefix tokens are kept."""
        if self.frames > 1:
            activations = activations.movedim(2, 0 if self.frame_major else 1).flatten(0, 1)
        if self.grid is not None:
            moved = output.movedim((self.batch, self.channel), (0, 1))
            end = self.prefix + math.prod(self.grid)
            activations = torch.cat([moved[:, :, : self.prefix], activations.flatten(2), moved[:, :, end:]], 2)
        return activations.movedim((0, 1), (self.batch, self.channel))

    def take(self, output: Tensor, rows: Tensor) -> Tensor:
        """Return a layer's output for some images of the batch, with all of their frames.

        >>> Layout(frames=2).take(torch.arange(4), torch.tensor([1]))
        tensor([2, 3])
        """
        rows = rows.to(output.device)
        if self.frames > 1:
            frames = torch.arange(self.frames, device=rows.device)
            if self.frame_major:
                rows = (rows + frames[:, None] * (output.shape[self.batch] // self.frames)).flatten()
            else:
                rows = (rows[:, None] * self.frames + frames).flatten()
        return output.index_select(self.batch, rows)


def guess_layout(shape: Sequence[int], picture: Sequence[int], *, last: bool = False) -> Layout | None:
    """Find how a layer's output maps to the image: the first of `possible_layouts`, or None.

    >>> guess_layout((1, 7, 7, 768), (1, 3, 224, 224))
    Layout(batch=0, channel=3, grid=None, prefix=0, frames=1, frame_major=False)
    >>> guess_layout((1, 197, 768), (1, 3, 224, 224))
    Layout(batch=0, channel=2, grid=(14, 14), prefix=1, frames=1, frame_major=False)
    >>> guess_layout((1, 32, 32, 32), (1, 3, 64, 64), last=True)
    Layout(batch=0, channel=3, grid=None, prefix=0, frames=1, frame_major=False)
    >>> guess_layout((2, 8, 4, 100), (2, 1, 32, 100))
    Layout(batch=0, channel=1, grid=None, prefix=0, frames=1, frame_major=False)
    """
    return next(possible_layouts(shape, picture, last=last), None)


def possible_layouts(
    shape: Sequence[int], picture: Sequence[int], *, last: bool = False, any_stride: bool = False
) -> Iterator[Layout]:
    """Yield the ways in which a layer's output could map to the image, the likeliest first.

    A grid with the aspect of the image comes before one whose stride differs between axes (video, thick slices, text
    lines, spectrograms), and frames that are folded into the batch come last.

    Args:
        shape: of the layer's output.
        picture: (B, C, *space) shape of the network's input; of a 5-D input axis 1 may also be frames or views,
            (B, T, C, *space), and of a 4-D one it may be frames times channels.
        last: the network keeps its channels last (see `is_last`).
        any_stride: take any grid that is not finer than the image; otherwise strides are whole numbers, give or take
            what unpadded convolutions lose.

    Yields:
        Layouts: channels first before channels last (``last``: after), then tokens (B, N, K), (N, B, K) or (B, K, N),
        those of the very aspect before those that are a cell off, with the fewest prefix tokens.
    """
    batch, space = picture[0], tuple(picture[2:])
    spaces = [space]
    if len(space) > 2:
        spaces.append((picture[1], *space[1:]))
    for same_stride in (True, False):
        for extent in spaces:
            for layout in _whole(shape, batch, extent, last=last, same_stride=same_stride):
                if any_stride or same_stride or (layout.grid is None and _has_strides(grid_of(shape, layout), extent)):
                    yield layout
    counts = [picture[1], picture[2]] if len(space) > 2 else [n for n in range(picture[1], 1, -1) if not picture[1] % n]
    flat = space[1:] if len(space) > 2 else space
    for frames in dict.fromkeys(counts):
        if frames > 1 and len(flat) > 1:
            for layout in _whole(shape, batch * frames, flat, last=last, same_stride=True):
                yield replace(layout, frames=frames)
                yield replace(layout, frames=frames, frame_major=True)


def _whole(
    shape: Sequence[int], batch: int, space: tuple[int, ...], *, last: bool, same_stride: bool
) -> Iterator[Layout]:
    """Yield layouts of an output whose batch axis counts ``batch`` and whose grid is one of ``space``."""
    if len(shape) == len(space) + 2 and shape[0] == batch:
        for channel in (len(shape) - 1, 1) if last else (1, len(shape) - 1):
            layout = Layout(channel=channel)
            if fits(grid_of(shape, layout), space, same_stride=same_stride):
                yield layout
    if len(shape) == 3 and len(space) > 1:
        yield from _tokens(shape, batch, space, same_stride=same_stride)


def _tokens(shape: Sequence[int], batch: int, space: tuple[int, ...], *, same_stride: bool) -> Iterator[Layout]:
    """Yield layouts of an output whose one axis of places unfolds to a grid."""
    orders = [(b, n, k) for b, n, k in ((0, 1, 2), (1, 0, 2), (0, 2, 1)) if shape[b] == batch]
    if same_stride:
        for slack, (b, tokens, channel) in itertools.product((_CLOSE, _SLACK), orders):
            unfolded = _unfold(shape[tokens], space, slack)
            if unfolded and (
                tokens < channel or (unfolded[1] == 0 and shape[channel] > 1)
            ):  # otherwise it is a pooled vector
                yield Layout(batch=b, channel=channel, grid=unfolded[0], prefix=unfolded[1])
    elif len(space) == 2:
        for (b, tokens, channel), prefix in itertools.product(orders, (0, 1)):
            for suffix in range(1, min(_MOST_SUFFIX_TOKENS, shape[tokens] // 2) + 1):
                cells = shape[tokens] - prefix - suffix
                if cells > 3 and (unfolded := _unfold(cells, space, _CLOSE)) and unfolded[1] == 0:
                    yield Layout(batch=b, channel=channel, grid=unfolded[0], prefix=prefix)
    else:
        for b, tokens, channel in orders:
            for grid, prefix in _unfold_depth(shape[tokens], space):
                yield Layout(batch=b, channel=channel, grid=grid, prefix=prefix)


def is_last(net: nn.Module) -> bool:
    """Return whether a network says, by an attribute ``channels_last``, that its layers keep the channels last.

    >>> is_last(nn.Identity())
    False
    """
    return bool(getattr(net, "channels_last", False))


Locate = Callable[[Sequence[int], Sequence[int], str | None], Layout | None]
"""(shape of an output, shape of the input, name of the layer if known) -> layout, or None to use the shapes.

Methods of the whole network get this function, for shapes that fit several layouts."""


def find_layout(
    shape: Sequence[int], picture: Sequence[int], *, layer: str, last: bool = False, locate: Locate | None = None
) -> Layout:
    """Find the layout of a layer that was named.

    Args:
        shape: of the layer's output.
        picture: (B, C, *space) shape of the network's input.
        layer: its name, for the error.
        last: the network keeps its channels last.
        locate: tried first.

    Raises:
        LayerError: nothing fits.

    >>> find_layout((2, 512, 7, 7), (2, 3, 224, 224), layer="layer4")
    Layout(batch=0, channel=1, grid=None, prefix=0, frames=1, frame_major=False)
    """
    layout = (locate and locate(shape, picture, layer)) or guess_layout(shape, picture, last=last)
    candidates = [] if layout is not None else list(possible_layouts(shape, picture, last=last, any_stride=True))
    if len(candidates) == 1 and candidates[0].grid is None:
        return candidates[0]
    if layout is None:
        raise LayerError(
            f"layer {layer!r} returns {tuple(shape)}, which has no place for each part of an image of "
            f"{tuple(picture[2:])}; name an earlier layer, or give its layout="
        )
    return layout


def grid_of(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """Return the grid of an output of this shape under a layout."""
    frames = (layout.frames,) if layout.frames > 1 else ()
    if layout.grid is not None:
        return (*frames, *layout.grid)
    return (*frames, *(n for axis, n in enumerate(shape) if axis not in (layout.batch, layout.channel)))


def fits(grid: Sequence[int], space: Sequence[int], *, slack: float = _SLACK, same_stride: bool = True) -> bool:
    """Return whether a grid could be a coarser version of the image.

    Args:
        grid: cells per axis.
        space: pixels per axis.
        slack: cells by which an axis may miss the common stride.
        same_stride: one stride for all axes; otherwise each axis may have its own, and one may be a single cell.
    """
    if any(not 0 < g <= s for g, s in zip(grid, space, strict=True)):
        return False
    if not same_stride:
        return math.prod(grid) > 1
    stride = (math.prod(space) / math.prod(grid)) ** (1 / len(space))
    return all(abs(s / stride - g) <= slack for g, s in zip(grid, space, strict=True))


def _has_strides(grid: Sequence[int], space: Sequence[int]) -> bool:
    """Return whether each axis has a whole number as its stride, or is a single cell."""

    def is_near(cells: int, pixels: int) -> bool:
        stride = max(1, round(pixels / cells))
        return cells == 1 or abs(pixels / stride - cells) <= max(_SLACK, _LOSS * pixels / stride)

    return all(is_near(g, s) for g, s in zip(grid, space, strict=True))


@functools.lru_cache(maxsize=2**16)
def _unfold(tokens: int, space: tuple[int, ...], slack: float) -> tuple[tuple[int, ...], int] | None:
    """Find the grid and number of prefix tokens that ``tokens`` could be."""
    for prefix in range(min(_MOST_PREFIX_TOKENS, tokens - 1) + 1):
        cells = tokens - prefix
        stride = (math.prod(space) / cells) ** (1 / len(space))
        sides = [(math.floor(s / stride + 1e-6), math.ceil(s / stride - 1e-6)) for s in space]
        for grid in itertools.product(*sides):
            if math.prod(grid) == cells and fits(grid, space, slack=slack):
                return grid, prefix
    return None


def _unfold_depth(tokens: int, space: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield grids of a volume or video whose first axis has another stride than the others, the finest first."""
    for prefix in range(min(_MOST_PREFIX_TOKENS, tokens - 1) + 1):
        cells = tokens - prefix
        for depth in range(min(space[0], cells), 0, -1):
            if cells % depth == 0 and space[0] % depth == 0 and (flat := _unfold(cells // depth, space[1:], _CLOSE)):
                grid, within = flat
                if within == 0:
                    yield (depth, *grid), prefix
