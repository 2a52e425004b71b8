from camscope.cli.audit import summary


def entry(verdict):
    return {"verdict": verdict, "reason": f"Because {verdict}."}


def test_the_summary_has_every_region_and_the_properties_that_matter():
    result = {
        "model": "m",
        "patients": 7,
        "auc": {"estimate": 0.75},
        "self_test": {"sentence": "fine"},
        "regions": {"border:0.10": entry("NOT SHOWN")},
        "properties": {"jpeg": entry("RELIES"), "noise": entry("NOT SHOWN"), "contrast": entry("RESPONDS")},
        "reliance_map": {"sentence": "Each cell."},
    }
    bare = result | {"auc": {"estimate": None}, "properties": {}, "reliance_map": None}
    text = summary({"labels": {"A": result, "B": bare}, "forwards": 12, "patient_source": "column"}, ran=True)
    assert text.count("border:0.10: Because NOT SHOWN.") == 2
    assert "RELIES              property:jpeg: Because RELIES." in text
    assert "RESPONDS            property:contrast" in text
    assert "noise" not in text
    assert text.count("reliance map: Each cell.") == 1
    assert "AUC unknown" in text
    assert text.count("on 7 patients") == 2
    assert "no patients are known" not in text
    text = summary({"labels": {"A": result, "B": bare}, "forwards": 12, "patient_source": "none"}, ran=True)
    assert text.count("no patients are known") == 1
    assert text.count("on 7 images") == 2
