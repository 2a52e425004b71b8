"""A study of real chest radiographs: a model that looks at opacities and one that does not, audited.

    CAMSCOPE_TEST_DATA=... python benchmarks/audit/real.py FOLDER
    camscope study FOLDER/study.toml --out FOLDER/results

writes FOLDER/cohort.csv, the masks and FOLDER/study.toml. The images are those of ``cxr_masks`` and ``cxr_nih`` of
the test data; the two models are the same network with heads fitted in two ways (see the data's README).
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

BITS = {"lung": 3, "opacity": 12, "tubes": 32}
MODEL = """
[labels."opacity ({name})"]
column = "opacity"
mask = "opacity_mask"
class = "lung opacity"

[labels."opacity ({name})".model]
spec = "timm:mobilenetv2_100"
weights = "{weights}"
options = {{ pad_type = "same" }}
labels = ["no opacity", "lung opacity"]
mean = [0.5]
std = [0.5]
fit = "squash"
input_size = {size}
"""


def rows_with_masks(data, folder):
    """The images whose structures were drawn; one mask file a structure."""
    with (data / "cxr_masks" / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            drawn = np.asarray(Image.open(data / "cxr_masks" / row["mask"]))
            made = {}
            for name, bits in BITS.items():
                there = (drawn & bits) > 0
                if there.any():
                    made[name] = f"masks/{Path(row['mask']).stem}_{name}.png"
                    Image.fromarray(there.astype(np.uint8) * 255).save(folder / made[name])
            yield {
                "path": str(data / "cxr_masks" / row["file"]),
                "patient": f"m{row['patient_id']}",
                "view": row["view"],
                "sex": row["sex"],
                "opacity": int("opacity" in made),
                "tubes": int("tubes" in made),
                "tubes_mask": made.get("tubes", ""),
                "lung_mask": made.get("lung", ""),
                "opacity_mask": made.get("opacity", ""),
            }


def rows_with_boxes(data):
    """The images whose opacities radiologists boxed."""
    with (data / "cxr_nih" / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            boxes = json.loads(row["rsna_boxes_xyxy"])
            yield {
                "path": str(data / "cxr_nih" / row["file"]),
                "patient": f"n{row['patient_id']}",
                "view": row["view"],
                "sex": row["sex"],
                "opacity": int(row["rsna_class"] == "Lung Opacity"),
                "tubes": "",
                "tubes_mask": "",
                "lung_mask": "",
                "opacity_mask": ";".join(",".join(str(v) for v in box) for box in boxes),
            }


def main():
    data = Path(os.environ["CAMSCOPE_TEST_DATA"]).absolute()
    folder = Path(sys.argv[1])
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    rows = [*rows_with_masks(data, folder), *rows_with_boxes(data)]
    with (folder / "cohort.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    head = """[cohort]
table = "cohort.csv"
image = "path"
patient = "patient"
group = "view"
masks = { lung = "lung_mask" }
cues = { tubes = { column = "tubes", mask = "tubes_mask" } }
strata = ["view", "sex"]
"""
    models = ""
    for name, size in (("localiser", 448), ("probe", 224)):
        weights = data / "weights" / f"cxr_mobilenetv2_100_opacity_{name}.pth"
        models += MODEL.format(name=name, weights=weights, size=size)
    tail = """
[explain]
when = "all"

[audit]
disease = ["mask:label"]
shortcuts = ["border:0.10", "corner:0.15", "outside:lung", "cue:tubes"]
"""
    (folder / "study.toml").write_text(head + models + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
