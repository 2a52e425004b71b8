"""Write the limitations, the methods section and the references of a report, with the numbers of the study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from camscope.cohort.store import FAILED, OK
from camscope.errors import MethodError
from camscope.explanation.method_lookup import find_method
from camscope.methods import facts_of
from camscope.page.words import number
from camscope.report.performance import REPLICATES
from camscope.report.results import Results
from camscope.report.tables import number_of
from camscope.report.words import region_words

_FEW_PATIENTS = 100

_REFERENCES = {
    "reset": "Adebayo et al. Sanity checks for saliency maps. NeurIPS 2018. arXiv:1810.03292",
    "border": "Sun et al. Right for the wrong reason: can interpretable ML techniques detect spurious correlations? "
    "MICCAI 2023. doi:10.1007/978-3-031-43895-0_40",
    "auc": "Obuchowski. Nonparametric analysis of clustered ROC curve data. Biometrics 1997;53:567-578",
    "bootstrap": "Field, Welsh. Bootstrapping clustered data. Journal of the Royal Statistical Society B "
    "2007;69:369-390",
    "bca": "Efron. Better bootstrap confidence intervals. Journal of the American Statistical Association "
    "1987;82:171-185",
    "flip": "Phipson, Smyth. Permutation p-values should never be zero. Statistical Applications in Genetics and "
    "Molecular Biology 2010;9:39",
    "holm": "Holm. A simple sequentially rejective multiple test procedure. Scandinavian Journal of "
    "Statistics 1979;6:65-70",
    "rates": "Genders et al. Methods for calculating sensitivity and specificity of clustered data: a tutorial. "
    "Radiology 2012;265:910-916",
    "rao": "Rao, Scott. A simple method for the analysis of clustered binary data. Biometrics 1992;48:577-585",
    "brier": "Brier. Verification of forecasts expressed in terms of probability. Monthly Weather Review 1950;78:1-3",
    "ece": "Guo et al. On calibration of modern neural networks. ICML 2017. arXiv:1706.04599",
    "slope": "Van Calster et al. Calibration: the Achilles heel of predictive analytics. BMC Medicine 2019;17:230",
    "decision": "Vickers, Elkin. Decision curve analysis: a novel method for evaluating prediction models. Medical "
    "Decision Making 2006;26:565-574",
    "difference": "Zou, Donner. Construction of confidence limits about effect measures: a general approach. "
    "Statistics in Medicine 2008;27:1693-1702",
    "power": "Cohen. Statistical power analysis for the behavioral sciences. 2nd edition. Erlbaum 1988",
    "tost": "Schuirmann. A comparison of the two one-sided tests procedure and the power approach for assessing the "
    "equivalence of average bioavailability. Journal of Pharmacokinetics and Biopharmaceutics 1987;15:657-680",
}


def limitations(results: Results) -> list[str]:
    """Return the limitations of the study, with its numbers."""
    patients = number_of(results.cases, "patient")
    return [
        *_of_evidence(results),
        *_of_cohort(results, patients),
        *(_of_audit(results) if results.audit is not None else ()),
        *(_of_edits() if results.audit is not None else ()),
        (
            "The results hold for these models on this cohort. Another hospital, scanner or case mix may show "
            "other shortcuts."
        ),
    ]


def _of_edits() -> Iterator[str]:
    yield (
        "Interventions edit the images, and a model may respond to the edit itself. Shams, donor patches of the same "
        "group and a second fill-in reduce this risk, but do not exclude it."
    )


def _of_evidence(results: Results) -> Iterator[str]:
    if results.audit is None:
        yield (
            "There is no audit: maps show to which positions a method attributes the score, "
            "not what the score depends on."
        )
    else:
        yield (
            "No verdict is based on heat maps alone: null maps can have more heat at the border, and the map of a "
            "model that depends on a cue can show no heat there."
        )
    choice = results.file.explain.when
    if choice != "all":
        which = "present" if choice == "present" else "predicted"
        yield (
            f'Maps were computed only for images in which the label is {which}. Set when = "all" in the study file to '
            "compute the maps of all images."
        )


def _of_cohort(results: Results, patients: int) -> Iterator[str]:
    if patients < _FEW_PATIENTS:
        yield (
            f"{patients} patients are few: intervals are wide, small effects are missed, and absence of an effect "
            "can rarely be shown."
        )
    failed = len(results.rows.filter(pl.col("status") == FAILED))
    if failed:
        yield f"{failed} of {len(results.rows)} rows failed; the gallery lists them with the reasons."
    if _lost_level(results):
        yield (
            f"The maps of {', '.join(_lost_level(results))} show only differences between positions (a "
            "layer norm follows the pooling): they always have positive values, even if nothing supports the label."
        )


def sampled(results: Results) -> list[str]:
    """Return the labels of which the audit edited only a sample of the cases, with the numbers of cases."""
    labels = {} if results.audit is None else results.audit["labels"]
    return [
        f"{label} {entry['drawn']:,} of {entry['cases']:,}"
        for label, entry in labels.items()
        if entry.get("drawn", entry["cases"]) < entry["cases"]
    ]


def _lost_level(results: Results) -> list[str]:
    labels = {} if results.audit is None else results.audit["labels"]
    losses = {label: entry["self_test"]["level_lost"] for label, entry in labels.items()}
    return [label for label, value in losses.items() if value is not None and value < 1e-2]


def _of_audit(results: Results) -> Iterator[str]:
    labels = (results.audit or {})["labels"]
    if samples := sampled(results):
        yield (
            f"Only a sample of the cases was edited and clustered: {'; '.join(samples)}. "
            "A region that few cases have was tested only in the sampled cases."
        )
    regions = [
        (label, region, entry) for label, content in labels.items() for region, entry in content["regions"].items()
    ]
    open_items = [entry for _, _, entry in regions if entry["verdict"] == "NOT SHOWN"]
    if open_items:
        deltas = [e["smallest_delta"] for entry in open_items for e in entry["effects"] if e["test"] != "insert"]
        worst = max((d for d in deltas if d is not None), default=None)
        yield (
            f"{len(open_items)} of {len(regions)} verdicts are NOT SHOWN. This does not mean that there is no effect: "
            f"in the least certain verdict, effects up to {number(worst)} SD of the log-odds cannot be excluded."
        )
    untested = [
        f"{label}, {region_words(region)}" for label, region, entry in regions if entry["verdict"] == "NOT TESTABLE"
    ]
    if untested:
        yield f"Not testable in this cohort: {'; '.join(untested)}."
    edited = sorted(
        {cue for content in labels.values() for cue, alignment in content["alignment"].items() if alignment["how"]}
    )
    if edited:
        yield f"The alignment of {', '.join(edited)} was computed from edited images."
    yield (
        "Verdicts are limited to the regions and properties of the study file. A shortcut that is not listed there has "
        "no verdict; it may show in the reliance map."
    )


def methods_text(results: Results) -> tuple[list[str], list[str]]:
    """Return the paragraphs and the numbered references of a methods section that can be pasted into a paper."""
    cited = _Cited()
    paragraphs = [_on_cohort(results), _on_maps(results, cited), _on_scores(cited)]
    if results.audit is not None:
        paragraphs.append(_on_audit(results, results.audit["settings"], cited))
    versions = results.record.get("versions", {})
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "camscope")
    paragraphs.append(f"The analysis was performed with camscope {versions.get('camscope', '')} ({packages}).")
    return paragraphs, cited.listed


class _Cited:
    """Number references in the order in which they are cited."""

    def __init__(self) -> None:
        self.listed: list[str] = []

    def __call__(self, *references: str) -> str:
        for reference in references:
            if reference not in self.listed:
                self.listed.append(reference)
        return f"[{', '.join(str(self.listed.index(reference) + 1) for reference in references)}]"


def _on_cohort(results: Results) -> str:
    cases = results.cases
    groups = [f"{group} {len(cases.filter(pl.col('group') == group))}" for group in results.groups]
    by_group = f" ({', '.join(groups)})" if groups else ""
    positives = []
    for label in results.labels:
        positive_rows = results.first.filter((pl.col("label") == label) & pl.col("truth"))
        people = f" in {number_of(positive_rows, 'patient')} patients" if results.patients_known else ""
        positives.append(f"{label} {len(positive_rows)}{people}")
    images = f"{len(cases)} images"
    who = f"{number_of(cases, 'patient')} patients with {images}" if results.patients_known else images
    unknown = "" if results.patients_known else " The patients are not known, so each image counted as one."
    return (
        f"The cohort had {who}{by_group}.{unknown} "
        f"Images with the label: {'; '.join(positives)}. Each label had its own classification score."
    )


def _on_maps(results: Results, cited: _Cited) -> str:
    explain, rows = results.file.explain, results.rows.filter(pl.col("status") == OK)
    kinds: dict[str, list[str]] = {}
    columns = ["layer", "grid_height", "grid_width"]
    for label, layer, height, width in rows.select("label", *columns).unique(maintain_order=True).iter_rows():
        kinds.setdefault(f"layer {layer}, {height} × {width} cells", []).append(label)
    layers = "; ".join(f"{', '.join(labels)}: {kind}" for kind, labels in kinds.items())
    if len(kinds) == 1:
        layers = next(iter(kinds))
    names = " and ".join(f"{method} {cited(_reference(method))}" for method in explain.methods)
    places = {
        "present": "where the label was present",
        "predicted": "where the label was predicted",
        "all": "for every image",
    }
    return (
        f"Maps were computed with {names} for the logit of each label {places[explain.when]} "
        f"({len(rows)} maps; {layers}). All statistics of maps were computed on the grid of the layer. Enrichment is "
        "the share of a map's positive sum inside a region divided by the region's share of the input area."
    )


def _on_scores(cited: _Cited) -> str:
    references = _REFERENCES
    return " ".join(
        [
            "Images of one patient are not independent; all intervals and tests treat the patient as the unit.",
            "Areas under the ROC curve have 95 % intervals for clustered data on the logit scale",
            f"{cited(references['auc'])}; sensitivity, specificity and predictive values at the label's threshold",
            f"{cited(references['rates'])} have Wilson intervals with the number of independent images that would have",
            f"the same standard error {cited(references['rao'])}. Calibration was described by the Brier score",
            f"{cited(references['brier'])}, by the expected calibration error over bins of equal mass",
            f"{cited(references['ece'])}, tested against the error that chance alone gives ({REPLICATES} bootstrap",
            "replicates of patients), and by the slope and intercept of a logistic recalibration",
            f"{cited(references['slope'])}; usefulness by the net benefit over threshold probabilities",
            f"{cited(references['decision'])}. Subgroups were compared with the remaining images; intervals of",
            f"differences were combined from the two intervals {cited(references['difference'])}, and their p-values",
            f"adjusted by Holm's method within each label {cited(references['holm'])}.",
        ]
    )


def _on_audit(results: Results, settings: dict[str, Any], cited: _Cited) -> str:
    section = results.file.audit
    roles = [] if section is None else [(section.disease, "disease"), (section.shortcuts, "shortcuts")]
    regions = " and ".join(f"{'; '.join(map(region_words, names))} ({role})" for names, role in roles if names)
    sentences = [
        f"Reliance on {regions or 'regions'} was tested by intervention, because heat maps cannot show or exclude",
        f"reliance {cited(_REFERENCES['border'])}. A region was removed by two fill-ins, or, if too large for a sham",
        "of equal area, exchanged with other patients of the same group. The change of the log-odds was",
        "compared with the change by a sham; effects are in standard deviations (SD) of the log-odds over patient",
        "means within the stratum of the label. Intervals are expanded BCa bootstrap intervals over patients",
        f"({settings['replicates']} replicates, seed {settings['seed']})",
        f"{cited(_REFERENCES['bca'], _REFERENCES['bootstrap'])}; p-values are from sign-flip permutations of patient",
        f"means {cited(_REFERENCES['flip'])}, adjusted by Holm's method over all labels, regions, strata and tests",
        f"{cited(_REFERENCES['holm'])}. A model was said to rely on a region when the whole interval lay beyond",
        f"±{settings['delta']:g} SD, the adjusted p was below {settings['level']:g}, the fill-ins agreed, and the",
        "reliance index (AUC with the region in agreement with the label minus AUC with the region in disagreement,",
        "from the same interventions, and for a cue from unedited images too) was above 0.05 with its whole",
        "interval, or, if the AUC in agreement was above 0.97, the region carried more than 5 % of the separation of",
        "the classes; absence of an effect was shown by two one-sided tests against",
        f"±{settings['delta']:g} SD {cited(_REFERENCES['tost'])}. For effects that were not shown, the report gives",
        "the smallest mean effect that a test could detect with a power of 80 %",
        f"{cited(_REFERENCES['power'])}. Strata of fewer than",
        f"{settings['fewest_patients']}",
        "patients were not tested. Heat was compared with that of the same architecture with random weights",
        f"{cited(_REFERENCES['reset'])} and with random combinations of the trained network's channels.",
    ]
    if sampled(results):
        sentences.append(
            f"Interventions used a sample of the cases ({'; '.join(sampled(results))}): patients were drawn at random, "
            "in turn with and without the label and each cue. Statistics of scores and heat used all cases."
        )
    return " ".join(sentences)


def _reference(method: str) -> str:
    """Return the reference of a method, or its name if there is none."""
    try:
        reference = facts_of(find_method(method)).reference
    except MethodError:  # the study was run with a version that had this method
        reference = ""
    return reference or f"The method {method} of camscope"


def record_rows(results: Results, *, pseudonyms: bool) -> Sequence[tuple[str, str]]:
    """Return the reproducibility record: everything needed to reproduce the page."""
    record, run = results.record, results.record.get("run", {})
    rows = [
        ("Fingerprint of study file and table", str(record.get("plan"))),
        ("Schema of the rows", str(record.get("schema_version"))),
        ("Engine, precision, device", f"{run.get('engine')}, {run.get('precision', 'float32')}, {run.get('device')}"),
        *((f"Precision of {model}", note) for model, note in results.precision_notes()),
        ("Seed of the run, batch size", f"{run.get('seed')}, {run.get('batch_size')}"),
        ("Methods, maps", f"{', '.join(results.methods)}; when = {results.file.explain.when}"),
        (
            "Display of the overlays",
            f"{results.file.explain.scale}, {results.file.explain.cmap}, {results.file.explain.opacity:g}",
        ),
    ]
    if not pseudonyms:
        rows.insert(0, ("Study file", str(record.get("study_file"))))
    if results.audit is not None:
        settings = results.audit["settings"]
        text = ", ".join(f"{name} {value}" for name, value in settings.items())
        rows += [("Audit", text), ("Inputs through the models in the audit", str(results.audit["forwards"]))]
    rows += [(f"Version of {name}", str(version)) for name, version in record.get("versions", {}).items()]
    for label, model in record.get("models", {}).items():
        spec = str(model.get("spec"))
        spec = Path(spec).name if pseudonyms and ":" not in spec else spec
        preprocess = model.get("preprocess") or {}
        size = " × ".join(map(str, preprocess.get("input_size") or ()))
        rows.append(
            (
                f"Model of {label}",
                (
                    f"{model.get('name')} ({spec}), class {model.get('class')}, input {size}, "
                    f"{preprocess.get('fit')}; SHA-256 of the weights {model.get('weights_sha256')}"
                ),
            )
        )
    return rows
