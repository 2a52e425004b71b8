"""Registry of model sources: prefix -> function that builds networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from camscope.models.model import Model


class Source(Protocol):
    """Function that builds a network by name, with its preprocessing and class names."""

    def __call__(
        self,
        name: str,
        *,
        weights: str | Path,
        classes: int | None,
        input_size: tuple[int, int] | None,
        options: Mapping[str, Any],
    ) -> Model:
        """Make the network.

        Args:
            name: of the architecture, as the source calls it.
            weights: "default" for the published ones, "none", or a file.
            classes: number of outputs; None: as many as the source gives it.
            input_size: (height, width); None: the source's own.
            options: further keywords for the source's maker.

        A source has further parameters for what it makes use of: ``labels``, class names, as CLIP's texts are;
        ``keys``, the `KeyFilter` of a weights file; ``trust``, whether pickles may be read.
        """


SOURCES: dict[str, Source] = {}
"""Prefix of a spec, as in "timm:resnet18" -> function that builds the network."""

NAMES: dict[str, Callable[[], list[str]]] = {}
"""Prefix -> function that lists the names of its architectures."""


def source(prefix: str, *, names: Callable[[], list[str]]) -> Callable[[Source], Source]:
    """Register a source of models, and the function that lists their names."""

    def register(function: Source) -> Source:
        SOURCES[prefix], NAMES[prefix] = function, names
        return function

    return register
