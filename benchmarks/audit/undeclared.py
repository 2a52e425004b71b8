"""What does an audit say about a border in which an undeclared cue lies?

The networks are those of the planted benchmark: trained with the cue on 95 % of the images with the label and 5 % of
the others (planted), or without any cue (none). The cohort has the cue on half of the images, with and without the
label, but the audit has no column for it, and tests the border alone.

    python benchmarks/audit/undeclared.py --runs 20 --workers 2 --out benchmarks/audit/undeclared.json
    python benchmarks/audit/undeclared.py --table benchmarks/audit/undeclared.json > benchmarks/audit/undeclared.md
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import planted
import torch

ARMS = {
    ("planted", "corner"): (0.05, 0.95),
    ("planted", "moving"): (0.05, 0.95),
    ("none", "corner"): (0.0, 0.0),
}


def run(job):
    arm, cue, seed = job
    torch.set_num_threads(1)
    net = planted.trained(planted.HEADS[seed % 2], cue, ARMS[arm, cue], seed)
    shown = cue if arm == "planted" else None
    found = {n: planted.audited(net, shown, n, seed, declared=False)["verdicts"]["border:0.15"] for n in (20, 70)}
    return {"arm": arm, "cue": cue, "seed": seed, "index": planted.index_of(net, cue, seed), "verdicts": found}


def table(results):
    """The figures as Markdown."""
    print("# A border with an undeclared cue\n")
    print(f"{len(results)} networks. The cue is balanced in the cohort, and no column names it.\n")
    print("| network | cue in the cohort | patients | networks | verdicts on the border |")
    print("|---|---|---|---|---|")
    groups = defaultdict(Counter)
    for result in results:
        for patients, verdict in result["verdicts"].items():
            shown = result["cue"] if result["arm"] == "planted" else "none"
            groups[f"cue {result['arm']}", shown, int(patients)][verdict] += 1
    for group, counts in sorted(groups.items()):
        said = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        print("| " + " | ".join(map(str, (*group, counts.total(), said))) + " |")


def jobs(runs):
    """Networks, arm by arm in turn, so that a run that is stopped is balanced."""
    return [(*arm, 5000 + seed) for seed, arm in itertools.product(range(runs), ARMS)]


if __name__ == "__main__":
    planted.main(__doc__, "undeclared.json", run=run, jobs=jobs, table=table)
