"""Write the words of a report: names of regions, and the answer for each label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from camscope.acquisition import PROPERTIES
from camscope.audit.settings import LEVEL
from camscope.page.words import interval, number, p_value
from camscope.report.results import Results
from camscope.statistics.decision import DecisionCurve
from camscope.statistics.power import detectable, patients_to_exclude, patients_to_show

Tone = Literal["bad", "good", "open", "none"]

_RULED_OUT = ("EQUIVALENT TO NONE", "ARTEFACT-CONSISTENT")
MEANINGS = {
    "RELIES": "Changing the region changes the score significantly more than a sham (the same change elsewhere), and "
    "the region helps to separate the classes: the AUC is lower when the region points to the wrong label.",
    "RESPONDS": "Changing the region changes the score, but it is not shown that the region helps to separate the "
    "classes.",
    "EQUIVALENT TO NONE": "The effect of the region is shown to be smaller than delta, the smallest effect that "
    "matters.",
    "NOT SHOWN": "Neither reliance nor its absence could be shown. This does not mean that there is no effect.",
    "ARTEFACT-CONSISTENT": "The heat is not above null maps, or stays at the border of the input, and changing the "
    "region has no effect on the score.",
    "NOT TESTABLE": "The data do not allow a test; the sentence says why.",
}
"""Verdict -> its meaning."""


def region_words(name: str) -> str:
    """Return the name of a region in plain words.

    >>> region_words("border:0.10"), region_words("cue:token"), region_words("mask:label")
    ('border, outer 10 %', 'cue “token”', 'the finding itself')
    """
    kind, _, argument = name.partition(":")
    if kind == "property":
        return PROPERTIES[argument].noun.removeprefix("the ") if argument in PROPERTIES else argument
    if name == "mask:label":
        return "the finding itself"
    if kind == "border":
        try:
            return f"border, outer {float(argument):.0%}".replace("%", " %")
        except ValueError:
            return f"border {argument}"
    templates = {"mask": "mask “{}”", "cue": "cue “{}”", "outside": "outside “{}”"}
    return templates.get(kind, f"{kind} {{}}" if argument else kind).format(argument)


@dataclass(frozen=True)
class Chip:
    """The entry of one region on the first screen.

    Attributes:
        region: name of the region in the study file.
        words: name of the region in plain words.
        role: "disease", "shortcut" or "property".
        verdict: verdict of the audit.
        tone: colour of the entry.
        effect: the effect that the sentence states, with its interval.
        beyond: for NOT SHOWN, the largest effect that cannot be excluded.
        reason: sentence of the audit.
        p: adjusted p-value of that effect.
        patients: number of patients of that effect.
        power: for NOT SHOWN, the smallest effect that this cohort could have shown.
    """

    region: str
    words: str
    role: str
    verdict: str
    tone: Tone
    effect: str
    beyond: str
    reason: str
    p: str
    patients: str
    power: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer for one label on the first screen.

    Attributes:
        label: the label.
        headline: the answer in a few words.
        tone: colour of the answer.
        sentence: sentence of the verdict that leads to the headline.
        chips: the entries of all regions.
        heat: if the audit is undecided, where heat maps already stand out, which is no verdict.
    """

    label: str
    headline: str
    tone: Tone
    sentence: str
    chips: Sequence[Chip]
    heat: str = ""


def answers(results: Results) -> list[Answer]:
    """Return the answer for each label of the audit."""
    if results.audit is None:
        return []
    audit, family, delta = results.audit, family_size(results.audit), delta_of(results.audit)
    replicates = audit.get("settings", {}).get("replicates", 10_000)

    def power(region: Mapping[str, Any]) -> str:
        said = power_sentence(region, family, replicates), decisive_sentence(region, family, delta)
        return " ".join(filter(None, said))

    found = [_answer(label, entry, power, delta=delta) for label, entry in audit["labels"].items()]
    return [
        replace(answer, heat=heat_sentence(answer.label, audit)) if answer.tone in ("open", "none") else answer
        for answer in found
    ]


def heat_sentence(label: str, audit: Mapping[str, Any]) -> str:
    """Return in which undecided regions the maps of a label have more heat than null maps or those of other labels.

    Intervals that overlap do not count. Heat maps alone lead to no verdict.
    """
    parts = []
    for region, entry in audit["labels"][label]["regions"].items():
        heat = _enrichment(audit, label, region)
        if heat is None or heat["low"] <= 1 or entry["verdict"] in ("RELIES", *_RULED_OUT):
            continue
        nulls = [value for values in entry["heat"]["nulls"].values() for value in values if value is not None]
        other_heat = {other: _enrichment(audit, other, region) for other in audit["labels"] if region != "mask:label"}
        lower = [other for other, theirs in other_heat.items() if theirs is not None and theirs["high"] < heat["low"]]
        more = ["null maps"] if nulls and heat["low"] > max(nulls) else []
        more += [f"those of {', '.join(lower)}"] if lower else []
        if more:
            where = f"{interval(heat)} times the heat of a uniform map in {region_words(region)}"
            parts.append(f"{where}, more than {' and '.join(more)}")
    return f"The heat maps of {label} have {'; '.join(parts)}." if parts else ""


