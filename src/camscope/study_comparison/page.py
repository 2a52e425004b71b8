"""Write the HTML page of a comparison of two studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from camscope.audit.settings import FEWEST, LEVEL
from camscope.page.lines import Drawn
from camscope.page.shell import rendered
from camscope.report.words import region_words
from camscope.study_comparison.figures import auc_figure, effect_figure, effect_rows, heat_figure

if TYPE_CHECKING:
    from camscope.study_comparison.compare import LabelComparison, StudyComparison

_UNTESTED = "not tested"


def page_text(comparison: StudyComparison, records: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a comparison.

    Args:
        comparison: the comparison.
        records: content of ``study.json`` of A and of B.
    """
    labels = sorted(comparison.labels, key=lambda label: _tone(label) != "open")
    figures: dict[str, Sequence[Drawn | None]] = {
        "auc": [auc_figure([(label.label, label.auc) for label in labels], name="auc")],
        "effects": [effect_figure(e.label, e.effects, name=f"effect{n}") for n, e in enumerate(labels)],
        "heat": [heat_figure(e.label, e.heat, name=f"heat{n}") for n, e in enumerate(labels)],
    }
    content = {
        "comparison": comparison,
        "labels": labels,
        "tones": {label.label: _tone(label) for label in labels},
        "drawn": {
            section: [Drawn(d.title, Markup(d.svg), d.columns, d.rows) for d in panels if d is not None]
            for section, panels in figures.items()
        },
        "tables": {
            "regions": [row for label in labels for row in effect_rows(label.label, label.effects)],
            "properties": [row for label in labels for row in effect_rows(label.label, label.properties)],
        },
        "verdicts": [
            (label.label, region_words(region), a or _UNTESTED, b or _UNTESTED)
            for label in labels
            for region, (a, b) in label.verdicts.items()
        ],
        "record": [
            (
                label.label,
                *(
                    f"{name}, {_weights(record, label.label)}"
                    for name, record in zip(label.models, records, strict=True)
                ),
            )
            for label in labels
        ],
        "versions": [f"camscope {record['versions']['camscope']}" for record in records],
        "fewest": FEWEST,
        "level": LEVEL,
    }
    return rendered("comparison.html.j2", content, package="camscope.study_comparison")


def _weights(record: Mapping[str, Any], label: str) -> str:
    return f"weights {str(record['models'][label]['weights_sha256'])[:12]}"


def _tone(label: LabelComparison) -> str:
    """Return the colour of a label's answer: open if something changed."""
    changed = label.auc.p_adjusted < LEVEL or any(e.p_adjusted < LEVEL for e in (*label.effects, *label.properties))
    return "open" if changed else "none"
