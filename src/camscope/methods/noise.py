"""Random numbers seeded by the image: the same in any batch, in any order, on any device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def content_seeds(pictures: Tensor, *, seed: int = 0) -> list[int]:
    """Return one seed per image, computed from its bytes.

    Args:
        pictures: (B, C, *space).
        seed: another one gives other seeds.

    >>> one, other = content_seeds(torch.tensor([[1.0], [2.0]]))
    >>> one == content_seeds(torch.tensor([[1.0]]))[0], one == other
    (True, False)
    """
    key = str(seed).encode()
    return [int.from_bytes(hashlib.blake2b(_bytes(picture), key=key, digest_size=7).digest()) for picture in pictures]


def normal(seeds: Sequence[int], shape: Sequence[int], *, like: Tensor) -> Tensor:
    """Return standard normal numbers, (n, *shape) in the dtype and on the device of ``like``, from one seed each."""
    return torch.stack([torch.randn(tuple(shape), generator=_generator(s)) for s in seeds]).to(like)


def uniform(seeds: Sequence[int], shape: Sequence[int], *, like: Tensor) -> Tensor:
    """Return numbers from U(-1, 1), (n, *shape) in the dtype and on the device of ``like``, from one seed each."""
    return torch.stack([2 * torch.rand(tuple(shape), generator=_generator(s)) - 1 for s in seeds]).to(like)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _bytes(picture: Tensor) -> bytes:
    return picture.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
