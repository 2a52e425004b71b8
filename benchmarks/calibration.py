"""How often the study's tests reject and its intervals cover, on simulated cohorts; writes calibration.md.

Run: OMP_NUM_THREADS=1 python benchmarks/calibration.py (about 10 minutes on one core).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import stats
from scipy.special import expit

from camscope.statistics import clustered
from camscope.statistics.auc import Scored, auc_difference, auc_interval
from camscope.statistics.calibration import bin_index, calibration_error
from camscope.statistics.hypotheses import max_statistic, patient_means, sign_flip, tost
from camscope.statistics.intervals import bootstrap, exact_interval, mean, ratio
from camscope.study.clusters import associations, cluster_maps

COHORTS, REPLICATES, SIZES = 2000, 999, (20, 70, 200)


def correlated(draw, m, *, correlation=0.5):
    """Mean 0, SD 1, for 2 to 4 images of each patient."""
    patients = np.repeat(np.arange(m), draw.integers(2, 5, m))
    own, rest = draw.normal(size=m)[patients], draw.normal(size=len(patients))
    return np.sqrt(correlation) * own + np.sqrt(1 - correlation) * rest, patients


def skewed(draw, m):
    """Log-normal, SD of the logarithm 0.7, less its mean."""
    values, patients = correlated(draw, m)
    return np.exp(0.7 * values) - np.exp(0.245), patients


def enrichment(draw, m):
    """Mass and area shares with enrichment 1.5."""
    values, patients = correlated(draw, m)
    area = 0.1 + 0.2 * draw.random(m)[patients]
    return np.column_stack([1.5 * area * np.exp(0.7 * values - 0.245), area]), patients


def scored(draw, m, *, effect, share=0.4):
    """A finding that one image in ten shows otherwise than the rest of the patient; AUC = Phi(effect / sqrt 2)."""
    values, patients = correlated(draw, m)
    truth = (draw.random(m) < share)[patients] ^ (draw.random(len(patients)) < 0.1)
    return Scored(values + effect * truth, truth, patients)


def percent(count, total):
    found = exact_interval(int(count), int(total))
    return f"{100 * found.estimate:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def table(title, columns, rows):
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    print("\n".join(lines), "\n", flush=True)
    return [*lines, ""]


def rejections():
    """Type-I error in %, at a nominal 5 %."""
    kinds = {
        "normal, correlation 0": lambda draw, m: correlated(draw, m, correlation=0),
        "normal, correlation .5": correlated,
        "normal, correlation .8": lambda draw, m: correlated(draw, m, correlation=0.8),
        "log-normal, correlation .5": skewed,
    }
    rows = []
    for kind, cohort in kinds.items():
        for m in SIZES:
            draw, counts = np.random.default_rng(m), np.zeros(3)
            for seed in range(COHORTS):
                values, patients = cohort(draw, m)
                means = patient_means(values, patients)
                ours = sign_flip(means, seed=seed, replicates=REPLICATES)
                others = [stats.ttest_1samp(x, 0).pvalue for x in (means, values)]
                counts += np.array([ours, *others]) <= 0.05
            rows.append([kind, m, *(percent(count, COHORTS) for count in counts)])
    return table(
        "Type-I error of tests of mean 0, % (nominal 5)",
        ["images", "patients", "sign flips of patient means", "t test of patient means", "t test of images (naive)"],
        rows,
    )


def percentile(values, patients, *, statistic, draw):
    """The plain interval, for comparison."""
    m = int(patients.max()) + 1
    counts = draw.multinomial(m, np.full(m, 1 / m), REPLICATES)[:, patients] / np.bincount(patients)[patients]
    return np.quantile(statistic(values, counts), [0.025, 0.975])


def coverage():
    kinds = {
        "mean, normal": (correlated, mean, 0.0),
        "mean, log-normal": (skewed, mean, 0.0),
        "enrichment": (enrichment, ratio, 1.5),
    }
    rows = []
    for kind, (cohort, statistic, true) in kinds.items():
        for m in SIZES:
            draw, counts, widths = np.random.default_rng(m), np.zeros(4), np.zeros(4)
            unexpanded = 2 * stats.t.cdf(stats.norm.ppf(0.975) * np.sqrt((m - 1) / m), m - 1) - 1
            for seed in range(COHORTS):
                values, patients = cohort(draw, m)
                options = {"statistic": statistic, "seed": seed, "replicates": REPLICATES}
                ours, bca, naive = (
                    bootstrap(values, unit, level=level, **options)
                    for unit, level in ((patients, 0.95), (patients, unexpanded), (range(len(patients)), 0.95))
                )
                plain = percentile(values, patients, statistic=statistic, draw=draw)
                ends = np.array([(ours.low, ours.high), (bca.low, bca.high), plain, (naive.low, naive.high)])
                counts += (ends[:, 0] <= true) & (true <= ends[:, 1])
                widths += ends[:, 1] - ends[:, 0]
            rows.append([kind, m, *(percent(count, COHORTS) for count in counts), f"{widths[0] / COHORTS:.2f}"])
    columns = [
        "statistic",
        "patients",
        "ours: expanded BCa",
        "BCa",
        "percentile",
        "over images (naive)",
        "width of ours",
    ]
    return table("Coverage of the bootstrap, % (nominal 95)", columns, rows)


def areas():
    rows = []
    for effect, share in ((0, 0.4), (1, 0.4), (2, 0.4), (2, 0.15), (3, 0.4)):
        true = stats.norm.cdf(effect / np.sqrt(2))
        for m in SIZES:
            draw, ours, naive, none = np.random.default_rng(m), 0, 0, 0
            for _ in range(COHORTS):
                cases = scored(draw, m, effect=effect, share=share)
                one = auc_interval(cases.scores, cases.truth, patients=cases.patients)
                other = auc_interval(cases.scores, cases.truth, patients=range(len(cases.scores)))
                none += np.isnan(one.low)
                ours += one.low <= true <= one.high
                naive += other.low <= true <= other.high
            rows.append([f"{true:.3f}", share, m, percent(ours, COHORTS - none), percent(naive, COHORTS), none])
    columns = ["AUC", "share of positives", "patients", "ours: over patients", "over images (naive)", "no interval"]
    return table("Coverage of the interval of the AUC, % (nominal 95)", columns, rows)


def differences():
    rows, cohorts = [], COHORTS // 2
    for effects in ((1, 1), (2, 0), (3, -3)):
        true = np.subtract(*stats.norm.cdf(np.array(effects) / np.sqrt(2)))
        for m in SIZES:
            draw, inside, none = np.random.default_rng(m), 0, 0
            for seed in range(cohorts):
                one, other = (scored(draw, m, effect=effect) for effect in effects)
                found = auc_difference(one, other, seed=seed, replicates=REPLICATES)
                none += np.isnan(found.low)
                inside += found.low <= true <= found.high
            rows.append([f"{true:.3f}", m, percent(inside, cohorts - none), none])
    columns = ["difference", "patients, who have cases in both sets", "coverage", "no interval"]
    return table("Coverage of the interval of a difference of AUCs, % (nominal 95)", columns, rows)


def equivalence():
    rows = []
    for m in SIZES:
        draw, counts, margins = np.random.default_rng(m), np.zeros(2), []
        for _ in range(COHORTS):
            effects = draw.normal(0, 0.5, m)
            counts += [tost(effects + shift, delta=0.1).p <= 0.05 for shift in (0.1, 0)]
            margins.append(tost(effects, delta=0.1).smallest_delta)
        rows.append([m, *(percent(count, COHORTS) for count in counts), f"{np.median(margins):.2f}"])
    columns = ["patients", "passes, effect = delta", "passes, effect = 0", "median smallest delta, effect = 0"]
    return table("Equivalence inside 0.10, SD of patients' effects 0.5, % passed", columns, rows)


def families():
    rows, cohorts = [], COHORTS // 2
    for m in SIZES:
        draw, any_cell, any_naive, linked = np.random.default_rng(m), 0, 0, np.zeros(2)
        for seed in range(cohorts):
            maps = draw.normal(size=(m, 7, 7))
            any_cell += (max_statistic(maps, seed=seed, replicates=199) <= 0.05).any()
            any_naive += (stats.ttest_1samp(maps, 0).pvalue <= 0.05).any()
            (values, patients), own = correlated(draw, m), draw.normal(size=m)
            metadata = {"constant": own[patients], "varying": own[patients] + draw.normal(size=len(patients))}
            found = associations(values > 0.3, metadata, patients=patients, seed=seed, replicates=199)
            linked += [one.p <= 0.05 for one in found]
        rows.append([m, *(percent(count, cohorts) for count in (any_cell, any_naive, *linked))])
    columns = ["patients", "any of 49 cells, max-statistic", "any of 49 cells, uncorrected t"]
    columns += ["association, constant in a patient", "association, varying in a patient"]
    return table("Type-I error of maps and associations, % (nominal 5)", columns, rows)


def focus(draw, places, *, noise, size=7):
    y, x = np.mgrid[:size, :size]
    tops, lefts = np.moveaxis(places, -1, 0)[..., None, None]
    return np.exp(-((y - tops) ** 2 + (x - lefts) ** 2) / 2) + noise * draw.random((len(places), size, size))


def heat(draw, m, kind):
    """Maps of a cohort of a kind, and the patients."""
    patients = np.repeat(np.arange(m), draw.integers(2, 5, m))
    jitter = 0.35 * draw.normal(size=(len(patients), 2))
    centres = {
        "one focus": [(3, 3)],
        "two foci": [(2, 3), (5, 3)],
        "three foci": [(1, 3), (5, 1), (5, 5)],
        "two foci, one in 15 % of patients": [(3, 3)] * 17 + [(0, 0)] * 3,
    }
    if kind == "noise":
        return draw.normal(size=(m, 7, 7))[patients] + draw.normal(size=(len(patients), 7, 7)), patients
    if kind == "a focus anywhere on a line":
        places = np.column_stack([draw.uniform(0, 6, m), np.full(m, 3)])
    elif kind == "a focus anywhere":
        places = draw.uniform(0, 6, (m, 2))
    else:
        places = np.array(centres[kind])[draw.integers(0, len(centres[kind]), m)]
    return focus(draw, places[patients] + jitter, noise=0.3), patients


def clusters():
    rows, runs = [], 50
    kinds = ["noise", "one focus", "two foci", "three foci", "two foci, one in 15 % of patients"]
    for kind in [*kinds, "a focus anywhere", "a focus anywhere on a line"]:
        for m in (20, 70):
            draw = np.random.default_rng(m)
            cohorts = (heat(draw, m, kind) for _ in range(runs))
            found = [cluster_maps(*cohort, seed=seed, replicates=20) for seed, cohort in enumerate(cohorts)]
            shares = np.bincount([one.number for one in found], minlength=5)
            rows.append([kind, m, *shares[1:4], shares[4:].sum()])
    columns = ["maps", "patients", "no stable clusters", "2", "3", "4 or more"]
    return table(f"Clusters found in {runs} cohorts", columns, rows)


def _differs(success, first, patients):
    return clustered.difference_p(*(clustered.share(success, of, patients) for of in (first, ~first))) < 0.05


def shares():
    """Shares of images of patients who are alike: ours beside a bootstrap over patients; and p of a difference of 0."""
    rows = []
    for true in (0.6, 0.85, 0.95):
        for m in (10, 25, 70):
            draw, counts, runs = np.random.default_rng(m), np.zeros(4), COHORTS // 4
            for seed in range(runs):
                patients = np.repeat(np.arange(m), draw.integers(1, 6, m))
                success = draw.random(len(patients)) < draw.beta(true * 7 / 3, (1 - true) * 7 / 3, m)[patients]
                ours = clustered.share(success, np.ones(len(success)), patients).interval()
                plain = bootstrap(success, patients, seed=seed, weigh="cases", replicates=REPLICATES)
                counts[:2] += [found.low <= true <= found.high for found in (ours, plain)]
                for n, first in enumerate((patients % 2 == 0, np.arange(len(patients)) % 2 == 0)):
                    counts[2 + n] += _differs(success, first, patients)
            rows.append([true, m, *(percent(count, runs) for count in counts)])
    columns = [
        "share",
        "patients",
        "covers: ours",
        "covers: bootstrap",
        "p < .05, other patients",
        "p < .05, same patients",
    ]
    return table("Shares of images, correlation .3 within a patient, and differences of 0, %", columns, rows)


def calibration_errors():
    """The expected calibration error of log-odds slope * x + shift, where the truth has the log-odds x."""

    def cohort(draw, m):
        values, patients = correlated(draw, m)
        # Most of the images of a patient share their luck.
        luck = np.where(draw.random(len(patients)) < 0.6, draw.random(m)[patients], draw.random(len(patients)))
        return 1.3 * values, luck < expit(1.3 * values), patients

    rows = []
    for slope, shift in ((1, 0), (1.5, 0), (1, 0.5), (3, 1)):
        x, _, _ = cohort(np.random.default_rng(0), 200_000)
        p = expit(slope * x + shift)
        true = np.abs(np.bincount(bin_index(p), p - expit(x))).sum() / len(p)
        for m in SIZES:
            draw, counts, errors, runs = np.random.default_rng(m), np.zeros(2), np.zeros(2), COHORTS // 4
            for seed in range(runs):
                x, truth, patients = cohort(draw, m)
                found = calibration_error(expit(slope * x + shift), truth, patients, seed=seed, replicates=REPLICATES)
                counts += [found.error.low <= true <= found.error.high, found.p < 0.05]
                errors += [found.error.estimate / runs, found.chance / runs]
            rows.append(
                [
                    f"{slope}, {shift}",
                    m,
                    f"{true:.3f}",
                    *(f"{e:.3f}" for e in errors),
                    *(percent(c, runs) for c in counts),
                ]
            )
    columns = ["slope, shift", "patients", "true ECE", "mean ECE", "mean of chance", "covers, %", "p < .05, %"]
    return table("Expected calibration error", columns, rows)


def main():
    lines = [
        "# Calibration of the study's statistics",
        "",
        "Simulated cohorts: 2 to 4 images a patient, correlation .5 within a patient unless said;",
        f"{COHORTS} cohorts a row (half as many for differences, maps and associations,",
        "a quarter for shares and calibration errors),",
        f"{REPLICATES} replicates (199 for maps and associations).",
        "In brackets the exact 95 % interval of the share of cohorts. Made by `python benchmarks/calibration.py`.",
        "",
    ]
    for part in (rejections, coverage, areas, differences, equivalence, families, clusters, shares, calibration_errors):
        lines += part()
    Path(__file__).with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
