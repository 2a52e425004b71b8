"""Write the answer for a label in one sentence: which effects changed, and the AUC."""

from __future__ import annotations

from collections.abc import Sequence

from camscope.audit.settings import LEVEL
from camscope.page.words import number, p_value
from camscope.report.words import region_words
from camscope.statistics.paired import PairedDifference
from camscope.study_comparison.differences import AucDifference, EffectDifference

_MOST = 2
_VISIBLE = 0.005  # smaller differences are no change of two decimals; other backends differ by less too
_NONE = 0.1  # SD; an effect below it has no sign to speak of


def answer(auc: AucDifference, effects: Sequence[EffectDifference], *, same: bool) -> str:
    """Return the answer for a label.

    Args:
        auc: the difference of the AUCs.
        effects: the differences of the effects of regions and properties; [] if there are none to compare.
        same: whether all scores and effects of the two studies are equal.
    """
    if same:
        whole = "every score and effect is equal" if effects else "every score is equal"
        return f"There is no difference: {whole}. The AUC is {number(auc.auc.first.estimate)}."
    changed = [e for e in effects if e.p_adjusted < LEVEL and abs(e.sd.difference.estimate) >= _VISIBLE]
    regions: dict[str, EffectDifference] = {}
    for effect in sorted(changed, key=lambda e: (e.test == "insert", e.sd.p)):
        regions.setdefault(effect.region, effect)
    shown = sorted(regions.values(), key=lambda e: e.sd.p)
    parts = [_changed(effect) for effect in shown[:_MOST]]
    if more := len(regions) - len(parts):
        parts.append(f"{more} more region{'s' if more > 1 else ''} or propert{'ies' if more > 1 else 'y'} changed too")
    if effects and not parts:
        largest = max(effects, key=lambda e: abs(e.sd.difference.estimate) if e.sd.p == e.sd.p else -1.0)
        test = _test(largest.sd, " SD", largest.p_adjusted)
        parts = [f"no effect is shown to differ; the largest difference is that of {named(largest)}: {test}"]
    text = "; ".join([*parts, _auc(auc)])
    return f"{text[0].upper()}{text[1:]}."


def _changed(effect: EffectDifference) -> str:
    """Return the sentence on an effect that differs."""
    sd, a, b = effect.sd, effect.sd.first.estimate, effect.sd.second.estimate
    text = (
        f"the effect of {named(effect)} {verb(a, b)} from {number(a)} to {number(b)} SD "
        f"({_test(sd, '', effect.p_adjusted)})"
    )
    return text + (f", but {unit_warning(effect)}" if unit_warning(effect) else "")


def verb(first: float, second: float) -> str:
    """Return how an effect changed.

    >>> verb(1.8, 0.2), verb(-1.8, -0.2), verb(0.2, 1.8), verb(0.5, -1.5)
    ('fell', 'fell in size', 'rose', 'changed its sign,')
    """
    if first * second < 0 and min(abs(first), abs(second)) > _NONE:
        return "changed its sign,"
    sign = "" if max(first, second, key=abs) > 0 else " in size"
    return ("fell" if abs(second) < abs(first) else "rose") + sign


def unit_warning(effect: EffectDifference) -> str:
    """Return a clause if the effect does not change in the same direction in log-odds; "" if it does."""
    raw, sd = effect.log_odds.difference, effect.sd.difference
    if (raw.low > 0 and sd.estimate > 0) or (raw.high < 0 and sd.estimate < 0):
        return ""
    a, b = effect.log_odds.first.estimate, effect.log_odds.second.estimate
    ratio = effect.scales[1] / effect.scales[0] if effect.scales[0] else float("nan")
    return f"in log-odds it went from {number(a)} to {number(b)} (the SD of B is {number(ratio)} times that of A)"


def named(effect: EffectDifference) -> str:
    """Return the region, the edit and the images of an effect in words."""
    kind = "property" if effect.region.startswith("property:") else "region"
    name = region_words(effect.region)
    by = f" by {region_words(effect.by) if ':' in effect.by else effect.by}" if effect.by else ""
    where = "with" if effect.stratum == "present" else "without"
    subject = f"the {name}" if kind == "property" or name.startswith(("border", "corner", "cue")) else name
    return f"{subject} ({effect.test}{by}, images {where} the label)"


def _auc(auc: AucDifference) -> str:
    first, second = auc.auc.first.estimate, auc.auc.second.estimate
    if first != first:
        return "the AUC is not defined: the compared images have one truth only"
    return f"the AUC is {number(first)} and {number(second)} ({_test(auc.auc, '', auc.p_adjusted)})"


def _test(difference: PairedDifference, unit: str, p: float) -> str:
    """Return a difference with its interval and p-value.

    >>> from camscope.statistics.paired import mean_of, paired_difference
    >>> _test(paired_difference(mean_of([1.0, 2.0, 1.5]), mean_of([1.0, 2.0, 1.5]), fewest=3), " SD", 1.0)
    'difference 0.00 SD, 95 % CI 0.00 to 0.00, p = 1.000'
    """
    d = difference.difference
    if d.estimate != d.estimate:
        return "the difference is not defined"
    if difference.why_no_interval:
        return f"difference {number(d.estimate)}{unit}, no interval: {difference.why_no_interval}"
    p_text = p_value(p) if p < 0.001 else f"= {p_value(p)}"
    return f"difference {number(d.estimate)}{unit}, 95 % CI {number(d.low)} to {number(d.high)}, p {p_text}"
