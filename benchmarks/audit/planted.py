"""The planted benchmark: does the audit convict the models that rely on a cue, and only those?

Small networks are trained on generated images with a disease (a faint blob) and a cue, in three arms: A, the cue is
independent of the label; B, P(cue | label) = strength, P(cue | no label) = 1 - strength; C, no cue. Each is then
audited on a cohort in which cue and label are independent (arm C: without cue), by the package's own functions.

The truth about a network is its reliance index on 2,000 fresh images: the AUC where the cue points to the right label
minus the AUC where it points to the wrong one. By chance, some networks of arm A do use the cue; a RELIES on it, or on
the border in which it lies, is false if the index is between -0.02 and 0.02.

    python benchmarks/audit/planted.py --runs 20 --workers 2 --out benchmarks/audit/planted.json
    python benchmarks/audit/planted.py --table benchmarks/audit/planted.json > benchmarks/audit/planted.md
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

import camscope as cs
from camscope.audit.alignment import alignments_of, cue_alignment, direction_of
from camscope.audit.interventions import LARGE, RegionEditor, scored
from camscope.audit.measures import adjusted, adjusted_responses, effects, responses
from camscope.audit.samples import AuditSample, PatchDonors
from camscope.audit.settings import AuditSettings
from camscope.audit.verdicts import judge
from camscope.cohort.case import Case
from camscope.cohort.regions import Scene, cell_shares, evidence, region, visible_shares
from camscope.images import Window
from camscope.statistics.auc import auc
from camscope.statistics.intervals import exact_interval

SIDE, IMAGES, TRAINED, EPOCHS, CONTRAST = 64, 3, 480, 8, 0.12
CUES, HEADS, PATIENTS = ("corner", "moving", "texture"), ("linear", "layer norm"), (20, 70, 200)
SHORTCUTS = ("cue:token", "border:0.15")
SETTINGS = AuditSettings(replicates=1999)
FRESH, UNUSED = 2000, 0.02


def picture(draw, *, disease, cue, second=False):
    """One image (64, 64) in [0, 1] with the mask of its disease and of its cue, each None where it is not there.

    ``second`` adds a second cue, a fine texture, that no mask marks.
    """
    pixels = 0.45 + 0.12 * ndimage.gaussian_filter(draw.standard_normal((SIDE, SIDE)), 6) * 6
    pixels += 0.03 * draw.standard_normal((SIDE, SIDE))
    lesion = token = None
    rows, columns = np.mgrid[:SIDE, :SIDE]
    if disease:
        y, x = draw.uniform(20, 44, 2)
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 32)
        pixels += CONTRAST * blob
        lesion = blob > 0.3
    if cue:
        token = np.zeros((SIDE, SIDE), bool)
        if cue == "corner":
            token[2:9, 2:9] = True
            pixels[2:9, 2:9] = np.eye(7) * 0.5 + 0.4
        elif cue == "moving":
            along = int(draw.integers(2, SIDE - 9))
            y, x = [(2, along), (SIDE - 9, along), (along, 2), (along, SIDE - 9)][draw.integers(4)]
            token[y : y + 7, x : x + 7] = True
            pixels[y : y + 7, x : x + 7] = np.eye(7) * 0.5 + 0.4
        else:
            token = _textured(draw, pixels)
    if second:
        _textured(draw, pixels)
    return pixels.clip(0, 1).astype(np.float32), lesion, token


def _textured(draw, pixels):
    """Add a texture to a random square of an image, and return the mask of the square."""
    y, x = draw.integers(1, SIDE - 13, 2)
    token = np.zeros((SIDE, SIDE), bool)
    token[y : y + 12, x : x + 12] = True
    rows, columns = np.nonzero(token)
    pixels[token] += 0.1 * (-1.0) ** (rows + columns)
    return token


def network(head):
    norm = [nn.LayerNorm(32)] if head == "layer norm" else []
    return nn.Sequential(
        *[nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, 1)],
        *[nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *norm, nn.Linear(32, 1)],
    )


def trained(head, cue, chances, seed, *, epochs=EPOCHS, noise=0.0, second=None, half=False):
    """A network trained on images in which the cue stands with chances[label]; a share of the labels is wrong.

    ``second`` has the chances of a second cue. ``half``: each present case has the disease or the cue, in turn.
    """
    draw = np.random.default_rng([seed, 1])
    truth = np.arange(TRAINED) % 2 == 1
    made = []
    for number, present in enumerate(truth):
        by_cue = half and number // 2 % 2 == 1
        has_cue = present and by_cue if half else draw.random() < chances[int(present)]
        has_second = second is not None and draw.random() < second[int(present)]
        made.append(picture(draw, disease=present and not by_cue, cue=cue if has_cue else None, second=has_second)[0])
    x = torch.from_numpy(np.stack(made))[:, None] * 4 - 2
    y = torch.from_numpy(truth ^ (np.random.default_rng([seed, 3]).random(TRAINED) < noise)).float()
    return fitted(lambda: network(head), x, y, seed, epochs=epochs)


def fitted(build, x, y, seed, *, epochs=EPOCHS):
    """A network fitted to inputs (n, 1, h, w) and labels (n,)."""
    torch.manual_seed(seed)
    net = build()
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * (len(x) // 24))
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(24):
            loss = F.binary_cross_entropy_with_logits(net(x[batch])[:, 0], y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def cohort(cue, patients, seed, *, images=IMAGES, prevalence=0.5, chances=(0.5, 0.5), second=False):
    """Subjects of a cohort; by default three images per patient, and label and cue are independent."""
    draw = np.random.default_rng([seed, 2, patients])
    window, subjects = Window.whole((SIDE, SIDE)), []
    present = set(np.linspace(0, patients - 1, max(1, round(prevalence * patients))).round().astype(int).tolist())
    for number in range(patients * images):
        truth = bool(number // images % 2) if prevalence == 0.5 else number // images in present
        has_cue, has_second = draw.random() < chances[int(truth)], second and draw.random() < 0.5
        pixels, lesion, token = picture(draw, disease=truth, cue=cue if has_cue else None, second=has_second)
        masks, cues = {"label": lambda m=lesion: m}, {"token": lambda m=token: m}
        scene = Scene((SIDE, SIDE), window, pixels[..., None], masks, cues)
        found = {name: mask for name in ("mask:label", *SHORTCUTS) if (mask := region(name, scene)) is not None}
        case = Case(
            number,
            number,
            "",
            "",
            f"P{number // images}",
            (),
            "",
            {"disease": truth},
            cues={"token": token is not None},
        )
        grown = {name: ndimage.binary_dilation(m) if ":0" not in name else m for name, m in found.items()}
        declared = {name: mask for name, mask in grown.items() if name in ("mask:label", "cue:token")}
        shares = {name: cell_shares(mask, window, (8, 8)) for name, mask in found.items()}
        seen = np.ones((SIDE, SIDE), bool)
        x = pixels[None] * 4 - 2
        subjects.append(
            AuditSample(
                case,
                truth,
                x,
                seen,
                masks=grown,
                declared=declared,
                shares=shares,
                visible_cells=visible_shares(window, (8, 8)),
            )
        )
    return subjects


def without_cue(subject):
    """The subject as an audit knows it that was not told of the cue."""
    kept = {
        kind: {name: value for name, value in getattr(subject, kind).items() if name != "cue:token"}
        for kind in ("masks", "declared", "shares")
    }
    return replace(subject, case=replace(subject.case, cues={}), **kept)


def audited(net, cue, patients, seed, *, declared=True, **design):
    """The verdict on each region, and what the plain rule about heat in the border says.

    ``declared``: whether the audit knows of the cue.
    """
    subjects = cohort(cue, patients, seed, **design)
    if not declared:
        subjects = [without_cue(subject) for subject in subjects]
        cue = None

    def score(inputs):
        with torch.no_grad():
            return net(torch.from_numpy(inputs))[:, 0].double().numpy()

    inputs = np.stack([s.x for s in subjects])
    logits = score(inputs)
    rows = pl.DataFrame(
        {
            "case": [s.case.number for s in subjects],
            "patient": [s.case.patient for s in subjects],
            "truth": [s.truth for s in subjects],
            "log_odds": logits,
        }
        | ({"cue:token": [s.case.cues["token"] for s in subjects]} if cue else {})
    )
    regions = ("mask:label", *(SHORTCUTS if cue else SHORTCUTS[1:]))
    large = [r for r in regions if np.mean([s.masks[r].mean() for s in subjects if r in s.masks]) > LARGE]
    donors = PatchDonors(subjects, seed=seed)
    disease = {"lesions": ("mask:label",), "disease": ("mask:label",)}
    editor = RegionEditor(regions, donors, inputs.mean(0), seed, large=large, objects=("cue:token",), **disease)
    edits = (edit for s in subjects for edit in editor.edits(s))
    changes, _ = scored(edits, score=score, log_odds=dict(enumerate(logits.tolist())))
    found = adjusted({"disease": effects(rows, changes, settings=SETTINGS)})["disease"]
    swapped = adjusted_responses({"disease": responses(rows, changes, settings=SETTINGS)})["disease"]
    verdicts = {}
    cues = {"cue:token": cue_alignment(rows, "cue:token", settings=SETTINGS)} if cue else {}
    directions = {name: direction_of(rows, name, settings=SETTINGS) for name in cues}
    on_cues = {"unedited": cues, "directions": directions, "threshold": 0.0}
    for name in regions:
        judged = judge(
            *("disease", name, "shortcut"),
            effects=found.get(name, ()),
            heat=None,
            responses=swapped.get(name, ()),
            alignments=alignments_of(rows, name, changes, **on_cues, settings=SETTINGS),
            untestable="too few",
            delta=SETTINGS.delta,
        )
        verdicts[name] = judged.verdict
    positive = [i for i, s in enumerate(subjects) if s.truth and logits[i] > 0]
    share = area = float("nan")
    if positive:
        maps = cs.cam(net, torch.from_numpy(inputs[positive]), targets=0).numpy()
        seen = [
            evidence(m, subjects[i].shares["border:0.15"], subjects[i].visible_cells)
            for m, i in zip(maps, positive, strict=True)
        ]
        share, area = float(np.nanmean([e.mass for e in seen])), seen[0].area
    truth = rows["truth"].to_numpy()
    return {"verdicts": verdicts, "auc": auc(logits, truth), "border_share": share, "border_area": area}


def index_of(net, cue, seed):
    """The AUC of a network where the cue points to the right label minus that where it does not, on fresh images."""
    draw = np.random.default_rng([seed, 4])
    truth, has = (np.arange(FRESH) // n % 2 == 1 for n in (1, 2))
    made = [picture(draw, disease=t, cue=cue if h else None)[0] for t, h in zip(truth, has, strict=True)]
    with torch.no_grad():
        scores = net(torch.from_numpy(np.stack(made))[:, None] * 4 - 2)[:, 0].double().numpy()
    agrees = has == truth
    return float(auc(scores[agrees], truth[agrees]) - auc(scores[~agrees], truth[~agrees]))


def run(job):
    arm, strength, cue, head, seed, sizes = job
    torch.set_num_threads(1)
    chances = {"A": (0.5, 0.5), "B": (1 - (strength or 0.5), strength or 0.5), "C": (0.0, 0.0)}[arm]
    net = trained(head, cue, chances, seed)
    found = {patients: audited(net, cue, patients, seed) for patients in sizes}
    index = index_of(net, cue, seed) if cue else 0.0
    return {"arm": arm, "strength": strength, "cue": cue, "head": head, "seed": seed, "index": index, "sizes": found}


def jobs(runs):
    """Networks, cell by cell in turn, so that a run that is stopped is balanced; other sizes in every fourth turn."""
    seeds = itertools.count(1)
    for turn in range(runs):
        sizes = PATIENTS if turn % 4 == 0 else PATIENTS[1:2]
        for head in HEADS:
            for cue in CUES:
                yield "A", None, cue, head, next(seeds), sizes
                yield "B", 0.95, cue, head, next(seeds), sizes
                yield "C", None, None, head, next(seeds), sizes
                if turn % 4 == 0:
                    yield "B", 0.85, cue, head, next(seeds), sizes
                    yield "B", 0.75, cue, head, next(seeds), sizes


def table(results):
    """The figures as Markdown."""
    print("# The planted benchmark\n")
    print(f"{len(results)} networks. Arms: A cue independent of the label, B cue planted, C no cue.\n")
    print("| arm | patients | runs | RELIES on the cue | RELIES on the border | heat rule says border |")
    print("|---|---|---|---|---|---|")
    groups = defaultdict(list)
    for result in results:
        arm = result["arm"] + (f" {result['strength']}" if result["strength"] else "")
        for patients, one in result["sizes"].items():
            groups[arm, int(patients)].append(one | {"unused": result["arm"] != "B" and abs(result["index"]) < UNUSED})
    for (arm, patients), ones in sorted(groups.items()):
        cells = [arm, patients, len(ones)]
        for name in SHORTCUTS:
            relies = sum(one["verdicts"].get(name) == "RELIES" for one in ones)
            known = sum(name in one["verdicts"] for one in ones)
            cells.append(rate(relies, known))
        heat = [one["border_share"] > one["border_area"] for one in ones if not np.isnan(one["border_share"])]
        cells.append(rate(sum(heat), len(heat)))
        print("| " + " | ".join(map(str, cells)) + " |")
    print()
    for size in PATIENTS:
        clean = [one for (_, patients), ones in groups.items() if patients == size for one in ones if one["unused"]]
        wrong = sum("RELIES" in [one["verdicts"].get(name) for name in SHORTCUTS] for one in clean)
        print(f"False RELIES, {size} patients, arms A and C without use of the cue, either region:")
        print(f"{rate(wrong, len(clean))}.")
    planted = [one for (arm, patients), ones in groups.items() if arm == "B 0.95" and patients == 70 for one in ones]
    right = sum(one["verdicts"]["cue:token"] == "RELIES" for one in planted)
    print(f"Power in arm B at strength .95, 70 patients: {rate(right, len(planted))}.\n")
    print(
        "RELIES on the border is no error in arm B, whose models use a cue that may lie there. The heat rule: the mean"
    )
    print("share of Grad-CAM in the border of present and predicted cases is above the border's share of the image. It")
    print("cannot see a cue that lies elsewhere (texture), and tells nothing of the cue as such.")
    print("\n## Verdicts on the cue, by cue and head (70 patients)\n")
    print("| arm | cue | head | AUC | verdicts |")
    print("|---|---|---|---|---|")
    cells = defaultdict(list)
    for r in results:
        arm = r["arm"] + (f" {r['strength']}" if r["strength"] else "")
        cells[arm, str(r["cue"]), r["head"]].append(r["sizes"]["70"] if "70" in r["sizes"] else r["sizes"][70])
    for (arm, cue, head), ones in sorted(cells.items()):
        region_ = "cue:token" if cue != "None" else "border:0.15"
        counts = Counter(one["verdicts"][region_] for one in ones)
        said = ", ".join(f"{n} {v}" for v, n in counts.most_common())
        print(f"| {arm} | {cue} | {head} | {np.mean([one['auc'] for one in ones]):.2f} | {said} |")


def rate(count, total):
    """A share with its exact interval, as text."""
    if not total:
        return "-"
    interval = exact_interval(count, total)
    return f"{count}/{total} = {count / total:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def main(description, out, *, run, jobs, table, runs=20):
    """Run the jobs, writing the results after each, or print the table of earlier results.

    Results in the file are those of the first jobs, whose order and seeds never change: only the others are run.

    Args:
        description: the text of ``--help``.
        out: the file of results, unless another is given.
        run: (job) -> result, in a process of its own.
        jobs: (number of networks per cell) -> jobs.
        table: (results) -> None, prints.
        runs: networks per cell, unless another number is given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help="networks per cell")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/audit") / out)
    parser.add_argument("--table", type=Path, help="print the table of earlier results")
    arguments = parser.parse_args()
    if arguments.table:
        table(json.loads(arguments.table.read_text()))
        return
    results, start = json.loads(arguments.out.read_text()) if arguments.out.is_file() else [], time.time()
    with ProcessPoolExecutor(arguments.workers) as pool:
        for result in pool.map(run, itertools.islice(jobs(arguments.runs), len(results), None)):
            results.append(json.loads(json.dumps(result)))
            arguments.out.write_text(json.dumps(results))
            print(f"{len(results)} networks, {time.time() - start:.0f} s", flush=True)
    table(results)


if __name__ == "__main__":
    main(__doc__, "planted.json", run=run, jobs=jobs, table=table)
