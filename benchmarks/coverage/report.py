"""The table of the coverage benchmark, written from its rows: the summary first, then every miss with its reason."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

_TITLES = {
    "timm": "timm, one of each family",
    "torchvision": "torchvision, all classifiers",
    "segmentation": "torchvision, segmentation",
    "detection": "torchvision, detection",
    "dense": "detectors and segmentation of other packages",
    "hf": "Hugging Face, one of each family",
    "keras": "keras.applications, one of each family",
    "all": "timm, architecture by architecture",
}
_CONTRACT = """\
Random weights; where makers start at zero, random values, and batch norms have the statistics of the image, as after
training. `found`: a layer was chosen without being named. `verified`: a judge that shares no code with the choice
agrees (benchmarks/coverage/judge.py): the grid has the image's shape; of the four corners of the image, each in its
turn replaced by the image's middle and noise, each changes its own corner of the grid more than the others do; a
class score's gradient reaches half of the places. Levels that are explained together pass each by itself, and one has
the gradient. `finite`: Grad-CAM on it is, and has the grid's size. `time`: seconds of the choice over those of a
forward pass of one image, on a machine that does other work too. torch-cam: the layer that `GradCAM(net)` takes by
itself, under the same judge; a patch embedding at the stem passes it, though it explains nothing that the network has
worked out.
"""


def passed(row: Row) -> bool:
    """Whether a layer was found, verified, and gave a finite map."""
    return bool(row.get("found") and row.get("verified") and row.get("finite"))


def write(folder: Path) -> None:
    """Write coverage.md from coverage.json and timm.json."""
    rows, about, _ = _read(folder / "coverage.json")
    whole, _, parameters = _read(folder / "timm.json")
    groups: dict[str, dict[str, Row]] = {}
    for key, row in rows.items():
        group, _, name = key.partition(":")
        groups.setdefault(group, {})[name] = row
    if whole:
        groups["all"] = {key.partition(":")[2]: row for key, row in whole.items()}
    versions = ", ".join(f"{name} {version}" for name, version in about.items())
    lines = ["# Is the layer found for every architecture?", "", _CONTRACT, f"Versions: {versions}.", ""]
    lines += [*_summary(groups), "", *_left(groups.get("all", {}), parameters)]
    lines += _stability(folder / "stability.json")
    lines += [*_by_timm(groups.get("timm", {})), *_misses(groups), ""]
    for group, members in groups.items():
        if group != "all":
            lines += [f"## {_TITLES[group]}", "", *_table(members), ""]
    (folder / "coverage.md").write_text("\n".join(lines).rstrip() + "\n")


def _stability(path: Path) -> list[str]:
    """Whether the layer is the same whatever the image, weights, batch and dtype (stability.py)."""
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if not rows:
        return []
    several = [f"{name} ({', '.join(row['layers'])})" for name, row in rows.items() if len(row["layers"]) > 1]
    asked = sum(sum(row["layers"].values()) for row in rows.values())
    by_group = Counter(name.partition(":")[0] for name in rows)
    counts = ", ".join(f"{number} of {group}" for group, number in sorted(by_group.items()))
    text = (
        f"Asked {asked} times with 6 images (a real one, constant, black, white, noise, one dot), 4 kinds of weights, "
        f"batches of 1 and 2, and in bfloat16, {len(rows) - len(several)} of {len(rows)} networks ({counts}) "
        "have one layer: `stability.py`."
    )
    return [text, *(f"* several: {one}" for one in several), ""]


def _read(path: Path) -> tuple[dict[str, Row], dict[str, str], dict[str, int]]:
    read = json.loads(path.read_text()) if path.is_file() else {}
    return read.get("rows", {}), read.get("about", {}), read.get("parameters", {})


def _summary(groups: Mapping[str, Mapping[str, Row]]) -> list[str]:
    lines = ["| | networks | found | verified | finite | time, median | torch-cam runs | torch-cam verified |"]
    lines.append("|---" * 8 + "|")
    for group, members in groups.items():
        rows = list(members.values())
        counts = [sum(bool(row.get(fact)) for row in rows) for fact in ("found", "verified", "finite")]
        peer = [sum(bool(row.get("torchcam", {}).get(fact)) for row in rows) for fact in ("runs", "verified")]
        ratios = [row["seconds"] / row["forward"] for row in rows if "seconds" in row]
        time = f"{statistics.median(ratios):.1f}" if ratios else ""
        lines.append(f"| {_TITLES[group]} | {len(rows)} | {_cells(counts)} | {time} | {_cells(peer)} |")
    return lines


def _left(rows: Mapping[str, Row], parameters: Mapping[str, int]) -> list[str]:
    """How far the list of every architecture has come, the smallest first."""
    left = len(parameters.keys() - rows.keys())
    if not rows or not left:
        return []
    largest = max(parameters[name] for name in rows) / 1e6
    told = (
        f"Of timm's {len(parameters)} architectures {len(rows)} have been run, the smallest first, up to {largest:.1f} "
        f"million parameters; {left} are left, for time alone: `coverage.py --all` goes on where it stopped."
    )
    return [told, ""]


def _by_timm(rows: Mapping[str, Row]) -> list[str]:
    """How often the grid is that of the last stage by timm's own record, which the choice does not read."""
    known = {name: row for name, row in rows.items() if row.get("stage") and row.get("grid")}
    differ = {name: row for name, row in known.items() if row["grid"] != row["stage"]}
    others = [f"{name} {_size(row['grid'])}, by timm {_size(row['stage'])}" for name, row in differ.items()]
    if not known:
        return []
    told = (
        f"The last stage by timm's own record has the same grid in {len(known) - len(others)} of {len(known)} families"
    )
    return [f"{told}; others: {'; '.join(others)}." if others else f"{told}.", ""]


