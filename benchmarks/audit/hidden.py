"""The demo's planted findings trained again with the border hidden: do they still rely on the token?

    python benchmarks/audit/hidden.py FOLDER [PICTURES [EPOCHS [ARMS]]]

The training pictures are those of the demo's planted models (the token stands on 95 of 100 pictures with the finding
and on 5 of 100 without). Arms: the models as shipped; "plain", the same pictures by ``camscope train``; with ``--hide
border:0.1``, a region that holds the token, named without knowing of the token; with ``--right-reasons mask`` beside
it, the mask of the finding. Each model is tested on 400 other patients without the token, and audited in the demo's
cohort. Writes benchmarks/audit/hidden.json, and prints the table of docs/train.md.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from camscope.audit.audit import audit
from camscope.models.loading import load
from camscope.phantoms.cohort import BUNDLES, grey_bytes, plan_training, write_cohort
from camscope.study.run import run
from camscope.study.study import Study
from camscope.training.dataset import read_dataset
from camscope.training.fit import train
from camscope.training.init_model import Start
from camscope.training.settings import TrainingSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "phantom_models"))
from held_out_phantoms import HeldOut, token_aucs
from train_phantom_models import PLANTED, new_model

BORDER = ("border:0.1",)
ARMS = {
    "as shipped": None,
    "hide border:0.1": {"hide": BORDER},
    "hide border:0.1, right reasons": {"hide": BORDER, "reasons": "mask"},
    "plain": {},
}
RESULT = Path(__file__).with_name("hidden.json")


def write_training(folder: Path, finding: str, pictures: int) -> Path:
    """The planted training pictures of a finding as a table of files."""
    table = folder / finding.lower() / "train.csv"
    if table.is_file():
        return table
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, case in enumerate(plan_training(finding, seed=0, pictures=pictures, token=PLANTED[finding])):
        made = case.phantom((128, 128))
        Image.fromarray(grey_bytes(made)).save(table.parent / f"{number}.png")
        Image.fromarray(np.uint8(255) * made.masks.get(finding, np.zeros((128, 128), bool))).save(
            table.parent / f"{number}_mask.png"
        )
        # Pictures with and without the finding alternate.
        split = "train" if number % 20 < 16 else "val" if number % 20 < 18 else "test"
        mask = f"{number}_mask.png" if finding in case.findings else ""
        rows.append((f"{number}.png", case.patient_id, split, int(finding in case.findings), mask))
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "patient", "split", finding, "mask"), *rows])
    return table


def audited(folder: Path, arm: str, models: dict[str, Path]) -> dict[str, dict[str, object]]:
    """Verdict and effect of each region, by finding."""
    cohort = folder / "cohort"
    if not (cohort / "study.toml").is_file():
        write_cohort(cohort, seed=7)
    head, tail = (cohort / "study.toml").read_text().split("[labels.", 1)[0], "[explain]"
    labels = "".join(
        f'[labels.{finding}]\ncolumn = "{finding.lower()}"\nmask = "{finding.lower()}_mask"\nmodel = "{path}"\n\n'
        for finding, path in models.items()
    )
    end = (cohort / "study.toml").read_text().split(tail, 1)[1]
    path = cohort / f"{arm.replace(' ', '_').replace(':', '_')}.toml"
    path.write_text(head + labels + tail + end)
    study, out = Study.read(path), folder / f"results {arm}"
    for _ in run(study, out):
        pass
    found = audit(study, out)["labels"]
    kept = ("verdict", "reason")
    return {
        label: {"regions": {name: {key: region[key] for key in kept} for name, region in one["regions"].items()}}
        for label, one in found.items()
    }


def trained(folder: Path, arm: str, finding: str, pictures: int, epochs: int) -> Path:
    """The bundle of a finding's model in an arm; trained where it is not there yet."""
    given = ARMS[arm]
    if given is None:
        return BUNDLES / finding.lower()
    out = folder / arm.replace(" ", "_").replace(":", "_").replace(",", "") / finding.lower()
    if not (out / "model.json").is_file():
        data = read_dataset(write_training(folder, finding, pictures), labels=[finding])
        settings = TrainingSettings(epochs=epochs, patience=epochs, batch_size=16, rate=2e-3, **given)
        begun = Start(new_model(finding), learnt=False, origin="random weights of the demo")
        train(data, begun, out=out, settings=settings, device="cpu", say=lambda text: print(text, flush=True))
    return out.absolute()


def main() -> None:
    folder = Path(sys.argv[1])
    pictures, epochs = (int(sys.argv[n]) if len(sys.argv) > n else usual for n, usual in ((2, 1600), (3, 12)))
    arms = sys.argv[4].split(";") if len(sys.argv) > 4 else list(ARMS)
    torch.set_num_threads(1)
    models = {arm: {finding: trained(folder, arm, finding, pictures, epochs) for finding in PLANTED} for arm in arms}
    tests = HeldOut.make(0)
    for arm, made in models.items():
        found = audited(folder, arm, made)
        aucs = {finding: token_aucs(load(path), tests) for finding, path in made.items()}
        # Arms that were run before stay.
        content = json.loads(RESULT.read_text())["arms"] if RESULT.is_file() else {}
        content[arm] = {finding: {"aucs": aucs[finding], **found[finding]} for finding in PLANTED}
        RESULT.write_text(json.dumps({"pictures": pictures, "epochs": epochs, "arms": content}, indent=1) + "\n")
    print(table(content))


def table(content: dict) -> str:
    lines = ["| model | AUC without token | token agrees | token disagrees | the token | the border | the finding |"]
    lines.append("|---|---|---|---|---|---|---|")
    for finding in PLANTED:
        for arm in content:
            one = content[arm][finding]
            regions = one["regions"]
            cells = [regions[r]["verdict"] for r in ("cue:token", "border:0.10", "mask:label")]
            aucs = [f"{one['aucs'][k]:.2f}" for k in ("clean", "aligned", "anti_aligned")]
            lines.append(f"| {finding}, {arm} | {' | '.join([*aucs, *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
