import dataclasses
import importlib.util
from pathlib import Path

import numpy as np

from camscope.audit.disease import disease_places
from camscope.study.config import AuditSection

spec = importlib.util.spec_from_file_location("audit_conftest", Path(__file__).with_name("conftest.py"))
known = importlib.util.module_from_spec(spec)
spec.loader.exec_module(known)
LUNG = known.box(2, 2, 20, 20)
SECTION = AuditSection(disease=("mask:label", "mask:lung"), shortcuts=("cue:token", "border:0.25"))


def with_masks(subjects, **masks):
    """The subjects with masks by name; each a function (number, subject) -> mask, or None for no mask."""
    made = []
    for number, subject in enumerate(subjects):
        given = {name.replace("_", ":"): function(number, subject) for name, function in masks.items()}
        kept = {name: mask for name, mask in subject.masks.items() if name not in given}
        made.append(
            dataclasses.replace(subject, masks=kept | {name: mask for name, mask in given.items() if mask is not None})
        )
    return made


def test_a_lesion_shows_where_the_disease_is_and_the_lungs_do_not(subjects):
    places = disease_places(with_masks(subjects, mask_lung=lambda *_: LUNG), SECTION)
    assert places.lesions == ("mask:label",)
    assert places.overlaps == ()
    one = with_masks(
        subjects, mask_label=lambda number, s: known.REGIONS["mask:label"] if s.truth or number == 2 else None
    )
    assert disease_places(one, AuditSection(disease=("mask:label",))).lesions == ("mask:label",)


def test_a_shortcut_that_overlaps_a_lesion_is_named(subjects):
    low = with_masks(subjects, mask_label=lambda _, s: known.box(20, 4, 4, 8) if s.truth else None)
    assert disease_places(low, SECTION).overlaps == ("border:0.25",)


def test_a_moving_cue_may_follow_a_disease_whose_place_is_unknown(subjects):
    draw = np.random.default_rng(0)

    def moving(_, subject):
        return known.box(*draw.integers(0, 18, 2), 4, 4) if subject.case.cues["token"] else None

    unknown = AuditSection(shortcuts=("cue:token", "border:0.25"))
    moved = with_masks(subjects, cue_token=moving)
    assert disease_places(moved, unknown).doubts["cue:token"] == "disease"
    assert disease_places(moved, SECTION).doubts == {}
    assert disease_places(subjects, unknown).doubts["cue:token"] == "tissue", "the token is always at the same place"
    half = with_masks(moved, mask_label=lambda number, s: s.masks.get("mask:label") if number % 4 == 0 else None)
    assert disease_places(half, SECTION).doubts["cue:token"] == "disease"


def test_a_border_is_in_doubt_where_known_lesions_reach_into_it_or_none_is_known(subjects):
    unknown = AuditSection(shortcuts=("border:0.25",))
    assert disease_places(subjects, unknown).doubts == {"border:0.25": "unseen"}
    half = with_masks(subjects, mask_label=lambda number, s: s.masks.get("mask:label") if number % 4 == 0 else None)
    assert disease_places(half, SECTION).doubts["border:0.25"] == ""
    low = known.box(18, 10, 5, 5)
    near = with_masks(subjects, mask_label=lambda number, s: low if s.truth and number % 4 == 0 else None)
    assert disease_places(near, SECTION).doubts["border:0.25"] == "disease"
    all_known = with_masks(subjects, mask_label=lambda _, s: low if s.truth else None)
    assert disease_places(all_known, SECTION).doubts == {}