def _enrichment(audit: Mapping[str, Any], label: str, region: str) -> Mapping[str, float] | None:
    """Return the enrichment of the maps of a label in a region, with its interval; None if it is not known."""
    heat = audit["labels"][label]["regions"].get(region, {}).get("heat")
    known = heat is not None and None not in heat["enrichment"].values()
    return heat["enrichment"] if known else None


def delta_of(audit: Mapping[str, Any] | None) -> float:
    """Return the smallest effect that matters in an audit, in SD of the log-odds."""
    return float((audit or {}).get("settings", {}).get("delta", 0.1))


def family_size(audit: Mapping[str, Any]) -> int:
    """Return the number of tests of mean effects that are adjusted together."""
    regions = (entry for label in audit["labels"].values() for entry in label["regions"].values())
    return sum(effect["test"] != "insert" for entry in regions for effect in entry["effects"])


def power_sentence(entry: Mapping[str, Any], family: int, replicates: int) -> str:
    """Return the sentence on the smallest effect that could have been shown, in the stratum and test of least power.

    Args:
        entry: the region's entry in the audit.
        family: number of tests that are adjusted together, see ``family_size``.
        replicates: number of permutations.
    """
    tested = [e for e in entry["effects"] if e["test"] != "insert" and e.get("detectable") is not None]
    if not tested:
        return ""
    strict = max(_at_strictest(effect, family, replicates) for effect in tested)
    effect = number(max(e["detectable"] for e in tested))
    text = f"This cohort had a power of 80 % to show a mean effect of {effect} SD"
    where = ", in each stratum" if tested[1:] else ""
    if family == 1:
        return f"{text}{where}."
    if strict < float("inf"):
        return f"{text} with a single test, and of {number(strict)} SD after adjustment for all {family} tests{where}."
    patients = min(effect["patients"] for effect in tested)
    limit = f"{patients} patients" if 2.0 ** (1 - patients) > LEVEL / family else f"{replicates:,} permutations"
    return (
        f"{text} with a single test{where}. After adjustment for all {family} tests, {limit} cannot show an effect of "
        "any size, unless other tests are significant too."
    )


def decisive_sentence(entry: Mapping[str, Any], family: int, delta: float) -> str:
    """Return the sentence on how many patients would decide a verdict of NOT SHOWN; "" if it does not hang on that.

    Args:
        entry: the region's entry in the audit.
        family: number of tests that are adjusted together, see ``family_size``.
        delta: the smallest effect that matters, in SD of the log-odds.
    """
    tested = [e for e in entry["effects"] if e["test"] != "insert" and e.get("detectable")]
    if not tested:
        return ""
    largest = max(tested, key=lambda e: abs(e["effect"]["estimate"]))
    size, patients = abs(largest["effect"]["estimate"]), largest["patients"]
    sd = largest["detectable"] / detectable(1.0, patients, level=LEVEL, replicates=10**9)
    if size >= delta:
        needed, what = patients_to_show(size, sd, level=LEVEL / family), "show an effect as large as this one"
    else:
        needed, what = (
            patients_to_exclude(delta, size, sd),
            f"exclude an effect of {delta:g} SD if it is as small as this",
        )
    if needed <= patients:
        return ""
    unit = 10 ** max(math.floor(math.log10(needed)) - 1, 0) if needed < math.inf else 1
    count = "More than a million" if needed == math.inf else f"About {math.ceil(needed / unit) * unit:,}"
    return f"{count} patients instead of {patients} would {what}."


def _at_strictest(effect: Mapping[str, Any], family: int, replicates: int) -> float:
    """Return the detectable effect at the level that Holm's method sets for the smallest p-value."""
    alone, strict = (
        detectable(1.0, effect["patients"], level=level, replicates=replicates) for level in (LEVEL, LEVEL / family)
    )
    return float(effect["detectable"]) * strict / alone


def _answer(
    label: str, content: Mapping[str, Any], power: Callable[[Mapping[str, Any]], str], *, delta: float
) -> Answer:
    chips = [chip(region, entry, power=power(entry), delta=delta) for region, entry in content["regions"].items()]
    properties = content.get("properties", {}).items()
    chips += [
        chip(f"property:{name}", entry, delta=delta) for name, entry in properties if entry["verdict"] == "RELIES"
    ]
    if not chips:
        cells = content.get("reliance_map") or {"sentence": ""}
        headline = "No region was declared; reliance on a property is not shown"
        return Answer(label, headline, "open", cells["sentence"], chips)
    headline, tone = _headline(chips)
    carrying = [item for item in chips if item.verdict == "RELIES"]
    carrying.sort(key=lambda item: item.role == "disease")
    if not carrying:
        responds = [item for item in chips if item.verdict == "RESPONDS"]
        responds.sort(key=lambda item: item.role == "disease")
        carrying = responds or [item for item in chips if item.role == "disease"] or chips
    return Answer(label, headline, tone, carrying[0].reason, chips)


