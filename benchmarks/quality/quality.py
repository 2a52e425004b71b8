"""All methods judged on two real models with annotated pictures: `python benchmarks/quality/quality.py imagenet OUT`.

Needs the test data (CAMSCOPE_TEST_DATA, by default ../shared/data). Writes NAME.json and NAME.md beside this file;
stopped in any way, the same command continues.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from camscope.evaluation.candidates import chosen_methods
from camscope.evaluation.data import EvaluationData, read_data
from camscope.evaluation.page import evaluated
from camscope.evaluation.plan import EvaluationPlan
from camscope.evaluation.rows import FEW, chosen_metrics
from camscope.evaluation.run import evaluate
from camscope.evaluation.summary_text import KINDS, arrow, cell_of, measured, of_kind, sentences
from camscope.models.loading import load
from camscope.models.model import Model
from camscope.page.words import interval, number

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", "../shared/data"))
WEIGHTS = DATA / "weights"
PARTS = {
    "maps": "pointing_game,pointing,mass_accuracy,rank_accuracy,enrichment,iou,auprc,tuned_iou,maxboxacc,maxboxaccv2,"
    "gini,entropy,complexity,average_drop,increase,average_gain,completeness,coherency,adcc,logit_randomisation,"
    "image_swap,cascading_randomisation",
    "edits": "deletion,insertion,road_morf,road_lerf,road,infidelity,max_sensitivity",
}
"""What is evaluated together -> its metrics; edited images cost ten times as much, and are fewer."""
BATCH = {"maps": 8, "edits": 4}
SLOW = {
    ("imagenet", "edits"): ("occlusion", "sscam", "iscam"),
    ("cxr", "maps"): ("scorecam", "sscam", "iscam"),
    ("cxr", "edits"): ("occlusion", "scorecam", "sscam", "iscam"),
}
"""Left out: some hundred passes a map, and max-sensitivity takes ten maps of an image."""


def imagenet() -> tuple[Model, str]:
    """SqueezeNet; the true class is explained."""
    model = load("torchvision:squeezenet1_0", weights=WEIGHTS / "squeezenet1_0_imagenet_deepcompression.pth")
    return model, "column:class_index"


def cxr() -> tuple[Model, str]:
    """The opacity localiser, radiographs with radiologists' boxes; lung opacity is explained."""
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
    return model, "lung opacity"


SETS: dict[str, Any] = {
    "imagenet": (
        imagenet,
        ("imagenet_val", "boxes_xyxy_227"),
        {"maps": (slice(None, None, 4), 8), "edits": (slice(None, None, 15), 2)},
        {"most_passes": 200, "settings": {"steps": 16, "samples": 8}},
    ),
    "cxr": (
        cxr,
        ("cxr_nih", "rsna_boxes_xyxy"),
        {"maps": (slice(None, 16), 3), "edits": (slice(None, 16, 4), 1)},
        {"most_passes": 200, "settings": {"steps": 8, "samples": 4}},
    ),
}
"""Name -> model and target; folder and its column of boxes; for each part its images and the few; settings."""


