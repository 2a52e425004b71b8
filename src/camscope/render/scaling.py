"""Scale raw heat-map values to [0, 1] for display, and keep the limits."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from camscope.errors import SettingError

Values = npt.NDArray[np.float32]
Limits = tuple[float, float]

SCALES = {
    "minmax": "lowest value to highest value of the map",
    "max": "zero to highest value of the map",
    "percentile": "1st to 99th percentile of the map",
    "fixed:LO,HI": "the same raw values for every map, such as fixed:0,0.5",
}
"""Display scale -> range of its colours."""

# Below this share of their size, differences are rounding of float32, not content.
_FLAT = 1e-5
_LEAST = 1e-30


def scale(heatmap: npt.NDArray[np.floating], how: str) -> tuple[Values, Limits]:
    """Scale a heatmap to [0, 1] for display.

    A map without content (all values equal, or none finite) becomes 0 everywhere, except on a fixed scale, which shows
    its level. NaN is shown as 0.

    Args:
        heatmap: raw values, any shape.
        how: "minmax", "max", "percentile" (1st to 99th; minmax where these two are equal) or "fixed:LO,HI".

    Returns:
        The values in [0, 1], same shape, and the raw values at 0 and 1.

    Raises:
        SettingError: ``how`` is none of these, or not LO < HI.

    >>> values, limits = scale(np.array([[1.0, 2.0, 5.0]]), "minmax")
    >>> values, limits
    (array([[0.  , 0.25, 1.  ]], dtype=float32), (1.0, 5.0))
    >>> scale(np.array([[1.0, 2.0, 5.0]]), "fixed:0,10")[0]
    array([[0.1, 0.2, 0.5]], dtype=float32)
    """
    fixed = _fixed_limits(how)
    values = np.asarray(heatmap)
    lowest, highest = (float(end(values)) if values.size else np.nan for end in (np.min, np.max))
    complete = math.isfinite(highest - lowest)  # NaN and infinite values pass through both
    finite = values if complete else values[np.isfinite(values)]
    if not complete and finite.size:
        lowest, highest = float(finite.min()), float(finite.max())
    low, high = fixed or _own_limits(finite, how, lowest=lowest, highest=highest)
    flat = finite.size == 0 or highest - lowest <= _FLAT * max(abs(lowest), abs(highest))
    if fixed is None and (flat or high <= low):
        return np.zeros(values.shape, np.float32), (low, high)
    # float32 is four times as fast, and enough unless the span of the values is at its limits.
    kind = np.float32 if values.dtype.itemsize <= 4 and _LEAST < high - low < 1 / _LEAST else np.float64
    scaled = np.subtract(values, kind(low), dtype=kind)
    scaled *= kind(1 / (high - low))
    np.clip(scaled, 0, 1, out=scaled)
    scaled = scaled.astype(np.float32, copy=False)
    return scaled if complete else np.nan_to_num(scaled, copy=False, nan=0.0), (low, high)


def _fixed_limits(how: str) -> Limits | None:
    """Return LO and HI of a fixed scale; None for scales that depend on the map."""
    if how in SCALES and how != "fixed:LO,HI":
        return None
    kind, _, text = how.partition(":")
    if kind != "fixed":
        raise SettingError(f"no scale called {how!r}; expected {', '.join(SCALES)}")
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise SettingError(f"scale {how!r} needs two numbers, such as 'fixed:0,0.5'") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SettingError(f"scale {how!r} needs a lower number before a higher one, such as 'fixed:0,0.5'")
    return low, high


def _own_limits(finite: npt.NDArray[np.floating], how: str, *, lowest: float, highest: float) -> Limits:
    if finite.size == 0:
        return 0.0, 0.0
    if how == "max":
        return 0.0, max(highest, 0.0)
    if how == "percentile":
        first, last = np.percentile(finite, [1, 99])
        # A map with a single small spot has both at 0; it must not vanish.
        return (float(first), float(last)) if last > first else (lowest, highest)
    return lowest, highest
