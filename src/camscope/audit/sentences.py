"""Write the sentence of each verdict: what was computed, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from camscope.audit.evidence import Alignment, Alignments, Effect, Heat, Response
from camscope.audit.settings import ALIGNED, FEWEST, LEVEL
from camscope.statistics.intervals import Interval


def goes_with(
    label: str, region: str, by_cue: Mapping[str, Interval], alignment: Alignment, *, shown: bool, untestable: str
) -> str:
    """Return the sentence on a cue from unedited images.

    It never states reliance: something else that is associated with the cue may be the cause.
    """
    aucs = ", ".join(
        f"{auc.estimate:.2f} ({_interval(auc)}) with the label {stratum}" for stratum, auc in by_cue.items()
    )
    beginning = (
        f"The {label} model responds to {region} or to something associated with it"
        if shown
        else f"Whether the {label} model relies on {region} is not shown"
    )
    return (
        f"{beginning}: the AUC of the log-odds for the cue is {aucs}, and {_aligned(alignment, region)}. Edited images "
        f"could not test this ({untestable}): something else in these images may be the cause."
    )


_ROLES = {"disease": ", a disease region", "shortcut": ", a shortcut", "property": ""}


def relies(label: str, region: str, role: str, effect: Effect, alignments: Alignments, *, unseen: bool = False) -> str:
    """Return the sentence of RELIES, with the evidence, and if it is so, that the disease may reach into the region."""
    text = f"The {label} model relies on {region}{_ROLES[role]}: {_effect(effect)}"
    unedited, edited = alignments.unedited, alignments.of(effect)
    shown = unedited if unedited is not None and unedited.is_reliance and role != "property" else edited
    text = f"{text}; {_aligned(shown, region)}." if shown is not None else f"{text}."
    doubt = " Whether the disease itself reaches into it is not known: add a mask of the disease to the audit."
    return text + doubt * unseen


def responds_little(label: str, region: str, effect: Effect, alignments: Alignments) -> str:
    """Return the sentence of RESPONDS for an effect that is small beside the spread of the log-odds, but decides."""
    edited = alignments.of(effect)
    assert edited is not None
    return (
        f"The {label} model responds to {region}: {_effect(effect)}. This is little beside the spread of the log-odds "
        f"over patients, but it helps to separate the classes: {_aligned(edited, region)}."
    )


def responds_in_single_cases(label: str, region: str, responses: Sequence[Response]) -> str:
    """Return the sentence of RESPONDS for a region whose swap changes single cases, with and without the label."""
    least = min(responses, key=lambda response: response.excess.estimate)
    return (
        f"The {label} model responds to {region}: {_changed(least)}, {least.excess.estimate:.2f} SD "
        f"({_interval(least.excess)}; adjusted p {_p(least.p)}) more than an equally large part beside it does, "
        "and this holds with and without the label. It is not shown that this helps to separate the classes. If an "
        "object in it may be the cause, declare it as a cue."
    )


def _changed(response: Response) -> str:
    """Return the clause on the changes of single cases by a swap or a blur."""
    swap = response.test == "swap"
    what = "replacing it with that of another patient with the same label" if swap else "blurring it out"
    return (
        f"{what} changes the log-odds of single cases by {response.change.estimate:.2f} SD "
        f"({_interval(response.change)}; {response.patients} patients, label {response.stratum})"
    )


def responds_confounded(label: str, region: str, role: str, effect: Effect, alignments: Alignments) -> str:
    """Return the sentence of RESPONDS for what the disease itself can change, or may lie under."""
    edited = alignments.of(effect)
    index = "" if edited is None else f"; {_aligned(edited, region)}"
    why = (
        "The disease itself can change this property. Add a mask of the disease to the disease regions of the audit to "
        "measure it outside the disease."
        if role == "property"
        else "Add a mask of the disease to the disease regions of the audit to leave the disease out."
    )
    what = region if role == "property" else f"{region} or to disease in the same place"
    return f"The {label} model responds to {what}: {_effect(effect)}{index}. {why}"


def responds(label: str, region: str, strong: Sequence[Effect], spread: Effect | None, alignments: Alignments) -> str:
    """Return the sentence of RESPONDS, with the reason why reliance is not shown."""
    if strong:
        text, edited = _effect(strong[0]), alignments.of(strong[0])
        if edited is None:
            missing = alignments.missing.get((strong[0].test, strong[0].by), "it was not computed")
            why = f"whether this helps to separate the classes could not be tested ({missing})"
        elif edited.reliance.high < 0:
            why = (
                "its sign is the opposite of the association with the label in these images, so that it does not help "
                f"to separate the classes here: {_aligned(edited, region)}"
            )
        elif edited.overshoots:
            why = (
                "removing it takes away more than what separates the classes, so that images without it may have the "
                f"same: {_aligned(edited, region)}"
            )
        elif not edited.is_reliance:
            why = f"it is not shown that this helps to separate the classes: {_aligned(edited, region)}"
        else:  # unedited images contradict the edited ones
            assert alignments.unedited is not None
            aucs = _aligned(alignments.unedited, region)
            why = f"unedited images do not show that this helps to separate the classes: {aucs}"
        return f"The {label} model responds to {region}: {text}, but {why}."
    assert spread is not None
    size = f"{spread.spread.estimate:.2f} SD ({_interval(spread.spread)}"
    mean = spread.effect.estimate
    cancels = abs(mean) < spread.spread.estimate / 2
    average = "the changes cancel on average" if cancels else f"by {mean:.2f} SD on average"
    if not cancels and not spread.agree:
        average += f", on which the fill-ins do not agree ({_fills(spread)})"
    return (
        f"The {label} model responds to {region}: {_DONE[spread.test]} changes the log-odds of single cases by {size}; "
        f"label {spread.stratum}, adjusted p {_p(spread.p_spread)}) more than a sham does, but {average}, "
        "and it is not shown that this helps to separate the classes."
    )


def _aligned(alignment: Alignment, region: str) -> str:
    """Return the AUCs of an alignment as a clause."""
    read = " as the model reads it" if alignment.as_read else ""
    if alignment.how == "label":
        sets = "with that of patients with the same label", "with that of patients with the other label"
    elif alignment.how.startswith("property:"):
        sets = "with that of patients in the half associated with the label", "with that of patients in the other half"
    elif alignment.how.startswith("cue:"):
        sets = (
            f"with the region of patients whose {alignment.how} points to the right label{read}",
            "with the region of patients whose cue points to the wrong label",
        )
    elif alignment.how == "remove" and np.isnan(alignment.absent.estimate):
        sets = "with the region", "without it"
    else:
        edited = " (cues were removed from images or inserted)" if alignment.how else ""
        what = "the cue" if region.startswith("cue:") else "it"
        sets = f"where {what} points to the right label{read}", f"where it points to the wrong label{edited}"
    text = f"the AUC is {alignment.aligned.estimate:.2f} {sets[0]} and {alignment.anti.estimate:.2f} {sets[1]}"
    if alignment.at_ceiling and not np.isnan(alignment.share.estimate) and not alignment.reliance.low > ALIGNED:
        text += (
            f"; it carries {alignment.share.estimate:.0%} of the separation of the classes "
            f"(95 % confidence interval {alignment.share.low:.0%} to {alignment.share.high:.0%})"
        )
        text += "" if np.isnan(alignment.flips) else f" and changes {alignment.flips:.0%} of the predicted labels"
    return text


def _fills(effect: Effect) -> str:
    return ", ".join(f"{fill} {interval.estimate:.2f} SD" for fill, interval in effect.by_fill.items())


def is_artefact(label: str, region: str, heat: Heat, largest: Effect) -> str:
    """Return the sentence of ARTEFACT-CONSISTENT, with the largest effect."""
    why = (
        "this heat stays at the border of the input when the image is moved inwards"
        if heat.stays_at_the_frame
        else "null maps have as much heat there"
    )
    return (
        f"The maps of the {label} model have more heat in {region} than elsewhere ({heat.enrichment.estimate:.2f} "
        f"times its share of the image), but {why}, and {_effect(largest)}: this heat is no evidence of use."
    )


def has_no_effect(label: str, region: str, removals: Sequence[Effect], delta: float) -> str:
    """Return the sentence of EQUIVALENT TO NONE, with the largest effect."""
    largest = max(removals, key=lambda effect: abs(effect.effect.estimate))
    if largest.by.startswith("property:"):
        beginning = f"The {label} model does not use the differences in {region} between these images"
    elif any(effect.test == "remove" and abs(effect.own.estimate) > delta for effect in removals):
        beginning = f"The {label} model uses {region} no more than other parts of the image"
    else:
        beginning = f"The {label} model does not use {region}"
    return f"{beginning}: {_effect(largest)}, and in every stratum tested a mean effect of {delta:g} SD is excluded."


def is_not_shown(
    label: str,
    region: str,
    removals: Sequence[Effect],
    inserted: Sequence[Effect],
    responses: Sequence[Response],
    untested: Sequence[str],
    delta: float,
) -> str:
    """Return the sentence of NOT SHOWN, with the largest effect that cannot be excluded."""
    largest = max(removals, key=lambda effect: abs(effect.effect.estimate))
    limit = max(effect.smallest_delta for effect in removals)
    remark = ""
    if inserted:
        put_in = _effect(inserted[0])
        remark = f" {put_in[0].upper()}{put_in[1:]}: in images that have it, something else may do the same."
    if largest.p_adjusted < LEVEL and largest.is_of_sham(delta):
        own = f"the region itself changes it by {largest.own.estimate:.2f} SD"
        why = f"but this is the change by the sham, {largest.sham:.2f} SD; {own}"
    elif largest.p_adjusted < LEVEL and not largest.agree:
        why = f"but the fill-ins do not agree ({_fills(largest)})"
        donor = largest.by_fill.get("donor")
        if donor is not None and 2 * abs(donor.estimate) < abs(largest.effect.estimate):
            why += ": what all images have in common there stays the same with a donor"
    elif inserted and all(effect.is_small(delta) for effect in removals):
        why = "although inserting it has an effect"
    elif all(effect.is_small(delta) for effect in removals):
        why = f"a mean shown to be small, but {_what_remains_possible(removals, responses, untested, delta)}"
    else:
        why = f"and a mean effect of up to {limit:.2f} SD cannot be excluded"
        remark += _in_single_cases(responses, delta)
    margin = min(effect.margin for effect in removals)
    if margin < _FEW_APART:
        remark += f" Without a few patients far from the others, the SD is {margin:.2f} times as large."
    return f"Whether the {label} model relies on {region} is not shown: {_effect(largest)}, {why}.{remark}"


def _what_remains_possible(
    removals: Sequence[Effect], responses: Sequence[Response], untested: Sequence[str], delta: float
) -> str:
    """Return the clause on why small mean effects do not exclude that the region is used."""
    single = max(removals, key=lambda effect: effect.spread.high / effect.margin)
    response = max(responses, key=lambda response: response.change.high / response.margin, default=None)
    if not single.is_none(delta):
        return f"single cases may change by {single.spread.high:.2f} SD more than by the sham"
    if response is None or response.is_none(delta):
        return f"with the label {untested[0]}, fewer than {FEWEST} patients could be tested"
    shared = ", and what all images have in common there is replaced with itself by an exchange"
    return _changed(response) + shared * (response.test == "blur")


def _in_single_cases(responses: Sequence[Response], delta: float) -> str:
    """Return the sentence on a swap that changes single cases in one stratum, or has nothing to compare it with."""
    swaps = [r for r in responses if r.test == "swap" and (r.is_large(delta) or np.isnan(r.p)) and r.change.low > delta]
    if not swaps:
        return ""
    swap = max(swaps, key=lambda response: response.change.low)
    compared = "no equally large part lies beside it" if np.isnan(swap.p) else "more than the part beside it"
    clause = _changed(swap)
    return f" {clause[0].upper()}{clause[1:]}; {compared}."


_FEW_APART = 0.9
"""SD without outlying patients, as a share of the SD, below which NOT SHOWN says so."""
_HUGE = 10
"""Effect in SD above which the sentence says that the log-odds of the patients hardly differ."""
_DONE = {
    "remove": "removing it, rather than a patch of the same shape elsewhere,",
    "exchange": "replacing it with that of another patient",
    "insert": "inserting it, rather than the same part of an image without it,",
}


def _effect(effect: Effect) -> str:
    what = _DONE[effect.test]
    if effect.by.startswith("property:"):
        what = "replacing it with that of a patient in the lower half of the cohort, rather than the upper half,"
    elif effect.by == "label":
        what = "replacing it with that of a patient with the other label, rather than the same label,"
    elif effect.by:
        what = f"replacing it with that of a patient without {effect.by}, rather than a patient with it,"
    size = effect.effect.estimate
    p = "" if np.isnan(effect.p_adjusted) else f", adjusted p {_p(effect.p_adjusted)}"
    alike = f"; their log-odds hardly differ, SD {effect.sd:.2g}" if abs(size) > _HUGE else ""
    return (
        f"{what} changes the log-odds by {size:.2f} SD on average ({_interval(effect.effect)}; {effect.patients} "
        f"patients, label {effect.stratum}{p}{alike})"
    )


def _interval(interval: Interval) -> str:
    return f"95 % confidence interval {interval.low:.2f} to {interval.high:.2f}"


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".", 1)
