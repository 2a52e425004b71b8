"""Load a model for a command; print warnings of its source as notes."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from camscope.cli.terminal import in_options

if TYPE_CHECKING:
    from camscope.models.model import Model


def load_noted(spec: str, *, seed: int, **options: Any) -> Model:
    """Load a model; print warnings, such as for a deprecated name, as one line on standard error.

    Args:
        spec: see `camscope.load`.
        seed: random seed of random weights.
        **options: see `camscope.load`.
    """
    import torch

    from camscope.models.loading import load

    torch.manual_seed(seed)
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("default")
        model = load(spec, **options)
    for text in dict.fromkeys(str(record.message) for record in records if issubclass(record.category, UserWarning)):
        print(f"note: {spec}: {in_options(text)}", file=sys.stderr)
    return model
