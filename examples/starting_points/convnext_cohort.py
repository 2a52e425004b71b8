"""Five ConvNeXt models, one per label, on AP and PA radiographs of 70 patients: do they look at the borders?

    python examples/starting_points/convnext_cohort.py OUT

Heat maps alone cannot answer this. The script explains every image in blue, yellow and red, and audits the border in
two steps: first as it is, then with a column for the AP token, an object that lies in some borders. It prints the heat
in the border beside the verdicts. Replace ``write_cohort`` with your table, images and models.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import camscope as cs
from camscope.audit.audit import audit
from camscope.phantoms.cohort import write_cohort
from camscope.report import report

LABELS = ("Effusion", "Cardiomegaly", "Pneumothorax", "Consolidation", "Nodule")
BORDER = "border:0.10"

COHORT = """\
[cohort]
table = "cohort.csv"         # columns path, patient_id, view, effusion, ...: 1 or 0
image = "path"
patient = "patient_id"
group = "view"               # AP and PA
{cue}
"""
LABEL = """
[labels.{label}]
column = "{column}"
model = "models/{column}"    # or {{ spec = "timm:convnext_base", weights = "effusion.pth", labels = ["effusion"] }}
mask = "{column}_mask"       # where the disease is, so that the border is tested apart from it
"""
AUDIT = """
[explain]
methods = ["gradcam"]
files = "{{group}}/{{patient}}/{{image}}_{{label}}.jpg"
cmap = "byr"

[audit]
disease = ["mask:label"]
shortcuts = [{shortcuts}]
fill_ins = ["donor", "mean"]
properties = []
replicates = {replicates}
"""


def study_text(labels: tuple[str, ...], *, with_token: bool, replicates: int) -> str:
    """Return a study file that audits the border; with the token, also as a cue."""
    cue = 'cues = { token = { column = "token", mask = "token_box" } }' if with_token else ""
    shortcuts = f'"{BORDER}", "cue:token"' if with_token else f'"{BORDER}"'
    models = "".join(LABEL.format(label=label, column=label.lower()) for label in labels)
    return COHORT.format(cue=cue) + models + AUDIT.format(shortcuts=shortcuts, replicates=replicates)


def main(
    out: Path, *, patients: int = 70, labels: tuple[str, ...] = LABELS, size: int = 256, replicates: int = 10_000
) -> dict[str, dict[str, str]]:
    """Run both studies; return label -> study -> verdict on the border."""
    write_cohort(out, patients=patients, size=(size, size))
    verdicts: dict[str, dict[str, str]] = {label: {} for label in labels}
    heat = dict.fromkeys(labels, "")
    for name in ("border", "border_and_token"):
        file = out / f"{name}.toml"
        file.write_text(study_text(labels, with_token=name != "border", replicates=replicates), encoding="utf-8")
        study = cs.Study.read(file)
        for row in cs.run(study, out / name):
            if row["status"] == "failed":
                print(f"line {row['line']}: {row['message']}")
        found = audit(study, out / name)
        print(report(out / name, study=study))
        for label in labels:
            border = found["labels"][label]["regions"][BORDER]
            verdicts[label][name] = border["verdict"]
            heat[label] = f"{border['enrichment']['estimate']:.2f}" if border["enrichment"] else "-"
    print(f"{'label':<14} {'heat in the border':<20} {'verdict':<12} with the token as a cue")
    for label in labels:
        first, second = verdicts[label].values()
        print(f"{label:<14} {heat[label] + ' x its share':<20} {first:<12} {second}")
    return verdicts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the cohort and the results")
    parser.add_argument("--patients", type=int, default=70)
    arguments = parser.parse_args()
    main(arguments.out, patients=arguments.patients)