def data_of(name: str, part: str, *, target: str, out: Path) -> EvaluationData:
    """The annotated images of a folder of the test data, thinned out."""
    _, (folder, boxes), parts, _ = SETS[name]
    with (DATA / folder / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[boxes] != "[]"][parts[part][0]]
    for row in rows:
        row["file"] = str((DATA / folder / row["file"]).absolute())
    out.mkdir(parents=True, exist_ok=True)
    with (out / "pictures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return read_data(out / "pictures.csv", boxes=boxes, target=target, exclude=[out])


def planned(name: str, part: str, *, twins: set[str], out: Path) -> EvaluationPlan:
    """What is evaluated."""
    model, target = SETS[name][0]()
    methods = [one for one in chosen_methods("all") if one not in {*SLOW.get((name, part), ()), *twins}]
    data = data_of(name, part, target=target, out=out)
    few, more = SETS[name][2][part][1], {"batch_size": BATCH[part], "engine": "openvino"} | SETS[name][3]
    return EvaluationPlan(model, data, methods, chosen_metrics(PARTS[part]), few=few, **more)


def document(name: str, found: dict[str, dict[str, Any]]) -> str:
    """The tables as Markdown."""
    first = found["maps"]
    run = first["run"]
    counts = (f"{k} on {one['data']['pictures']}, with maps anew on {one['run']['few']}" for k, one in found.items())
    whose = "patients" if first["data"]["patients"] else "pictures"
    lines = [
        f"# All methods on {first['model']['name']}: {name}",
        "",
        f"`python benchmarks/quality/quality.py {name} OUT`: annotated images of {first['data']['path']};",
        f"{'; '.join(counts)}.",
        f"Means over {whose} with 95 % intervals; **bold**: better than the best map that knows nothing (sign flips,",
        "Holm over the methods of a column, p < .05); *italic*: knows nothing; † needs many passes: on few images,",
        f"and without a rank. Settings: {run['settings']}. Seconds a map in batches of {run['batch_size']} on",
        f"{run['device']}, {run['threads']} thread, while the machine did other work: read them as ratios.",
        *(f"Left out of {part}: {', '.join(SLOW[name, part])}." for part in found if (name, part) in SLOW),
        "",
    ]
    for part, content in found.items():
        for what, asked in KINDS.items():
            if measured(content["table"], what):
                pictures = content["run"]["few"] if what in FEW else content["data"]["pictures"]
                lines += [f"## {asked} ({part}; {pictures} images)", "", *markdown(content["table"], what), ""]
    lines += ["## What the numbers say by themselves", ""]
    for part, content in found.items():
        lines += [f"* {part}: {said}" for said in sentences(content["table"])]
    lines += ["", "## Run on few images, as another method, or not at all", ""]
    lines += [
        f"* {one['method']}: {one['refused'] or one['restricted']}"
        for one in first["table"]["methods"]
        if one["refused"] or one["restricted"]
    ]
    lines += [f"* {one['method']}: as {one['same_as']}" for one in first["table"]["methods"] if one["same_as"]]
    versions = ", ".join(f"{package} {version}" for package, version in first["versions"].items())
    return "\n".join([*lines, "", f"Versions: {versions}.", ""])


def markdown(table: dict[str, Any], what: str) -> list[str]:
    """One table: the metrics of a kind, methods by their mean rank in it."""
    metrics, last = measured(table, what), what == "randomisation"
    heads = ["method", "rank", *(f"{metric} {arrow(metric)}".strip() for metric in metrics)]
    heads += ["sanity (cascade; images)", "passes", "s/map"] if last else []
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for one in of_kind(table, what):
        name = ("*{}*" if one["baseline"] else "{}").format(one["method"]) + ("†" if one["restricted"] else "")
        rank = table["ranks"].get(one["method"], {}).get(what)
        cells = [cell_of(table, one["method"], metric) for metric in metrics]
        row = [name, "" if rank is None else f"{rank:.1f}", *map(shown, cells)]
        if last:
            row += [verdict(one["sanity"]), f"{one['passes']:.0f}", f"{one['seconds']:.2g}"]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def verdict(sane: dict[str, Any] | None) -> str:
    if sane is None:
        return ""
    curve = ", ".join("–" if value is None else number(value, 1) for value in sane["curve"])
    return f"{'passed' if sane['passed'] else '**failed**'} ({curve}; {sane['pictures']})"


def shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    text = interval(cell).replace(" (no interval: too few patients)", "")
    return f"**{text}**" if cell["beats_baseline"] else text


def run(name: str, part: str, *, twins: set[str], out: Path) -> dict[str, Any]:
    """Evaluate one part, or continue it, but for methods that are known to be another's twins."""
    torch.set_num_threads(1)
    plan, last = planned(name, part, twins=twins, out=out), ""

    def say(method: str, done: int, total: int) -> None:
        nonlocal last
        if method != last:
            print(f"{name} {part} {done}/{total} {method}", file=sys.stderr, flush=True)
            last = method

    failed = [row for row in evaluate(plan, out, progress=say) if row["status"] == "failed"]
    print(f"{name} {part}: {len(failed)} rows failed: {sorted({row['message'] for row in failed})}")
    content: dict[str, Any] = evaluated(out)
    content["data"]["path"] = f"{SETS[name][1][0]}/labels.csv"
    return content


def main(name: str, out: Path) -> None:
    maps = run(name, "maps", twins=set(), out=out / "maps")
    twins = {one["method"] for one in maps["table"]["methods"] if one["same_as"]}
    found = {"maps": maps, "edits": run(name, "edits", twins=twins, out=out / "edits")}
    (HERE / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (HERE / f"{name}.md").write_text(document(name, found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
