"""Sheets of training images: as they are in their files, and as the network gets them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from camscope.errors import CamscopeError
from camscope.files import write_atomically
from camscope.images import read
from camscope.models.preprocess import Preprocess
from camscope.render import Cell, sheet
from camscope.training.dataset import Dataset
from camscope.training.pictures import Pictures

SAMPLES, BATCH = "samples.png", "samples_batch.png"

SIDE, MOST_LABELS = 256, 24
"""Longest side of an image on the page, in pixels, and largest number of labels with pictures of their own."""

_PER_LABEL = 5
_PER_ROW, _MOST = 8, 32


def write_samples(dataset: Dataset, pictures: Pictures, folder: Path, *, batch_size: int) -> None:
    """Write ``samples.png``, a few training images per label, and ``samples_batch.png``, the first batch.

    Args:
        dataset: the dataset with its splits.
        pictures: its training images.
        folder: output folder; created if missing.
        batch_size: images per step; up to 32 of them are drawn.
    """
    sheets = {SAMPLES: sample_sheet(dataset), BATCH: batch_sheet(pictures, dataset.labels, batch_size=batch_size)}
    for name, image in sheets.items():
        if image is not None:
            write_atomically(folder / name, lambda file, image=image: image.save(file, "PNG"))  # type: ignore[misc]


def sample_sheet(dataset: Dataset) -> Image.Image | None:
    """Draw a few training images of each label, one row per label; None if no label has any."""
    rows = []
    for label in dataset.labels[:MOST_LABELS]:
        cells: list[Cell] = []
        for case in (e for e in dataset.of("train") if e.truth[label]):
            try:
                image = Image.fromarray(read(case.source).rgb)
            except CamscopeError:
                continue  # the file was removed after training
            image.thumbnail((SIDE, SIDE))
            cells.append(Cell(image))
            if len(cells) == _PER_LABEL:
                break
        rows.append(cells or [Cell(None, "no training image")])
    if not any(cell.image for cells in rows for cell in cells):
        return None
    count = len(dataset.labels)
    title = f"the first {MOST_LABELS} of {count} labels" if count > MOST_LABELS else ""
    return sheet(rows, row_headings=dataset.labels[:MOST_LABELS], title=title, cell_width=180)


def batch_sheet(pictures: Pictures, labels: Sequence[str], *, batch_size: int) -> Image.Image:
    """Draw the first batch of the first epoch as the network gets it: exchanged, hidden in part and augmented.

    The normalisation is undone, so that the values can be seen as an image.

    Args:
        pictures: training images.
        labels: names of the labels.
        batch_size: images per step; up to 32 of them are drawn.
    """
    cells = []
    for place in pictures.order()[: min(batch_size, _MOST)]:
        x, truth, _mask, _groups = pictures[place]
        names = [label for label, value in zip(labels, truth.tolist(), strict=True) if value == 1]
        cells.append(Cell(as_image(x, pictures.preparation.preprocess), ", ".join(names) or "no label"))
    rows = [cells[start : start + _PER_ROW] for start in range(0, len(cells), _PER_ROW)]
    height, width = pictures.preparation.preprocess.input_size
    title = f"first batch of the training, {width} x {height} pixels, as the network gets it"
    return sheet(rows, title=title, cell_width=160)


def as_image(x: Tensor, preprocess: Preprocess) -> Image.Image:
    """Return an input (C, h, w) as an image, without its normalisation; of more than 3 channels, their mean.

    >>> import torch
    >>> as_image(torch.zeros(1, 2, 2), Preprocess(mean=(0.5,), std=(0.5,))).getpixel((0, 0))
    128
    """
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    pixels = np.clip(x.numpy() * std + mean, 0, 1)
    pixels = pixels if len(pixels) == 3 else pixels.mean(0, keepdims=True)
    pixels = pixels[::-1] if preprocess.order == "bgr" else pixels
    return Image.fromarray(np.rint(255 * pixels).astype(np.uint8).transpose(1, 2, 0).squeeze())