def _misses(groups: Mapping[str, Mapping[str, Row]]) -> list[str]:
    lines = ["## Misses", ""]
    for group, members in groups.items():
        for name, row in members.items():
            if not passed(row):
                reason = row.get("error") or row.get("why") or "not finite"
                others = row.get("others", [])
                more = f"; verified with {sum(others)} of {len(others)} other random weights" if others else ""
                lines.append(f"* {group}:{name}, {_place(row)}: {reason}{more}")
    return lines if len(lines) > 2 else [*lines, "None."]


def _table(members: Mapping[str, Row]) -> list[str]:
    heads = ["family", "network", "picture", "layer", "grid", "last stage by timm", "layout", "verdict", "time"]
    lines = [f"| {_cells([*heads, 'torch-cam layer', 'its grid', 'its verdict'])} |", "|---" * (len(heads) + 3) + "|"]
    for name, row in sorted(members.items(), key=lambda one: (one[1].get("family", ""), one[0])):
        peer = row.get("torchcam", {})
        verdict = "verified" if passed(row) else row.get("error") or row.get("why")
        cells = [
            row.get("family"), name, _size(row.get("input", [])[1:]), _code(row.get("layer")), _size(row.get("grid")),
            _size(row.get("stage")), row.get("layout"), verdict,
            f"{row['seconds'] / row['forward']:.1f}" if "seconds" in row else "",
            _code(peer.get("layer")), _size(peer.get("grid")), _verdict(peer),
        ]  # fmt: skip
        lines.append(f"| {_cells(cells)} |")
    return lines


def _verdict(row: Row) -> str:
    return "verified" if row.get("verified") else str(row.get("error") or row.get("why") or "")


def _place(row: Row) -> str:
    return f"{_code(row['layer'])} {_size(row.get('grid'))}" if row.get("layer") else "no layer"


def _size(sides: Sequence[int] | None) -> str:
    return " x ".join(str(side) for side in sides or ())


def _code(name: str | None) -> str:
    return f"`{name}`" if name else ""


def _cells(values: Sequence[Any]) -> str:
    return " | ".join("" if value is None else str(value).replace("|", "/").replace("\n", " ") for value in values)
