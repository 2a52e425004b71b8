"""Names of overlays, from names that others chose."""

from pathlib import PurePosixPath

import pytest

from camscope.cohort.overlay_paths import picture_name
from camscope.study.config import PATTERN

HOSTILE = [
    "../../etc/passwd", "..", ".", "/abs", "a\\b", "C:\\x", "x\0y", "x\ny\x1b[31m", "n" * 300, "患者" * 100, "<b>x</b>",
    "=1+1", " ", "{image}", "~", "CON", "a/./b", "%2e%2e", "\u202egpj.exe", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_inside(text):
    name = picture_name(PATTERN, group=[text, "AP"], patient=text, image="x", method="gradcam", label=text, model=text)
    parts = PurePosixPath(name).parts
    assert not name.startswith("/")
    assert all(part.strip(".") and len(part.encode("utf-8", "replace")) <= 255 for part in parts)
    assert not any(c in name for c in "\\\0\n\x1b:<>=")
    assert len(parts) == 5


def test_different_names_stay_different():
    made = {
        picture_name(PATTERN, group=[], patient=text, image="x", method="m", label=label, model="n")
        for text in HOSTILE
        for label in HOSTILE
    }
    assert len(made) == len(HOSTILE) ** 2


def test_a_pattern_cannot_climb_with_blank_fields():
    pattern = "{group}.{group}./{group}/{image}_{label}.jpg"
    assert picture_name(pattern, group=[""], patient="P", image="x", method="m", label="A", model="n") == "x_A.jpg"


@pytest.mark.parametrize("taken", ["rows", "private", "report.html"])
def test_the_own_folders_of_a_study_are_no_patient(taken):
    name = picture_name("{patient}/{image}.jpg", group=[], patient=taken, image="x", method="m", label="A", model="n")
    assert name.split("/")[0] != taken


def test_a_label_is_readable_unless_another_has_its_name():
    def name(label, labels):
        fields = {"group": [], "patient": "", "image": "x", "method": "cam", "model": "m"}
        return picture_name("{label}.jpg", **fields, label=label, labels=labels)

    assert name("Große Läsion", ["Große Läsion", "Mass"]) == "Große Läsion.jpg"
    labels = ["a b", "a_b", "a/b"]
    assert name("a_b", labels) == "a_b.jpg"
    assert len({name(label, labels) for label in labels}) == 3
