"""The planted benchmark for properties of the acquisition: does the audit find the models that rely on one?

Small networks are trained on generated images with a disease (a faint blob) and one property that is set, such as the
contrast, in two arms: A, the property is independent of the label; B, it goes with the label in 95 % of the images.
Each network is audited on a cohort in which the property goes with the label in 75 % of the images, by the package's
own functions; every property is tested, not only the planted one.

    python benchmarks/audit/properties.py --runs 5 --workers 2 --out benchmarks/audit/properties.json
    python benchmarks/audit/properties.py --table benchmarks/audit/properties.json > benchmarks/audit/properties.md
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import planted
import polars as pl
import torch
from PIL import Image
from scipy import ndimage

from camscope.acquisition import PROPERTIES
from camscope.acquisition.detail import _compressed as compressed
from camscope.audit.alignment import alignments_of, cue_alignment
from camscope.audit.interventions import scored
from camscope.audit.measures import adjusted, effects
from camscope.audit.properties import (
    PREFIX,
    TraitReader,
    property_cases,
    property_direction,
    property_edits,
    property_facts,
    untestable_property,
    with_properties,
)
from camscope.audit.samples import PatchDonors
from camscope.audit.settings import AuditSettings
from camscope.audit.verdicts import judge
from camscope.cohort.case import Case
from camscope.models.preprocess import Preprocess
from camscope.statistics.auc import auc

SIDE, IMAGES, PATIENTS, TRAINED, EPOCHS, BLOB, AGREEMENT = 96, 3, 70, 480, 10, 0.12, 0.75
FAINT = {"sharpness": 0.02, "jpeg": 0.02}
"""Height of the blob where networks learn the property only if the disease is hard to see."""
PLANTED = {
    "brightness": lambda x, on, draw: x + (0.06 if on else -0.06),
    "contrast": lambda x, on, draw: x.mean() + (x - x.mean()) * (1.3 if on else 0.8),
    "inversion": lambda x, on, draw: 1 - x if on else x,
    "sharpness": lambda x, on, draw: ndimage.gaussian_filter(x, 1.5) if on else x,
    "noise": lambda x, on, draw: x + (0.05 if on else 0.0) * draw.standard_normal(x.shape),
    "jpeg": lambda x, on, draw: compressed(np.rint(x.clip(0, 1) * 255).astype(np.uint8), 12 if on else 98) / 255,
    "frame": lambda x, on, draw: framed(x, int(draw.integers(6, 12)) if on else 0),
    "marks": lambda x, on, draw: marked(x, draw) if on else x,
    "style": lambda x, on, draw: x + 0.08 * np.cos(np.arange(SIDE) / SIDE * 4 * np.pi) * (1 if on else -1),
}
SETTINGS = AuditSettings(replicates=1999)


def framed(x, width):
    result = np.zeros_like(x)
    if not width:
        return x
    result[width:-width, width:-width] = x[width:-width, width:-width]
    return result


def marked(x, draw):
    result = x.copy()
    y, left = int(draw.integers(3, 9)), int(draw.integers(3, 9))
    result[y : y + 9, left : left + 3] = result[y + 7 : y + 9, left : left + 8] = 1.0
    return result


def picture(draw, *, disease, planted, on):
    """One image (96, 96) in [0, 1] with an outline, structure, a blob and the property; and where the blob is."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    pixels = (
        0.45 - 0.5 * (rows**2 + columns**2) + 0.08 * ndimage.gaussian_filter(draw.standard_normal(rows.shape), 8) * 8
    )
    pixels += 0.03 * ndimage.gaussian_filter(draw.standard_normal(rows.shape), 1) * 2
    blob = np.zeros_like(pixels)
    if disease:
        y, x = draw.uniform(-0.2, 0.2, 2)
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 0.008)
    return PLANTED[planted](pixels + FAINT.get(planted, BLOB) * blob, on, draw).clip(0, 1), blob > 0.1


def trained(name, strength, seed):
    draw = np.random.default_rng([seed, 1])
    truth = np.arange(TRAINED) % 2 == 1
    made = [picture(draw, disease=t, planted=name, on=(draw.random() < strength) == t)[0] for t in truth]
    x = (torch.from_numpy(np.stack(made)).float()[:, None] - 0.5) / 0.25
    return planted.fitted(lambda: planted.network("linear"), x, torch.from_numpy(truth).float(), seed, epochs=EPOCHS)


