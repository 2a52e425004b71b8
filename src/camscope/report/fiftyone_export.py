"""Add the rows of a study to a dataset of FiftyOne: predictions, heat maps, and verdicts as tags."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch

from camscope.cohort.fiftyone_dataset import FIFTYONE
from camscope.cohort.store import OK, as_written
from camscope.cohort.tables import located
from camscope.errors import CamscopeError, StoreError, reason, require
from camscope.heatmap import place
from camscope.images.picture import Window
from camscope.images.source import is_address
from camscope.report.results import Results, read_results
from camscope.study.study import Study

_USES = {"RELIES": "RELIES on", "RESPONDS": "RESPONDS to"}
_SIDE = 128  # largest side of a heat map in the database, in pixels
_COLUMNS = (
    *("image", "label", "method", "truth", "probability", "log_odds", "prediction", "outcome", "status"),
    *("grid", "grid_height", "grid_width", "window", "height", "width"),
)


def write_fiftyone(folder: str | Path, name: str, *, study: Study | None = None) -> int:
    """Add the rows of a study to a dataset of FiftyOne, which is created if there is none of this name.

    Samples are found by the path of their image; missing ones are added. Per label, each sample gets the fields

    * ``camscope_LABEL``: the prediction, ``LABEL`` or ``not LABEL``, with the probability of the predicted side as its
      confidence, and "log_odds"; its tag is the outcome, such as "FP";
    * ``camscope_LABEL_truth``: the truth, if known;
    * ``camscope_LABEL_METHOD``: the heat map, positive part, over the whole image, at most 128 pixels wide and high.

    If the study has been audited, samples with a prediction get a tag for each shortcut that the label's model uses,
    such as "Effusion RELIES on cue:token", and ``dataset.info["camscope"]`` has all verdicts. Fields and tags of an
    earlier call are replaced.

    Args:
        folder: folder of a study that has been run.
        name: name of the dataset, with or without ``fiftyone:``.
        study: the study; needed if its images were moved since the run.

    Returns:
        The number of samples with fields of this study.

    Raises:
        StoreError: the folder has no study, or the database cannot be written.
        MissingExtraError: `fiftyone` is not installed.
    """
    fiftyone = require("fiftyone", "--fiftyone", "fiftyone")
    name = name.removeprefix(FIFTYONE)
    with as_written(folder):
        results = read_results(folder, study=study)
        try:
            new = name not in fiftyone.list_datasets()
            dataset = fiftyone.Dataset(name, persistent=True) if new else fiftyone.load_dataset(name)
            return _written(fiftyone, dataset, results)
        except CamscopeError:
            raise
        except Exception as fault:  # of the database; FiftyOne and pymongo raise many kinds
            raise StoreError(f"the dataset {name!r} of FiftyOne cannot be written: {reason(fault)}") from None


def _written(fiftyone: Any, dataset: Any, results: Results) -> int:
    verdicts = {
        label: {name: entry["verdict"] for name, entry in parts.items()} for label, parts in _judged(results).items()
    }
    tags = {
        label: tuple(
            f"{label} {_USES[entry['verdict']]} {name}"
            for name, entry in parts.items()
            if entry["role"] != "disease" and entry["verdict"] in _USES
        )
        for label, parts in _judged(results).items()
    }
    dataset.info["camscope"] = {"study": str(results.folder.absolute()), "verdicts": verdicts}
    dataset.save()
    known = dict(zip(*dataset.values(["filepath", "id"]), strict=True))
    paths: set[str] = set()
    for rows in _rows(results):
        for (image,), group in rows.group_by("image", maintain_order=True):
            path = _path(str(image), results.root)
            sample = dataset[known[path]] if path in known else fiftyone.Sample(filepath=path)
            for row in group.iter_rows(named=True):
                _describe(fiftyone, sample, row, tags.get(row["label"], ()))
            if path in known:
                sample.save()
            else:
                known[path] = dataset.add_sample(sample)
            paths.add(path)
    return len(paths)


def _rows(results: Results) -> Iterator[pl.DataFrame]:
    """Yield the rows with a score, shard by shard."""
    for shard in results.shards:
        yield pl.scan_parquet(shard).filter(pl.col("score").is_not_null()).select(_COLUMNS).collect()


def _path(image: str, root: str) -> str:
    source = located(image, root)
    return source if is_address(source) else os.path.abspath(source)  # noqa: PTH100  without "..", as FiftyOne has them


def _describe(fiftyone: Any, sample: Any, row: dict[str, Any], tags: tuple[str, ...]) -> None:
    """Set the fields of a sample for one row."""
    field = _field(row["label"])
    if row["prediction"] is not None:
        sample[field] = fiftyone.Classification(
            label=_named(row, "prediction"),
            confidence=None if row["probability"] is None else _confidence(row),
            tags=[row["outcome"]] if row["outcome"] else [],
            log_odds=row["log_odds"],
        )
    if row["truth"] is not None:
        sample[f"{field}_truth"] = fiftyone.Classification(label=_named(row, "truth"))
    if row["status"] == OK:
        heat = _heat(row)
        sample[f"{field}_{row['method']}"] = fiftyone.Heatmap(map=heat, range=[0.0, float(heat.max()) or 1.0])
    former = tuple(f"{row['label']} {words} " for words in _USES.values())
    sample.tags = list(dict.fromkeys([*(tag for tag in sample.tags if not tag.startswith(former)), *tags]))


def _named(row: dict[str, Any], column: str) -> str:
    return str(row["label"]) if row[column] else f"not {row['label']}"


def _confidence(row: dict[str, Any]) -> float:
    return float(row["probability"] if row["prediction"] else 1 - row["probability"])


def _heat(row: dict[str, Any]) -> Any:
    """Return the positive part of a row's map over the whole image, reduced in size."""
    grid = torch.tensor(row["grid"]).reshape(row["grid_height"], row["grid_width"]).relu()
    size = (row["height"], row["width"])
    factor = min(1.0, _SIDE / max(size))
    small = tuple(max(1, round(side * factor)) for side in size)
    top, left, height, width = row["window"]
    return place(grid, Window(size, (top, left), (height, width)).resized(small)).numpy()


def _field(label: str) -> str:
    """Return the name of a label's field; FiftyOne's fields are identifiers.

    >>> _field("Pleural Effusion")
    'camscope_Pleural_Effusion'
    """
    return "camscope_" + re.sub(r"\W+", "_", label)


def _judged(results: Results) -> dict[str, dict[str, Any]]:
    """Return label -> region or property -> its part of the audit; {} without an audit."""
    labels = (results.audit or {}).get("labels", {})
    return {label: findings["regions"] | findings["properties"] for label, findings in labels.items()}
