"""Write the files of an audit: JSON, a table of effects, and a table of changes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from camscope.audit.properties import PREFIX
from camscope.cohort.store import Store
from camscope.files import write_atomically

JSON, TABLE, CHANGES = "audit.json", "audit.parquet", "audit_changes.parquet"

_EFFECT = (
    "stratum",
    "test",
    "by",
    "cases",
    "patients",
    "sd",
    "sham",
    "p",
    "p_adjusted",
    "p_equivalence",
    "smallest_delta",
)


def write_json(store: Store, content: Mapping[str, Any]) -> None:
    """Write ``audit.json``."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(store.folder / JSON, lambda file: file.write(text.encode("utf-8", "replace")))


def plain(value: Any) -> Any:
    """Return a value as plain JSON: dataclasses as objects, NaN and infinities as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def write_tables(
    store: Store, content: Mapping[str, Any], changes_of: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write the table of effects (one row per label, region or property, stratum, test and fill-in) and of changes."""
    rows = []
    for label, findings in content["labels"].items():
        properties = {PREFIX + name: entry for name, entry in findings["properties"].items()}
        for region, entry in (findings["regions"] | properties).items():
            head = {"label": label, "region": region, "role": entry["role"], "verdict": entry["verdict"]}
            head |= {name: (entry["heat"] or {}).get(name) for name in ("area", "mass")}
            head |= {f"enrichment_{name}": value for name, value in (entry["enrichment"] or {}).items()}
            for effect in entry["effects"] or [{}]:
                for fill, interval in {"all": effect.get("effect"), **effect.get("by_fill", {})}.items():
                    numbers = {name: effect.get(name) for name in _EFFECT}
                    rows.append(
                        head | numbers | {"fill_in": fill} | {f"effect_{k}": v for k, v in (interval or {}).items()}
                    )
    table = pl.DataFrame(rows, infer_schema_length=None)
    write_atomically(store.folder / TABLE, lambda file: table.write_parquet(file, compression="zstd"))
    changes = pl.DataFrame(
        [{"label": label, **change} for label, changes in changes_of.items() for change in changes],
    )
    write_atomically(store.folder / CHANGES, lambda file: changes.write_parquet(file, compression="zstd"))
