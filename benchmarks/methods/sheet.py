"""All methods on real images and trained networks, on one sheet to look at.

    CAMSCOPE_TEST_DATA=... python benchmarks/methods/sheet.py methods.png

Three images of ImageNet's validation set under two CNNs, and one of CIFAR-10 under a vision transformer. Below each
map stands whether its peak lies on the object, as far as its box is known; methods that cannot apply say why.
Settings that differ from the defaults stand beside the method.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import camscope as cs
from camscope.errors import CamscopeError
from camscope.render import Cell, sheet

DATA = Path(os.environ["CAMSCOPE_TEST_DATA"])
PICTURES = ["ILSVRC2012_val_00001301", "ILSVRC2012_val_00002164", "ILSVRC2012_val_00002894"]
SETTINGS = {
    # Reduced: their defaults take more than 2,000 passes an image.
    "sscam": {"samples": 4, "channels": 60},
    "iscam": {"samples": 4, "channels": 60},
    # MobileNetV2 and the transformer have stages of signed activations, which Grad-CAM++, the default, is not for.
    "refinecam": {"base": "layercam"},
}
MADE = ["augmented(gradcam)", "eigensmoothed(gradcam)", "fused(layercam)"]


@dataclass
class Column:
    """One image under one network."""

    model: cs.Model
    picture: Path
    target: int
    boxes: list[list[float]]


def imagenet() -> list[dict[str, str]]:
    with (DATA / "imagenet_val/labels.csv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    return [rows[name] for name in PICTURES]


def squeezenet() -> cs.Model:
    file = DATA / "weights/squeezenet1_0_imagenet_deepcompression.pth"
    return cs.load("torchvision:squeezenet1_0", weights=file, input_size=227, fit="squash")


def mobilenet() -> cs.Model:
    file = DATA / "weights/timm_mobilenetv2_100_imagenet_coral_tf2ptq.pth"
    half = {"mean": [0.5], "std": [0.5], "options": {"pad_type": "same"}, "fit": "squash"}
    return cs.load("timm:mobilenetv2_100", weights=file, **half)


def vit() -> cs.Model:
    spec = importlib.util.spec_from_file_location("cifar_models", DATA / "models/cifar_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.CifarViT()
    net.load_state_dict(torch.load(DATA / "weights/cifar10_vit.pth", weights_only=True))
    preprocess = cs.Preprocess(input_size=(32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    labels = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return cs.Model("CIFAR-10 ViT", net.eval(), preprocess=preprocess, labels=labels)


def columns() -> list[Column]:
    found = []
    for model in (mobilenet(), squeezenet()):
        for row in imagenet():
            boxes = json.loads(row["boxes_xyxy_227"])
            found.append(Column(model, DATA / "imagenet_val" / row["file"], int(row["class_index"]), boxes))
    with (DATA / "cifar10/labels.csv").open(encoding="utf-8", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["class_index"] == "7")
    return [*found, Column(vit(), DATA / "cifar10" / row["file"], int(row["class_index"]), [])]


def on_object(e: cs.Explanation, boxes: list[list[float]]) -> bool:
    """Whether the peak of the map lies in a box; boxes are of the image at 227 x 227."""
    height, width = e.heatmap.shape
    y, x = np.unravel_index(int(e.heatmap.argmax()), e.heatmap.shape)
    x, y = x * 227 / width, y * 227 / height
    return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes)


def cell(method: str, column: Column) -> tuple[Cell, bool | None]:
    try:
        settings = SETTINGS.get(method, {})
        e = cs.explain(column.model, column.picture, method=method, target=column.target, **settings)
    except CamscopeError as error:
        return Cell(None, str(error)), None
    empty = [note for note in e.notes if "empty" in note or "flat" in note]
    hit = on_object(e, column.boxes) if column.boxes and not empty else None
    words = {None: "", True: "peak on the object", False: "peak beside the object"}[hit]
    return Cell(e.overlay(), empty[0] if empty else words), hit


def main(page: Path) -> None:
    """Make the sheet, and print for each method how many peaks lie on the object."""
    torch.manual_seed(0)
    seen = columns()
    methods = [*sorted(cs.METHODS), *MADE]
    rows = [[Cell(Image.open(column.picture).convert("RGB")) for column in seen]]
    for method in methods:
        cells = [cell(method, column) for column in seen]
        hits = [hit for _, hit in cells if hit is not None]
        print(f"{method:24} peaks on the object: {sum(hits)} of {len(hits)}", flush=True)
        rows.append([one for one, _ in cells])
    given = {m: ", ".join(f"{k}={v}" for k, v in s.items()) for m, s in SETTINGS.items()}
    names = ["picture", *(f"{m} ({given[m]})" if m in given else m for m in methods)]
    headings = [f"{c.model.name}: {c.model.label(c.target).partition(',')[0]}" for c in seen]
    drawn = sheet(rows, column_headings=headings, row_headings=names, title="All methods", cell_width=190)
    drawn.save(page)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
