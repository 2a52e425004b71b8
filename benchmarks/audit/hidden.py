"""Train against a shortcut: the effect of the cue before and after, over five seeds.

    python benchmarks/audit/hidden.py FOLDER [--seeds 5] [--methods NAME ...]
    python benchmarks/audit/hidden.py --table

Small networks learn a finding of the phantoms from radiographs in which a cue goes with the finding: it is present on
95 % of the training images with the finding and on 5 % of those without. The cue is the token near the border, or a
contrast of 0.7 around the median, which also darkens the middle of the image. Each method trains on the same images
from the same random weights. Each network is tested on other patients, rendered with and without the cue, so that the
effect is that of the cue and of nothing else. Writes benchmarks/audit/hidden.json; results that are there are reused.
Prints the table of docs/train.md.

The finding and the network are such that plain training relies on the token. It does not where the finding is easier:
with cardiomegaly, or with timm's test_resnet, the effect of the token was 0.1 to 0.4 SD (one seed each).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from camscope.array_types import Bytes
from camscope.models.loading import load
from camscope.models.model import Model
from camscope.models.preprocess import Preprocess
from camscope.phantoms.cohort import PhantomSpec, grey_bytes, plan_training
from camscope.phantoms.markers import PixelBox
from camscope.statistics.auc import auc
from camscope.statistics.intervals import bootstrap
from camscope.training.dataset import read_dataset
from camscope.training.fit import _read_and_split as split_pictures
from camscope.training.loop import Where, fit_network
from camscope.training.settings import TrainingSettings

FINDING, SIDE, TRAINED, TESTED, EPOCHS, BATCH, RATE = "Effusion", 64, 700, 200, 12, 16, 4e-3
PLANTED, INDEPENDENT = (0.95, 0.05), (0.5, 0.5)
BORDER = ("border:0.15",)
METHODS = {
    "plain": ("token", {}),
    "--hide border:0.15": ("token", {"hide": BORDER}),
    "--exchange border:0.15": ("token", {"exchange": BORDER}),
    "--exchange cue:token_box": ("token", {"exchange": ("cue:token_box",)}),
    "--balance token": ("token", {"balance": "token"}),
    "--group-dro token": ("token", {"group_dro": "token"}),
    "token independent": ("token", {}),
    "contrast, plain": ("contrast", {}),
    "contrast, --exchange contrast": ("contrast", {"exchange": ("contrast",)}),
    "contrast, --exchange contrast and brightness": ("contrast", {"exchange": ("contrast", "brightness")}),
    "contrast, --balance contrast": ("contrast", {"balance": "contrast"}),
    "contrast independent": ("contrast", {}),
}
"""Name -> cue and settings. "Independent" is the goal: the cue is independent of the finding in the training images."""

RESULT = Path(__file__).with_name("hidden.json")


def new_model(seed: int) -> Model:
    """A small network with random weights that follow from the seed."""
    torch.manual_seed(seed)
    stages = [
        [nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU()]
        for i, o, stride in ((1, 12, 2), (12, 24, 2), (24, 32, 2), (32, 32, 1))
    ]
    net = nn.Sequential(*[layer for stage in stages for layer in stage])
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1)])
    return load(net, labels=[FINDING], outcome="any", input_size=SIDE, fit="squash", mean=[0.5], std=[0.25])


def rendered(case: PhantomSpec, cue: str) -> tuple[Bytes, PixelBox | None]:
    """The image (64, 64) of a case, and the box of its token; ``case.token`` says whether the cue is present."""
    made = dataclasses.replace(case, token=case.token and cue == "token").phantom((SIDE, SIDE))
    pixels = grey_bytes(made)
    if cue == "contrast" and case.token:
        median = np.median(pixels)
        pixels = np.rint(median + 0.7 * (pixels - median)).clip(0, 255).astype(np.uint8)
    return pixels, made.token_box


def write_training(folder: Path, seed: int, *, cue: str, planted: tuple[float, float]) -> Path:
    """The training images of a seed as a table: path, patient, split, finding, cue, box of the token."""
    table = folder / f"seed {seed}, {cue} {planted[0]}" / "train.csv"
    if table.is_file():
        return table
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, case in enumerate(plans(seed, planted)):
        pixels, token_box = rendered(case, cue)
        Image.fromarray(pixels).save(table.parent / f"{number}.png")
        # Images with and without the finding alternate.
        split = "train" if number % 20 < 16 else "val" if number % 20 < 18 else "test"
        box = ",".join(map(str, token_box or ()))
        rows.append((f"{number}.png", case.patient_id, split, int(FINDING in case.findings), int(case.token), box))
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "patient", "split", FINDING, cue, "token_box"), *rows])
    return table


def plans(seed: int, planted: tuple[float, float]) -> list[PhantomSpec]:
    """The same AP images for every strength of the cue, which alone is drawn anew."""
    draw = np.random.default_rng([seed, 5])
    return [
        dataclasses.replace(case, token=bool(draw.random() < planted[FINDING not in case.findings]))
        for case in plan_training(FINDING, seed=seed, pictures=TRAINED, token=PLANTED)
    ]


class Held:
    """Patients whom no network was trained on: their images without and with the cue."""

    def __init__(self, cue: str) -> None:
        cases = plan_training(FINDING, seed=1000, pictures=TESTED, token=PLANTED)
        self.present = np.array([FINDING in case.findings for case in cases])
        preprocess = Preprocess(input_size=(SIDE, SIDE), fit="squash", mean=(0.5,), std=(0.25,))
        versions = [[dataclasses.replace(case, token=token) for case in cases] for token in (False, True)]
        made = [[rendered(case, cue)[0] for case in version] for version in versions]
        pixels = torch.from_numpy(np.array(made)[:, :, None] / np.float32(255))
        self.inputs = (pixels - preprocess.mean[0]) / preprocess.std[0]
        self.luck = np.random.default_rng(0).random(len(cases)) < 0.5

    def measure(self, net: torch.nn.Module) -> dict[str, float]:
        """What the cue does to a network of one logit, which is the log-odds of the finding."""
        with torch.inference_mode():
            without, marked = (net(x)[:, 0].double().numpy() for x in self.inputs)
        present = self.present
        sd = float(np.sqrt(np.mean([without[present == value].var(ddof=1) for value in (False, True)])))
        effect = bootstrap((marked - without) / sd, range(len(present)), seed=0, replicates=2000)
        aligned, anti = (np.where(present == value, marked, without) for value in (True, False))
        return {
            "clean": auc(np.where(self.luck, marked, without), present),
            "effect": effect.estimate, "low": effect.low, "high": effect.high,
            "log_odds": float(np.mean(marked - without)), "sd": sd,
            "aligned": auc(aligned, present), "anti": auc(anti, present),
        }  # fmt: skip


def run(folder: Path, method: str, seed: int, held: Held) -> dict[str, float]:
    """Train with a method and measure the effect of the cue."""
    cue, guard = METHODS[method]
    planted = INDEPENDENT if method.endswith("independent") else PLANTED
    table = write_training(folder, seed, cue=cue, planted=planted)
    settings = TrainingSettings(epochs=EPOCHS, patience=EPOCHS, batch_size=BATCH, rate=RATE, seed=seed, **guard)
    data = read_dataset(table, labels=[FINDING], cue=cue)
    model = new_model(seed)
    dataset, pictures = split_pictures(data, model, settings, progress=lambda *_: None)
    # Rotation and shifts take most of the time, and are the same for every method.
    pictures["train"].vary = lambda x, mask: (x, mask)
    begun = time.process_time()
    where, silent = Where("cpu", 1), lambda *_: None
    with tempfile.TemporaryDirectory(dir=folder) as out:
        options = {"out": Path(out), "settings": settings, "learnt": False, "where": where, "progress": silent}
        fit_network(model, dataset, pictures, say=silent, **options)
    return held.measure(model.net) | {"seconds": time.process_time() - begun}


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The mean over the seeds, and the range."""
    heading = "training|AUC|effect, SD|effect, log-odds|AUC aligned - anti|effect gone|processor time"
    lines = [f"| {heading.replace('|', ' | ')} |", f"|{'---|' * 7}"]
    for method, seeds in results.items():
        plain = results["plain" if METHODS[method][0] == "token" else "contrast, plain"]
        columns = [
            [one["clean"] for one in seeds.values()],
            [one["effect"] for one in seeds.values()],
            [one["log_odds"] for one in seeds.values()],
            [one["aligned"] - one["anti"] for one in seeds.values()],
        ]
        gone = [1 - abs(one["effect"]) / abs(plain[seed]["effect"]) for seed, one in seeds.items()]
        time_share = np.mean([one["seconds"] / plain[seed]["seconds"] for seed, one in seeds.items()])
        cells = [f"{np.mean(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in columns]
        cells.append(f"{np.mean(gone):.0%} ({min(gone):.0%} to {max(gone):.0%})" if seeds is not plain else "")
        lines.append(f"| {method} | {' | '.join(cells)} | {time_share:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    results = json.loads(RESULT.read_text())["results"] if RESULT.is_file() else {}
    if not arguments.table:
        torch.set_num_threads(1)
        held = {cue: Held(cue) for cue in sorted({METHODS[method][0] for method in arguments.methods})}
        for seed in range(arguments.seeds):
            for method in arguments.methods:
                if str(seed) in results.get(method, {}):
                    continue
                results.setdefault(method, {})[str(seed)] = run(
                    arguments.folder, method, seed, held[METHODS[method][0]]
                )
                print(seed, method, {k: round(v, 3) for k, v in results[method][str(seed)].items()}, flush=True)
                facts = {
                    "finding": FINDING,
                    "side": SIDE,
                    "images": TRAINED,
                    "tested": TESTED,
                    "epochs": EPOCHS,
                }
                RESULT.write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    print(table({method: results[method] for method in METHODS if method in results}))


if __name__ == "__main__":
    main()
