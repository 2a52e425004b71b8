"""What a report says in words: regions, numbers, and the answer for each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from camscope.acquisition import PROPERTIES
from camscope.audit.settings import LEVEL
from camscope.page.words import interval, number
from camscope.report.results import Results

Tone = Literal["bad", "good", "open", "none"]

_RULED_OUT = ("EQUIVALENT TO NONE", "ARTEFACT-CONSISTENT")
MEANINGS = {
    "RELIES": "Changing the region changes the score significantly more than a sham (the same change elsewhere), and "
    "the score tells the label worse where the region speaks against it.",
    "RESPONDS": "Changing the region changes the score, but it is not shown that this serves to tell the label.",
    "EQUIVALENT TO NONE": "The effect of the region is shown to be smaller than delta, the least that matters.",
    "NOT SHOWN": "Neither reliance nor its absence could be shown. This does not mean that there is no effect.",
    "ARTEFACT-CONSISTENT": "The heat is no more than in null maps, and changing the region has no effect on the score.",
    "NOT TESTABLE": "The data do not allow a test; the sentence says why.",
}
"""Verdict -> what it means."""


def region_words(name: str) -> str:
    """Return a region in plain words.

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
    """What is said of one region on the first screen.

    Attributes:
        region: its name in the study file.
        words: its name in plain words.
        role: "disease", "shortcut" or "property".
        verdict: of the audit.
        tone: how it is coloured.
        effect: largest effect and its interval.
        beyond: what is not ruled out.
        reason: the audit's sentence.
        p: adjusted.
        patients: of the largest effect.
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


@dataclass(frozen=True)
class Answer:
    """What is said of one label on the first screen.

    Attributes:
        label: the label.
        headline: the answer in a few words.
        tone: how it is coloured.
        sentence: of the audit, the one that carries the answer.
        chips: every region.
    """

    label: str
    headline: str
    tone: Tone
    sentence: str
    chips: Sequence[Chip]


def answers(results: Results) -> list[Answer]:
    """Return the answer for each label that was audited."""
    return [] if results.audit is None else [_answer(label, entry) for label, entry in results.audit["labels"].items()]


def _answer(label: str, content: Mapping[str, Any]) -> Answer:
    chips = [chip(region, entry) for region, entry in content["regions"].items()]
    properties = content.get("properties", {}).items()
    chips += [chip(f"property:{name}", entry) for name, entry in properties if entry["verdict"] == "RELIES"]
    headline, tone = _headline(chips)
    carrying = [item for item in chips if item.verdict == "RELIES"]
    carrying.sort(key=lambda item: item.role == "disease")
    if not carrying:
        carrying = [item for item in chips if item.role == "disease"] or chips
    return Answer(label, headline, tone, carrying[0].reason, chips)


def _headline(chips: Sequence[Chip]) -> tuple[str, Tone]:
    """Return the answer in a few words: shortcuts first, and never more than was shown."""
    shortcuts = [item for item in chips if item.role != "disease"]
    disease = [item for item in chips if item.role == "disease"]
    culprits = [item.words for item in shortcuts if item.verdict == "RELIES"]
    sees = any(item.verdict == "RELIES" for item in disease)
    ignores = bool(disease) and all(item.verdict in _RULED_OUT for item in disease)
    if culprits:
        also = ", and on the disease region too" if sees else ", and not on the disease region" if ignores else ""
        return f"Relies on a shortcut: {', '.join(culprits)}{also}", "bad"
    responds = [item.words for item in shortcuts if item.verdict == "RESPONDS"]
    if responds:
        also = "relies on the disease region, and responds" if sees else "responds"
        return f"{also.capitalize()} to a shortcut, whose use is not shown: {', '.join(responds)}", "open"
    if all(item.verdict == "NOT TESTABLE" for item in chips):
        return "Could not be tested", "none"
    open_shortcuts = [item.words for item in shortcuts if item.verdict not in _RULED_OUT]
    if sees and not open_shortcuts:
        clause = "every shortcut tested is ruled out" if shortcuts else "no shortcut was tested"
        return f"Relies on the disease region; {clause}", "good"
    if sees:
        return "Relies on the disease region; shortcuts are not shown, but not all are ruled out", "open"
    if ignores:
        return "Does not use the disease region; what it uses instead is not shown", "bad"
    return "Neither the disease region nor a shortcut is shown to drive the score", "open"


def chip(region: str, entry: Mapping[str, Any]) -> Chip:
    """Return what the report says of a region or property."""
    verdict, role, effect = entry["verdict"], entry["role"], entry["effect"]
    tone: Tone = "open"
    if verdict == "RELIES":
        tone = "good" if role == "disease" else "bad"
    elif verdict in _RULED_OUT or verdict == "NOT TESTABLE":
        tone = "none"
    removals = [e for e in entry["effects"] if e["test"] != "insert" and e["smallest_delta"] is not None]
    beyond = ""
    if verdict == "NOT SHOWN" and removals:
        # Where every mean is shown to be small, it is the changes of single cases that are not.
        is_small = all(e["p_equivalence"] is not None and e["p_equivalence"] < LEVEL for e in removals)
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
        p="" if p is None else "< .001" if p < 0.001 else f"{p:.3f}",
        patients="" if effect is None else str(effect["patients"]),
    )
