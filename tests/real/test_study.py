"""A study of real chest radiographs: the model that localises looks at the opacities, the probe does not."""

import csv
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import camscope as cs

DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
MODEL = """{{ spec = "timm:mobilenetv2_100", weights = "{weights}", options = {{ pad_type = "same" }}, mean = [0.5], \
std = [0.5], fit = "squash", input_size = {size}, labels = ["no opacity", "lung opacity"] }}"""
STUDY = """\
[cohort]
table = "cohort.csv"
root = "{root}"
image = "file"
patient = "patient_id"
group = "view"
masks = {{ opacity = "opacity", lung = "lung" }}
strata = ["view", "sex"]
[labels.localiser]
column = "present"
class = "lung opacity"
model = {localiser}
[labels.probe]
column = "present"
class = "lung opacity"
model = {probe}
[audit]
disease = ["mask:opacity"]
shortcuts = ["outside:lung", "border:0.10"]
"""

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no test data: set CAMSCOPE_TEST_DATA to their folder")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with (DATA / "cxr_masks/labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["view"] in ("AP", "PA", "AP Supine")]
    for row in rows:
        mask = np.asarray(Image.open(DATA / "cxr_masks" / row["mask"]))
        for name, bits in (("opacity", 4 + 8), ("lung", 1 + 2)):
            inside = (mask & bits) > 0
            row[name] = str(folder / f"{Path(row['mask']).stem}_{name}.png") if inside.any() else ""
            if inside.any():
                Image.fromarray(255 * inside.astype(np.uint8)).save(row[name])
        row["present"] = str(int(bool(row["opacity"])))
    with (folder / "cohort.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    weights = {
        kind: MODEL.format(weights=DATA / f"weights/cxr_mobilenetv2_100_opacity_{kind}.pth", size=size)
        for kind, size in (("localiser", 448), ("probe", 224))
    }
    path = folder / "study.toml"
    path.write_text(STUDY.format(root=DATA / "cxr_masks", **weights), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_localiser_looks_at_the_opacities_and_the_probe_does_not(study):
    read, problems = cs.Study.check(study)
    assert read is not None, problems
    assert not [problem for problem in problems if "several values" not in problem.text]
    out = study.parent / "out"
    assert not [row["message"] for row in cs.run(read, out, device="cpu") if row["status"] == "failed"]
    rows = pl.read_parquet(out / "rows/*.parquet").filter(pl.col("status") == "ok")
    assert all((out / name).is_file() for name in rows["file"])
    assert {Path(name).parts[0] for name in rows["file"]} >= {"AP", "PA"}
    patients = rows.group_by("label", "patient").agg(pl.col("enrichment:mask:opacity").mean())
    seen = dict(patients.group_by("label").agg(pl.col("enrichment:mask:opacity").mean()).iter_rows())
    hits = dict(rows.group_by("label").agg(pl.col("peak:mask:opacity").mean()).iter_rows())
    assert seen["localiser"] > 2.5
    assert seen["probe"] < 1.5
    assert hits["localiser"] > 0.45 > 0.25 > hits["probe"]
