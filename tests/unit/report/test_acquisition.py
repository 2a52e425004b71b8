import numpy as np

from camscope.report.acquisition import constant_properties, property_rows, reliance_figure
from camscope.report.mean_maps import LabelMaps, MeanMap

AUC = {"low": 0.6, "high": 0.8, "estimate": 0.7}


def entry(name, verdict, value):
    facts = {
        "value": {"low": value[0], "median": value[1], "high": value[2]},
        "label": AUC,
        "groups": {
            "AP": {"low": 0.8, "high": 1.0, "estimate": 0.9},
            "PA": {"low": None, "high": None, "estimate": None},
        },
        "score": {"present": AUC},
    }
    effect = {"effect": {"low": -1.5, "high": -0.5, "estimate": -1.0}, "p_adjusted": 0.0004, "patients": 20}
    blank = {"role": "property", "reason": f"About {name}.", "effects": [], "auc": {}, "heat": None}
    return blank | {"verdict": verdict, "effect": effect, "facts": facts}


AUDIT = {
    "labels": {
        "Mass": {
            "properties": {
                "contrast": entry("contrast", "RELIES", (0.01, 0.234, 0.5)),
                "jpeg": entry("jpeg", "NOT TESTABLE", (100.0, 100.0, 100.0)),
            }
        },
        "Old": {},
    }
}


def test_rows_have_what_the_audit_says():
    (row,) = property_rows(AUDIT)
    assert row.label == "Mass"
    assert row.value == "0.23 (0.01 to 0.50)"
    assert row.auc == "0.70 (0.60 to 0.80)"
    assert row.group == "AP: 0.90 (0.80 to 1.00)"
    assert list(row.score) == ["present 0.70 (0.60 to 0.80)"]
    assert (row.verdict.words, row.verdict.verdict, row.verdict.tone) == ("contrast", "RELIES", "bad")
    assert constant_properties(AUDIT) == "the JPEG compression"
    assert not list(property_rows(None))
    assert constant_properties(None) == ""


def test_the_reliance_map_stands_beside_the_mean_map():
    cells = np.zeros((3, 4))
    cells[1, 2] = 0.8
    p = np.ones((3, 4))
    p[1, 2] = 0.001
    content = {
        "reliance_map": {
            "response": cells.tolist(),
            "use": [[None] * 4, *(-cells[1:]).tolist()],
            "response_p": p.tolist(),
            "use_p": p.tolist(),
            "delta": 0.1,
            "reason": "",
            "sentence": "One cell.",
        }
    }
    whole = MeanMap(np.ones((3, 4)), 5, 5, 0.8)
    maps = LabelMaps("Mass", whole, "all", {}, {}, {})
    drawn = reliance_figure(maps, content, name="cells")
    assert "<svg" in drawn.svg
    assert "One cell." in drawn.svg
    assert drawn.rows == [("row 2, column 3", "0.80", "−0.80", "0.001", "0.001")]
    content["reliance_map"]["reason"] = "too few"
    assert reliance_figure(maps, content, name="cells") is None
    assert reliance_figure(maps, {}, name="cells") is None