def _headline(chips: Sequence[Chip]) -> tuple[str, Tone]:
    """Return the answer in a few words; shortcuts come first."""
    shortcuts = [item for item in chips if item.role != "disease"]
    disease = _use_of_disease([item.verdict for item in chips if item.role == "disease"])
    if culprits := [item.words for item in shortcuts if item.verdict == "RELIES"]:
        also = {
            "relies": ", and on the disease region too",
            "responds": "; responds to the disease region, but use of it is not shown",
            "ignores": ", and not on the disease region",
        }
        return f"Relies on a shortcut: {', '.join(culprits)}{also.get(disease, '')}", "bad"
    if responds := [item.words for item in shortcuts if item.verdict == "RESPONDS"]:
        beginning = {
            "relies": "Relies on the disease region, and responds to a shortcut, but use of it is not shown",
            "responds": "Responds to the disease region and to a shortcut, but use of neither is shown",
        }.get(disease, "Responds to a shortcut, but use of it is not shown")
        return f"{beginning}: {', '.join(responds)}", "open"
    if all(item.verdict == "NOT TESTABLE" for item in chips):
        return "Could not be tested", "none"
    is_open = any(item.verdict not in _RULED_OUT for item in shortcuts)
    clause = "no shortcut is shown" if is_open else "every shortcut tested is ruled out"
    clause = clause if shortcuts else "no shortcut was tested"
    if disease == "relies":
        not_all = ", but not all are ruled out" if is_open else ""
        return f"Relies on the disease region; {clause}{not_all}", "open" if is_open else "good"
    if disease == "ignores":
        return "Does not use the disease region; what it uses instead is not shown", "bad"
    if disease == "undeclared":
        return f"What drives the score is not shown: {clause}, and no disease region was declared", "open"
    if disease == "responds":
        return f"Responds to the disease region, but use of it is not shown; {clause}", "open"
    if is_open:
        return "Neither the disease region nor a shortcut is shown to drive the score", "open"
    return f"The disease region is not shown to drive the score; {clause}", "open"


def _use_of_disease(verdicts: Sequence[str]) -> Literal["undeclared", "relies", "responds", "ignores", "open"]:
    """Return what the verdicts on the disease regions say together."""
    if not verdicts:
        return "undeclared"
    if "RELIES" in verdicts:
        return "relies"
    if "RESPONDS" in verdicts:
        return "responds"
    return "ignores" if all(verdict in _RULED_OUT for verdict in verdicts) else "open"


def chip(region: str, entry: Mapping[str, Any], *, delta: float, power: str = "") -> Chip:
    """Return the entry of a region or property on the first screen."""
    verdict, role, effect = entry["verdict"], entry["role"], entry["effect"]
    tone: Tone = "open"
    if verdict == "RELIES":
        tone = "good" if role == "disease" else "bad"
    elif verdict in _RULED_OUT or verdict == "NOT TESTABLE":
        tone = "none"
    removals = [e for e in entry["effects"] if e["test"] != "insert" and e["smallest_delta"] is not None]
    beyond = ""
    if verdict == "NOT SHOWN" and removals:
        # If every mean effect is shown to be small, the limit is that of changes of single cases.
        is_small = all(_is_small(e, delta) for e in removals)
        limits = [(e["spread"]["high"] or 0.0) if is_small else e["smallest_delta"] for e in removals]
        beyond = f"up to {number(max(limits))} SD"
    p = None if effect is None else effect["p_adjusted"]
    return Chip(
        region=region,
        words=region_words(region),
        role=role,
        verdict=verdict,
        tone=tone,
        effect="" if effect is None else interval(effect["effect"]),
        beyond=beyond,
        reason=entry["reason"],
        p="" if p is None else p_value(p),
        patients="" if effect is None else str(effect["patients"]),
        power=power if verdict == "NOT SHOWN" else "",
    )


def _is_small(effect: Mapping[str, Any], delta: float) -> bool:
    """Return whether a mean effect as large as delta is excluded, as `camscope.audit.evidence.Effect.is_small` does."""
    low, high = effect["effect"]["low"], effect["effect"]["high"]
    tested = None not in (effect["p_equivalence"], low, high)
    return tested and effect["p_equivalence"] < LEVEL and -delta < low and high < delta


def decision_sentence(curve: DecisionCurve, threshold: float) -> str:
    """Return the thresholds at which the model is better than treating all images and treating none, as a sentence.

    Args:
        curve: decision curve of the label.
        threshold: threshold of the label.
    """
    parts = [f"{number(low)} to {number(high)}" if low < high else number(low) for low, high in curve.ranges()]
    nearest = int(abs(curve.thresholds - threshold).argmin())
    benefit, treat_all = (number(float(values[nearest])) for values in (curve.model, curve.treat_all))
    at = (
        f"At the label's threshold ({number(float(curve.thresholds[nearest]))}), the net benefit is {benefit}, "
        f"and {treat_all} if all images are treated."
    )
    if not parts:
        return f"The model is not shown to be better than both treating all and treating none at any threshold. {at}"
    return (
        f"The model is shown to be better than treating all and treating none at thresholds of {', '.join(parts)}. {at}"
    )
