"""Small labelled images whose class can be seen: a bright square, higher or lower."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def square(place: int, seed: int, size: tuple[int, int] = (32, 36)) -> Image.Image:
    """Noise with a bright square at the top (0), in the middle (1) or at the bottom (2)."""
    pixels = np.random.default_rng([place, seed]).integers(0, 90, size, np.uint8)
    pixels[2 + 10 * place : 10 + 10 * place, 6:14] += 130
    return Image.fromarray(pixels)


@pytest.fixture
def class_folders(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of class folders, ``count`` images in each."""

    def make(count: int = 8, *, names: tuple[str, ...] = ("cat", "dog"), folder: str = "data") -> Path:
        for place, name in enumerate(names):
            for n in range(count):
                path = tmp_path / folder / name / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                square(place, n).save(path)
        return tmp_path / folder

    return make


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes a table with these columns and an image for each of its rows."""

    def make(rows: list[dict[str, object]], *, name: str = "table.csv") -> Path:
        for n, row in enumerate(rows):
            path = tmp_path / str(row.get("path", f"{n}.png"))
            row["path"] = path.name
            if not path.exists():
                square(n % 3, n).save(path)
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path / name

    return make