def cohort(name, seed, folder):
    """Cases of a cohort, three images per patient, with files; the property agrees with the label that often."""
    draw = np.random.default_rng([seed, 2])
    cases, on, blobs = [], [], []
    for number in range(PATIENTS * IMAGES):
        truth = bool(number // IMAGES % 2)
        on.append((draw.random() < AGREEMENT) == truth)
        pixels, blob = picture(draw, disease=truth, planted=name, on=on[-1])
        blobs.append(blob if truth else None)
        path = Path(folder) / f"{number}.png"
        Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(path)
        patient = f"P{number // IMAGES}"
        cases.append(Case(number, number, path.name, str(path), patient, (), "", {"disease": truth}))
    return cases, np.array(on), blobs


def audited(net, planted_name, seed):
    """The verdict on each property, and the AUC where the planted one agrees with the label and where it does not."""
    preprocess = Preprocess(input_size=(SIDE, SIDE), mean=(0.5,), std=(0.25,))

    def score(inputs):
        with torch.no_grad():
            return net(torch.from_numpy(inputs))[:, 0].double().numpy()

    with tempfile.TemporaryDirectory() as folder:
        cases, on, blobs = cohort(planted_name, seed, folder)
        reader = TraitReader(tuple(PROPERTIES), SIDE, lambda case, _: blobs[case.number])
        values = reader.values(cases, progress=lambda done: None)
        known = property_cases(cases, "disease")
        inputs = np.stack([preprocess(reader.pictures(case).full)[0].numpy() for case in cases])
        donors = PatchDonors(known, seed=seed)
        edits = property_edits(known, values, donors=donors, reader=reader, preprocess=preprocess)
        changes, _ = scored(edits, score=score)
    truth = np.array([case.truth["disease"] for case in cases])
    rows = pl.DataFrame(
        {
            "case": [case.number for case in cases],
            "patient": [case.patient for case in cases],
            "group": "",
            "truth": truth,
            "log_odds": score(inputs),
        }
    )
    rows = with_properties(rows, values)
    adjusted_effects = adjusted({"disease": effects(rows, changes, settings=SETTINGS)})["disease"]
    verdicts = {}
    for name, of_name in values.items():
        column = PREFIX + name
        unedited, directions = {}, {}
        if of_name.high:
            directions[column] = property_direction(property_facts(rows, name, of_name))
            unedited[column] = cue_alignment(rows, column, direction=directions[column] or 1, settings=SETTINGS)
        judged = judge(
            *("disease", column, "property"),
            effects=adjusted_effects.get(column, ()),
            heat=None,
            alignments=alignments_of(
                rows, column, changes, unedited=unedited, directions=directions, threshold=0.0, settings=SETTINGS
            ),
            untestable=untestable_property(of_name),
            delta=SETTINGS.delta,
        )
        verdicts[name] = judged.verdict
        verdicts[f"{name} reason"] = judged.reason
    scores = rows["log_odds"].to_numpy()
    agrees = on == truth
    return verdicts, [auc(scores[s], truth[s]) for s in (agrees, ~agrees)]


def run(job):
    name, arm, seed = job
    torch.set_num_threads(1)
    net = trained(name, {"A": 0.5, "B": 0.95}[arm], seed)
    verdicts, aucs = audited(net, name, seed)
    return {"planted": name, "arm": arm, "seed": seed, "aucs": aucs, "verdicts": verdicts}


def table(results):
    """Print the table of the benchmark."""
    print("# Planted properties: the audit's verdicts\n")
    print(
        f"Small networks, {PATIENTS} patients with {IMAGES} images each; arm B was trained with the property on 95 % "
        "of the images with the label and 5 % of the others, arm A on half of each.\n"
    )
    print(
        "AUC: where the property agrees with the label minus where it does not, mean (range), of the cohort's unedited "
        "images.\n"
    )
    print("| property | RELIES in B | RESPONDS in B | AUC in B | RELIES in A | RESPONDS in A | AUC in A |")
    print("|---|---|---|---|---|---|---|")
    groups = defaultdict(list)
    for result in results:
        groups[result["planted"]].append(result)
    for name, group in groups.items():
        cells = []
        for arm in "BA":
            own = [result for result in group if result["arm"] == arm]
            verdicts = [result["verdicts"][name] for result in own]
            cells += [f"{verdicts.count(verdict)} of {len(own)}" for verdict in ("RELIES", "RESPONDS")]
            gaps = [np.subtract(*result["aucs"]) for result in own]
            cells.append(f"{np.mean(gaps):.2f} ({min(gaps):.2f} to {max(gaps):.2f})")
        print(f"| {name} | {' | '.join(cells)} |")
    counts = Counter()
    for result in results:
        for name in PROPERTIES:
            if name != result["planted"]:
                counts[result["arm"], result["verdicts"][name]] += 1
    print("\nVerdicts on the properties that were not planted:\n")
    for arm in "AB":
        total = sum(count for (a, _), count in counts.items() if a == arm)
        print(f"* arm {arm}: RELIES in {planted.rate(counts[arm, 'RELIES'], total)}")


def jobs(runs):
    """Networks, property by property in turn, so that a run that is stopped is balanced."""
    return [(planted, arm, seed) for seed, planted, arm in itertools.product(range(runs), PLANTED, "AB")]


if __name__ == "__main__":
    planted.main(__doc__, "properties.json", run=run, jobs=jobs, table=table, runs=5)
