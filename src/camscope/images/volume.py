"""The type `Volume`, and orientations of its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from camscope.arguments import check_fields
from camscope.errors import PictureError, SettingError

Voxels = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

_ENDS = ("LR", "PA", "IS")
"""Letters of the lower and the higher end of each axis of the world: right, anterior and superior are positive."""
_NOTHING = 1e-6
"""Volume of a voxel, relative to the product of its edges, below which two axes are parallel."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in memory.

    Attributes:
        values: float32 (I, J, K), in the file's own order of axes and its own unit, such as Hounsfield units.
        affine: float64 (4, 4), from the indices (i, j, k, 1) of a voxel's centre to millimetres, right, anterior and
            superior (RAS), as in NIfTI files.
        source: a path, or a name for volumes in memory.
        modality: as DICOM names it, such as "CT" or "MR"; "" if the file does not have it.
        notes: notes of the reader.

    Examples:
        >>> volume = Volume(np.zeros((4, 5, 6), np.float32), np.diag([-2.0, -2.0, 3.0, 1.0]))
        >>> volume.size, volume.spacing, volume.orientation, volume.world((1, 0, 2))
        ((4, 5, 6), (2.0, 2.0, 3.0), 'LPS', (-2.0, 0.0, 6.0))
    """

    values: Voxels = field(repr=False)
    affine: Affine = field(default_factory=lambda: np.eye(4), repr=False)
    source: str = ""
    modality: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values and affines that are no volume."""
        check_fields(self, but=("values", "affine"))
        if not isinstance(self.values, np.ndarray) or self.values.ndim != 3 or not self.values.size:
            got = getattr(self.values, "shape", type(self.values).__name__)
            raise PictureError(f"a volume is an array with three axes of at least one voxel each, but got {got}")
        try:
            affine = np.asarray(self.affine, np.float64)
        except (TypeError, ValueError):
            raise PictureError(f"{self.source!r} has an affine that is no matrix of numbers") from None
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not (affine[3] == (0, 0, 0, 1)).all():
            raise PictureError(f"{self.source!r} has an affine that is no 4 x 4 matrix with the last row 0, 0, 0, 1")
        edges = np.linalg.norm(affine[:3, :3], axis=0)
        if not edges.all() or abs(np.linalg.det(affine[:3, :3] / edges)) < _NOTHING:
            raise PictureError(f"{self.source!r} has an affine that flattens the volume: its axes span no space")
        object.__setattr__(self, "affine", affine)

    @property
    def pixels(self) -> Voxels:
        """Return the values, by the name that those of a Picture have."""
        return self.values

    @property
    def size(self) -> tuple[int, int, int]:
        """Return the number of voxels along each axis."""
        return self.values.shape[0], self.values.shape[1], self.values.shape[2]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Return the millimetres between neighbouring voxels along each axis."""
        edges = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(edges[0]), float(edges[1]), float(edges[2])

    @property
    def orientation(self) -> str:
        """Return the end of the body to which each axis leads, such as "LPS": left, posterior, superior."""
        axes = _world_axes(self.affine)
        return "".join(_ENDS[axis][int(self.affine[axis, i] > 0)] for i, axis in enumerate(axes))

    def world(self, voxel: Sequence[float]) -> tuple[float, float, float]:
        """Return the place of a voxel (i, j, k), which need not be whole numbers: millimetres, RAS."""
        x, y, z = (self.affine @ (*voxel, 1.0))[:3]
        return float(x), float(y), float(z)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the values as plain JSON values."""
        return {
            "size": list(self.size),
            "affine": self.affine.tolist(),
            "spacing": list(self.spacing),
            "orientation": self.orientation,
            "modality": self.modality,
        }


@dataclass(frozen=True)
class Turn:
    """New order of axes: axis ``a`` of the result is axis ``order[a]`` of the volume, backwards if ``flipped[a]``."""

    order: tuple[int, ...]
    flipped: tuple[bool, ...]

    @classmethod
    def to(cls, orientation: str, volume: Volume) -> Turn:
        """Return how the axes of a volume are reordered, so that they lead in the directions of an orientation.

        Oblique volumes keep their own axes: each is given to the direction that is closest to it.

        Args:
            orientation: such as "RAS", or "SPL" for arrays (slices, rows, columns); see `check_orientation`.
            volume: the volume.

        >>> volume = Volume(np.zeros((4, 5, 6), np.float32), np.diag([-2.0, -2.0, 3.0, 1.0]))
        >>> Turn.to("SAR", volume)
        Turn(order=(2, 1, 0), flipped=(False, True, True))
        """
        codes = volume.orientation
        wanted = check_orientation(orientation)
        order = tuple(next(i for i, code in enumerate(codes) if _axis(code) == _axis(letter)) for letter in wanted)
        return cls(order, tuple(codes[i] != letter for i, letter in zip(order, wanted, strict=True)))

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of an array of the volume's axes with the axes in the new order."""
        backwards = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return values.transpose(self.order)[backwards]


def check_orientation(orientation: str) -> str:
    """Return an orientation in capital letters.

    Raises:
        SettingError: it is not one of L and R, one of P and A, and one of I and S, in any order.

    >>> check_orientation("lps")
    'LPS'
    """
    letters = orientation.upper()
    if sorted(_axis(letter) for letter in letters) != [0, 1, 2]:
        raise SettingError(
            f"an orientation has one of L and R, one of P and A, and one of I and S, such as 'RAS', but got "
            f"{orientation!r}"
        )
    return letters


def _axis(letter: str) -> int:
    return next((axis for axis, ends in enumerate(_ENDS) if letter in ends), -1)


def _world_axes(affine: Affine) -> tuple[int, ...]:
    """Return the axis of the world to which each axis of a volume is given, each to another one."""
    cosines = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return max(permutations(range(3)), key=lambda axes: sum(cosines[axis, i] for i, axis in enumerate(axes)))
