"""Say what of two studies is not compared, and what differs between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from camscope.audit.interventions import SAME_PLACE
from camscope.audit.settings import FEWEST
from camscope.report.results import Results
from camscope.report.words import region_words
from camscope.statistics.ties import all_tied
from camscope.study_comparison.differences import EffectDifference
from camscope.study_comparison.matching import MatchedImages, MatchedLabel

_SETTINGS = {
    "seed": "the random seed, so shams and donors are other ones",
    "cases": "the size of the sample: effects are compared on the images that both sampled",
    "delta": "delta, which changes verdicts alone",
    "replicates": "the number of replicates, which changes verdicts alone",
}

_SHOWN = 3
_SAME_PATHS = "have the same path in both studies, but other files"


def study_notes(
    first: Results, second: Results, images: MatchedImages, method: str | None, *, named: bool
) -> Iterator[str]:
    """Yield what is left out, or differs, for all labels; ``named`` says whether images may be named."""
    for name, results, count in (("A", first, images.only_a), ("B", second, images.only_b)):
        yield from (f"{name}: {text}" for text in results.warnings)
        if count:
            yield f"{_images(count)} {_is(count)} only in {name} and left out."
    if count := len(images.changed):
        more = [f"and {count - _SHOWN} more"] if count > _SHOWN else []
        names = f": {', '.join([*images.changed[:_SHOWN], *more])}" if named else ""
        have = "has the same path in both studies, but another file" if count == 1 else _SAME_PATHS
        yield f"Of these, {_images(count)} {have}{names}."
    if images.unread:
        yield f"{_images(images.unread)} could not be read in one of the studies and {_is(images.unread)} left out."
    if images.patients_differ:
        yield (
            "The studies assign the images to different patients: images that share a patient in A or in B count as "
            "one patient here."
        )
    for name, results, other in (("A", first, second), ("B", second, first)):
        if alone := [label for label in results.labels if label not in other.labels]:
            yield f"Only {name} has {_listed('label', alone)}, which {_is(len(alone))} not compared."
    if method is None:
        yield f"Heat is not compared: A has maps of {', '.join(first.methods)}, B of {', '.join(second.methods)}."
    elif first.file.explain.settings != second.file.explain.settings:
        yield "The settings of the methods differ: differences of the heat may be due to them."
    yield from _audit_notes(first, second)


def _audit_notes(first: Results, second: Results) -> Iterator[str]:
    if first.audit is None or second.audit is None:
        return
    for name, words in _SETTINGS.items():
        if (a := first.audit["settings"].get(name)) != (b := second.audit["settings"].get(name)):
            yield f"The audits differ in {words} ({a} in A, {b} in B)."
    if first.audit.get("audit_version") != second.audit.get("audit_version"):
        yield "Different versions of the audit were used: differences of the effects may be due to them."
    diseases = [sorted(_disease(results.audit)) for results in (first, second)]
    if diseases[0] != diseases[1]:
        lists = [", ".join(map(region_words, names)) or "none" for names in diseases]
        yield (
            f"The disease regions differ ({lists[0]} in A, {lists[1]} in B). They are left out of all other regions, "
            "so the same region may be edited in another way."
        )


def _disease(audit: Mapping[str, Any] | None) -> set[str]:
    labels = {} if audit is None else audit["labels"]
    return {name for e in labels.values() for name, entry in e["regions"].items() if entry["role"] == "disease"}


def row_notes(first: Results, second: Results, label: str, matched: MatchedLabel) -> Iterator[str]:
    """Yield which rows of a label are left out, and what differs between its models and maps."""
    for name, end in (("A", "a"), ("B", "b")):
        if all_tied(matched.rows[f"log_odds_{end}"]):
            yield f"In {name}, the outputs are the same for all images."
    weights = [results.record["models"][label]["weights_sha256"] for results in (first, second)]
    if weights[0] == weights[1]:
        yield "Both studies used the same weights."
    for count, words in (
        (matched.truth_differs, "another truth in A than in B"),
        (matched.truth_unknown, "no known truth in one of the studies"),
        (matched.unscored, "no score in one of the studies"),
    ):
        if count:
            yield f"{_images(count)} {'has' if count == 1 else 'have'} {words} and {_is(count)} left out."
    for region, count in matched.masks_differ.items():
        yield f"The region {region_words(region)} differs in {_images(count)}, which {_is(count)} left out for it."
    if matched.windows_differ:
        yield f"The networks see different parts of {_images(matched.windows_differ)}."
    if all(matched.layers) and matched.layers[0] != matched.layers[1]:
        a, b = (", ".join(names) for names in matched.layers)
        yield f"The maps are of different layers ({a} in A, {b} in B)."


def edit_notes(
    effects: Sequence[EffectDifference], first: pl.DataFrame, second: pl.DataFrame, *, few: int
) -> Iterator[str]:
    """Yield which effects of a label are left out, and what differs between its interventions.

    Args:
        effects: the compared effects of regions and properties.
        first: changes of the label in study A.
        second: changes of the label in study B.
        few: number of effects that too few patients have in both audits.
    """
    tested = [set(table.filter(pl.col("effect").is_finite())["region"].unique()) for table in (first, second)]
    for name, alone in (("A", tested[0] - tested[1]), ("B", tested[1] - tested[0])):
        if alone:
            yield f"Only {name} tested {', '.join(map(region_words, sorted(alone)))}."
    removals = [set(table.filter(pl.col("test") == "remove")["fill_in"].unique()) for table in (first, second)]
    for name, alone in (("A", removals[0] - removals[1]), ("B", removals[1] - removals[0])):
        if SAME_PLACE in alone:
            yield f"Only {name} has shams at the same place of other patients: these removals are not compared."
    fill_ins = [names - {SAME_PLACE} for names in removals]
    if fill_ins[0] and fill_ins[1] and fill_ins[0] != fill_ins[1]:
        a, b = (", ".join(sorted(names)) for names in fill_ins)
        shared = ", ".join(sorted(fill_ins[0] & fill_ins[1]))
        what = f"removals are compared by {shared} alone" if shared else "no removal is compared"
        yield f"The fill-ins differ ({a} in A, {b} in B): {what}."
    if few:
        what = "effects are" if few > 1 else "effect is"
        yield f"{few} {what} left out: fewer than {FEWEST} patients were edited in both audits."
    if not effects:
        yield "No effect can be compared: the audits have no edit of the same images in common."


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(noun: str, names: Sequence[str]) -> str:
    return f"the {noun}{'s' if names[1:] else ''} {', '.join(names)}"
