"""The planted benchmark under other designs: weak cues, few positives, few or many patients, noisy labels and more.

The truth about a network is its reliance index on 2,000 fresh images: the AUC where the cue points to the right label
minus the AUC where it points to the wrong one. Power is the share of RELIES among networks with an index of at least
0.10; a RELIES is false if the index is below 0.02.

    python benchmarks/audit/designs.py --runs 20 --workers 2 --out benchmarks/audit/designs.json
    python benchmarks/audit/designs.py --table benchmarks/audit/designs.json > benchmarks/audit/designs.md
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import planted
import torch

USED = 0.10


@dataclass(frozen=True)
class Design:
    """How networks of one design are trained, and what cohort they are audited on."""

    cue: str = "corner"
    chances: tuple[float, float] = (0.05, 0.95)
    patients: int = 70
    training: dict[str, object] = field(default_factory=dict)
    cohort: dict[str, object] = field(default_factory=dict)


DESIGNS = {
    **{f"strength .{s}": Design(chances=(1 - s / 100, s / 100)) for s in (55, 65, 75, 85, 95)},
    **{f"{n} patients": Design(patients=n) for n in (15, 30, 200)},
    **{f"{p} % positives": Design(cohort={"prevalence": p / 100}) for p in (5, 10, 25)},
    **{f"{n} images per patient": Design(cohort={"images": n}) for n in (1, 10)},
    "cue in 20 % of positives": Design(chances=(0.0, 0.2), cohort={"chances": (0.0, 0.2)}),
    "cue in positives only": Design(chances=(0.0, 0.9), cohort={"chances": (0.0, 0.5)}),
    "moving cue": Design(cue="moving"),
    "saturated": Design(training={"epochs": 40}),
    "half disease, half cue": Design(training={"half": True}),
    "two cues, one undeclared": Design(training={"second": (0.1, 0.9)}, cohort={"second": True}),
    "label noise 10 %": Design(training={"noise": 0.1}),
    "cue never trained": Design(chances=(0.0, 0.0)),
    "cue independent": Design(chances=(0.5, 0.5)),
}


def run(job):
    name, seed = job
    torch.set_num_threads(1)
    design = DESIGNS[name]
    net = planted.trained(planted.HEADS[seed % 2], design.cue, design.chances, seed, **design.training)
    found = planted.audited(net, design.cue, design.patients, seed, **design.cohort)
    verdicts = {region: found["verdicts"].get(region) for region in planted.SHORTCUTS}
    return {"design": name, "seed": seed, "index": planted.index_of(net, design.cue, seed), "verdicts": verdicts}


def table(results):
    """The figures as Markdown."""
    print("# The planted benchmark under other designs\n")
    print(f"{len(results)} networks. The index is the true reliance index of the networks (median).\n")
    print("| design | networks | index | RELIES if index >= 0.10 | RELIES if index < 0.02 | verdicts on the cue |")
    print("|---|---|---|---|---|---|")
    designs = defaultdict(list)
    for result in results:
        designs[result["design"]].append(result)
    for name, members in designs.items():
        used = [m for m in members if abs(m["index"]) >= USED]
        unused = [m for m in members if abs(m["index"]) < planted.UNUSED]
        counts = Counter(m["verdicts"]["cue:token"] for m in members)
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
        index = np.median([m["index"] for m in members])
        print(f"| {name} | {len(members)} | {index:.2f} | {_relies(used)} | {_relies(unused)} | {verdicts} |")
    unused = [m for m in results if abs(m["index"]) < planted.UNUSED]
    print(f"\nFalse RELIES over all designs: {_relies(unused)}.")


def _relies(members):
    return planted.rate(sum(m["verdicts"]["cue:token"] == "RELIES" for m in members), len(members))


def jobs(runs):
    """Networks, design by design in turn, so that a run that is stopped is balanced."""
    return [(name, 1000 + seed) for seed, name in itertools.product(range(runs), DESIGNS)]


if __name__ == "__main__":
    planted.main(__doc__, "designs.json", run=run, jobs=jobs, table=table)
