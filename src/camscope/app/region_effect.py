"""Fill in a region of one picture, and compare the change of the log-odds with that of patches elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from camscope.app.ask import using
from camscope.app.bodies import MaskBody, RegionBody
from camscope.app.uploads import Upload
from camscope.array_types import Mask
from camscope.audit.samples import Array, batch_for
from camscope.cohort.fill_ins import FILL_INS, sham
from camscope.cohort.regions import Scene, at_input
from camscope.errors import SettingError, TargetError
from camscope.explanation.batch import BatchExplainer, Sample
from camscope.explanation.target_spec import goals_of
from camscope.models.model import Model

FILLS = {
    "impute": "continued from its surroundings",
    "blur": "a blur of its surroundings",
    "mean": "the mean colour of the picture",
}
"""Fill-in -> what the region becomes, in words."""

_LEVEL = 0.05
_FEWEST = 19
"""Patches elsewhere from which on a rank among them can be at the level of .05."""
_TRIES = 5


def region_effect(model: Model, upload: Upload, body: RegionBody) -> dict[str, Any]:
    """Fill in a region, and patches of the same shape elsewhere, and score all of them.

    Returns:
        ``label``, ``index``, ``before`` (log-odds of the picture), ``share`` (of the picture in the region),
        ``fill_ins``: for each its name, ``after``, ``change``, and ``elsewhere``, the changes of the patches;
        ``sentence``; ``filled``: the input with the region filled in by the first fill-in, as pixels.

    Raises:
        SettingError: the region covers nothing or all of what the network saw, or its runs are not possible.
        TargetError: the model returns no score per class, or there is no such class.
    """
    mask = mask_of(body.mask)
    with using(model):
        sample = Sample.of(model, upload.picture)
        run = BatchExplainer.over(model, [sample])
        index, label = _class(run, body)
        size = (int(sample.tensor.shape[-2]), int(sample.tensor.shape[-1]))
        window = sample.window.resized(mask.shape)
        visible = at_input(Scene(mask.shape, window).visible, window, size)
        region = at_input(mask, window, size) & visible
        if not region.any() or not (visible & ~region).any():
            raise SettingError("the region must cover some of what the network saw, and leave some of it free")
        shams = list(_shams(region, ~visible, count=body.places, seed=body.seed))
        x = sample.tensor.numpy()
        settings = {"seed": body.seed, "visible": visible, "mean": x[:, visible].mean(axis=1)}
        inputs = [FILL_INS[fill](x, where, **settings) for fill in body.fill_ins for where in (region, *shams)]
        before, *after = _log_odds(model, sample, [x, *inputs], index)
    rows = np.array(after).reshape(len(body.fill_ins), 1 + len(shams)) - before
    results = [
        {
            "fill_in": fill,
            "words": FILLS[fill],
            "after": float(before + row[0]),
            "change": float(row[0]),
            "elsewhere": row[1:].tolist(),
        }
        for fill, row in zip(body.fill_ins, rows, strict=True)
    ]
    return {
        "label": label,
        "index": index,
        "before": float(before),
        "share": float(region.sum() / visible.sum()),
        "fill_ins": results,
        "sentence": sentence(label, results),
        "filled": _pixels(inputs[0], x),
    }


def mask_of(body: MaskBody) -> Mask:
    """Return the mask (h, w) of runs.

    Raises:
        SettingError: runs beyond the end, or an odd number of values.

    >>> mask_of(MaskBody(height=2, width=3, runs=[1, 2, 5, 1])).astype(int)
    array([[0, 1, 1],
           [0, 0, 1]])
    """
    mask = np.zeros(body.height * body.width, bool)
    if len(body.runs) % 2:
        raise SettingError("runs must be pairs of a start and a length, but got an odd number of values")
    for start, length in zip(body.runs[::2], body.runs[1::2], strict=True):
        if start + length > mask.size:
            raise SettingError(f"the run {start}, {length} ends beyond the {mask.size} pixels of the mask")
        mask[start : start + length] = True
    return mask.reshape(body.height, body.width)


def sentence(label: str, results: Sequence[dict[str, Any]]) -> str:
    """Return what the changes of a region and of the patches elsewhere allow to say.

    >>> few = {"words": "a blur", "change": -2.0, "elsewhere": [0.1, -0.2]}
    >>> sentence("Effusion", [few]).partition(". ")[2]
    'There is room for only 2 patches of this shape elsewhere, too few to tell whether the region is special.'
    """
    name = label.partition(",")[0]
    first = results[0]
    size = f"{abs(first['change']):.2f}"
    moved = "changes" if size == "0.00" else "lowers" if first["change"] < 0 else "raises"
    by = "less than 0.01" if size == "0.00" else size
    text = f"Filling in this region ({first['words']}) {moved} the log-odds of {name} by {by}"
    places = len(first["elsewhere"])
    if not places:
        return f"{text}. There is no other place for a patch of this shape, so nothing shows whether the place matters."
    if places < _FEWEST:
        patches = "1 patch" if places == 1 else f"{places} patches"
        few = f"{text}. There is room for only {patches} of this shape elsewhere"
        return f"{few}, too few to tell whether the region is special."
    ranks = [_as_large(one) for one in results]
    special = [(rank + 1) / (places + 1) <= _LEVEL for rank in ranks]
    signs = {np.sign(one["change"]) for one in results}
    text += f"; {ranks[0]} of {places} patches of the same shape elsewhere change them as much or more"
    if all(special) and len(signs) == 1:
        return f"{text}. In this picture the answer depends on this region more than on other places of its size."
    if any(special):
        return f"{text}. The ways to fill in the region do not agree, so this does not show that the place matters."
    return f"{text}. This does not show that this region matters more than other places of its size."


def _as_large(result: dict[str, Any]) -> int:
    """Return how many patches elsewhere change the log-odds as much as the region, in either direction."""
    return int((np.abs(result["elsewhere"]) >= abs(result["change"])).sum())


def _class(run: BatchExplainer, body: RegionBody) -> tuple[int, str]:
    output = run.outputs[0].reshape(-1) if run.outputs.ndim < 2 else run.outputs[0]
    if output.ndim != 1 or run.model.outcome == "boxes":
        raise TargetError(f"{run.model.name} returns no score per class, so a region cannot be tested on it")
    (goal,) = goals_of(run.model, [body.target], output)[:1]
    if goal.index is None:
        raise TargetError(f"expected one class, but got {body.target!r}")
    return goal.index, goal.label


def _shams(region: Mask, forbidden: Mask, *, count: int, seed: int) -> Iterator[Mask]:
    """Yield different places of the region's shape outside of it."""
    known: set[bytes] = set()
    for attempt in range(_TRIES * count):
        place = sham(region, forbidden, seed=seed + attempt)
        if place is None or len(known) == count:
            return
        if (key := np.packbits(place).tobytes()) not in known:
            known.add(key)
            yield place


def _log_odds(model: Model, sample: Sample, inputs: Sequence[Array], index: int) -> npt.NDArray[np.float64]:
    """Return the log-odds of a class for edited inputs of one picture."""
    found: list[float] = []
    most = batch_for((inputs[0].shape[-2], inputs[0].shape[-1]))
    for start in range(0, len(inputs), most):
        batch = [sample._replace(tensor=torch.from_numpy(x)) for x in inputs[start : start + most]]
        run = BatchExplainer.over(model, batch)
        outputs = run.outputs.double().cpu()
        found += run.model.log_odds(outputs[:, None] if outputs.ndim == 1 else outputs, index).tolist()
    return np.array(found)


def _pixels(filled: Array, x: Array) -> dict[str, Any]:
    """Return an edited input as bytes for display, between the lowest and the highest value of the input."""
    low, high = float(x.min()), float(x.max())
    levels = np.clip((filled - low) / ((high - low) or 1.0), 0, 1)
    shown = np.rint(255 * (levels[:3] if len(levels) >= 3 else levels[:1])).astype(np.uint8).transpose(1, 2, 0)
    height, width, channels = shown.shape
    content = base64.b64encode(shown.tobytes()).decode()
    return {"height": height, "width": width, "channels": channels, "pixels": content}
