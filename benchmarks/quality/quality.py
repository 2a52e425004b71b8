"""All methods judged on two real models with annotated pictures: `python benchmarks/quality/quality.py imagenet OUT`.

Needs the test data (CAMSCOPE_TEST_DATA, by default ../shared/data). Writes NAME.json and NAME.md beside this file.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from camscope.evaluation.contestants import chosen_methods
from camscope.evaluation.data import Items, read_items
from camscope.evaluation.plan import Plan
from camscope.evaluation.rows import chosen_metrics
from camscope.evaluation.run import evaluate
from camscope.evaluation.words import arrow, cell_of, measured, of_kind, sentences
from camscope.models.loading import load
from camscope.models.model import Model
from camscope.page.words import interval, number

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", "../shared/data"))
WEIGHTS = DATA / "weights"
METRICS = (
    "pointing_game,pointing,mass_accuracy,rank_accuracy,enrichment,iou,auprc,tuned_iou,maxboxaccv2,gini,complexity,"
    "average_drop,increase,average_gain,completeness,coherency,adcc,logit_randomisation,cascading_randomisation"
)
SLOW = ("scorecam", "sscam", "iscam")  # on 448 x 448 pixels


def imagenet() -> tuple[Model, str, str]:
    """SqueezeNet, every fifth validation picture, the true class explained."""
    model = load("torchvision:squeezenet1_0", weights=WEIGHTS / "squeezenet1_0_imagenet_deepcompression.pth")
    return model, METRICS, "column:class_index"


def cxr() -> tuple[Model, str, str]:
    """The opacity localiser, radiographs with radiologists' boxes, lung opacity explained."""
    model = load(
        "timm:mobilenetv2_100",
        weights=WEIGHTS / "cxr_mobilenetv2_100_opacity_localiser.pth",
        labels=["other", "lung opacity"],
        input_size=448,
        fit="squash",
        mean=[0.5] * 3,
        std=[0.5] * 3,
        options={"pad_type": "same"},
    )
    return model, METRICS, "lung opacity"


FEWER = {"few": 2, "most_passes": 200, "settings": {"steps": 16, "samples": 8}}
SETS: dict[str, Any] = {
    "imagenet": (imagenet, "imagenet_val", "boxes_xyxy_227", slice(None, 112, 7), FEWER),
    "cxr": (cxr, "cxr_nih", "rsna_boxes_xyxy", slice(None, 16), FEWER | {"few": 1}),
}


def items_of(name: str, target: str, out: Path) -> Items:
    """The annotated pictures of a folder of the test data, thinned out."""
    _, folder, boxes, part, _ = SETS[name]
    with (DATA / folder / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[boxes] != "[]"][part]
    for row in rows:
        row["file"] = str((DATA / folder / row["file"]).absolute())
    out.mkdir(parents=True, exist_ok=True)
    with (out / "pictures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return read_items(out / "pictures.csv", boxes=boxes, target=target, exclude=[out])


def planned(name: str, out: Path) -> Plan:
    """What is evaluated."""
    model, metrics, target = SETS[name][0]()
    methods = [one for one in chosen_methods("all") if name == "imagenet" or one not in SLOW]
    return Plan(model, items_of(name, target, out), methods, chosen_metrics(metrics), batch_size=8, **SETS[name][4])


def document(name: str, content: dict[str, Any]) -> str:
    """The table as Markdown."""
    table, run, data = content["table"], content["run"], content["data"]
    whose = "patients" if data["patients"] else "pictures"
    lines = [
        f"# All methods on {content['model']['name']}: {name}",
        "",
        f"`python benchmarks/quality/quality.py {name} OUT`: {data['pictures']} annotated pictures of {data['path']}.",
        f"Means over {whose}; **bold**: better than the best map that knows nothing (sign flips, Holm over",
        f"the methods of a column, p < .05); *italic*: knows nothing; † on {run['few']} pictures. Settings:",
        f"{run['settings'] or 'none'}. Seconds a map in batches of {run['batch_size']} on {run['device']},",
        f"{run['threads']} thread, while the machine did other work: read them as ratios.",
        "",
    ]
    for part in ("localisation", "faithfulness", "robustness"):
        lines += [*markdown(table, part), ""]
    lines += ["## What the numbers say by themselves", "", *(f"* {said}" for said in sentences(table)), ""]
    lines += ["## Run on few pictures, or not at all", ""]
    lines += [
        f"* {one['method']}: {one['refused'] or one['restricted']}"
        for one in table["methods"]
        if one["refused"] or one["restricted"]
    ]
    versions = ", ".join(f"{package} {version}" for package, version in content["versions"].items())
    return "\n".join([*lines, "", f"Versions: {versions}.", ""])


def markdown(table: dict[str, Any], part: str) -> list[str]:
    """One table: methods by their mean rank in it."""
    metrics, last = measured(table, part), part == "robustness"
    heads = ["method", "rank", *(f"{metric} {arrow(metric)}" for metric in metrics)]
    heads += ["sanity (cascade; pictures)", "passes", "s/map"] if last else []
    lines = [f"## {part}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for one in of_kind(table, part):
        name = ("*{}*" if one["null"] else "{}").format(one["method"]) + ("†" if one["restricted"] else "")
        rank = table["ranks"].get(one["method"], {}).get(part)
        cells = [cell_of(table, one["method"], metric) for metric in metrics]
        row = [name, "" if rank is None else f"{rank:.1f}", *map(shown, cells)]
        if last:
            sane = one["sanity"]
            curve = "" if sane is None else ", ".join("–" if v is None else number(v, 1) for v in sane["curve"])
            verdict = (
                "" if sane is None else f"{'passed' if sane['passed'] else '**failed**'} ({curve}; {sane['pictures']})"
            )
            row += [verdict, f"{one['passes']:.0f}", f"{one['seconds']:.2g}"]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    text = interval(cell).replace(" (no interval: too few patients)", "")
    return f"**{text}**" if cell["beats_null"] else text


def main(name: str, out: Path) -> None:
    torch.set_num_threads(1)
    plan, last = planned(name, out), ""

    def say(done: int, total: int, method: str) -> None:
        nonlocal last
        if method != last:
            print(f"{done}/{total} {method}", file=sys.stderr, flush=True)
            last = method

    failed = [row for row in evaluate(plan, out, progress=say) if row["status"] == "failed"]
    from camscope.evaluation.page import evaluated

    content: dict[str, Any] = evaluated(out)
    print(f"{len(failed)} rows failed: {sorted({row['message'] for row in failed})}")
    content["data"]["path"] = f"{SETS[name][1]}/labels.csv"
    (HERE / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (HERE / f"{name}.md").write_text(document(name, content))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
