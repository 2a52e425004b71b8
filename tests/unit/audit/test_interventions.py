import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.power import TTestPower

from camscope.audit.alignment import alignments_of, cue_alignment, direction_of
from camscope.audit.interventions import RegionEditor, scored
from camscope.audit.measures import (
    adjusted,
    adjusted_responses,
    effects,
    group_maps,
    hidden_and_alone,
    metadata,
    responses,
)
from camscope.audit.samples import PatchDonors
from camscope.audit.settings import AuditSettings
from camscope.audit.verdicts import judge

spec = importlib.util.spec_from_file_location("audit_conftest", Path(__file__).with_name("conftest.py"))
known = importlib.util.module_from_spec(spec)
spec.loader.exec_module(known)
SETTINGS = AuditSettings(replicates=999)
ASKED = ("mask:label", "cue:token")


def intervene(subjects, score, regions=ASKED, large=()):
    mean = np.mean([s.x for s in subjects], 0)
    donors = PatchDonors(subjects, seed=0)
    plan = {"lesions": ("mask:label",), "disease": ("mask:label",), "objects": ("cue:token", "mask:device")}
    editor = RegionEditor(regions, donors, mean, 0, large=large, **plan)
    log_odds = dict(enumerate(score(np.stack([s.x for s in subjects])).tolist()))
    return scored((edit for s in subjects for edit in editor.edits(s)), score=score, log_odds=log_odds)


def verdicts(subjects, score, regions=ASKED, large=()):
    rows = known.rows_of(subjects, score)
    found, _ = intervene(subjects, score, regions, large)
    effects_ = adjusted({"L": effects(rows, found, settings=SETTINGS)})["L"]
    swapped = adjusted_responses({"L": responses(rows, found, settings=SETTINGS)})["L"]
    cues = {"cue:token": cue_alignment(rows, "cue:token", settings=SETTINGS)}
    directions = {"cue:token": direction_of(rows, "cue:token", settings=SETTINGS)}
    on_cues = {"unedited": cues, "directions": directions, "threshold": 0.5}
    return {
        name: judge(
            "L",
            name,
            "disease" if name == "mask:label" else "shortcut",
            effects=effects_.get(name, ()),
            responses=swapped.get(name, ()),
            heat=None,
            alignments=alignments_of(rows, name, found, **on_cues, settings=SETTINGS),
            untestable="nothing",
            delta=0.1,
        )
        for name in regions
    }


def test_a_model_of_the_cue_relies_on_the_cue_alone(subjects):
    found = verdicts(subjects, known.mean_of("cue:token"))
    assert found["cue:token"].verdict == "RELIES"
    assert "a shortcut" in found["cue:token"].reason
    assert (
        "1.00 where the cue points to the right label and 0.00 where it points to the wrong label"
        in found["cue:token"].reason
    )
    assert found["mask:label"].verdict == "EQUIVALENT TO NONE"


def moved(subjects, name, mask):
    """The subjects whose region is another one, in those that have it."""
    return [
        dataclasses.replace(s, masks=s.masks | {name: mask}, declared=s.declared | {name: mask})
        if name in s.masks
        else s
        for s in subjects
    ]


def test_what_a_cue_in_the_lesion_does_is_not_taken_for_use_of_the_disease():
    """The box of the lesion holds the token, as a box around consolidation holds a drain."""

    def carries(truth, draw):
        return draw.random() < (0.85 if truth else 0.0)

    wide = moved(known.make_subjects(carries=carries), "mask:label", known.box(0, 0, 7, 7))
    score = known.mean_of("cue:token")
    found = verdicts(wide, score)
    assert found["mask:label"].verdict != "RELIES"
    lesion = verdicts(moved(known.make_subjects(carries=carries), "mask:label", known.box(9, 9, 7, 7)), score)
    assert lesion["mask:label"].verdict == "EQUIVALENT TO NONE"
    edits, _ = intervene(wide, score, ("mask:label",))
    filled = [c for c in edits if c.test == "remove" and wide[c.case].case.cues["token"]]
    clean = score(np.stack([s.x for s in wide]))
    assert filled
    assert all(abs(c.region_log_odds - clean[c.case]) < 1e-6 for c in filled)


def test_a_cue_that_is_known_without_its_mask_neither_lends_nor_receives(subjects):
    blind = {s.case.number for s in subjects if s.case.cues["token"] and s.case.number % 3 == 0}
    hidden = [
        dataclasses.replace(s, masks={k: m for k, m in s.masks.items() if k != "cue:token"})
        if s.case.number in blind
        else s
        for s in subjects
    ]
    assert all(not s.lacks("cue:token") for s in subjects if s.case.cues["token"])
    found, _ = intervene(hidden, known.mean_of("cue:token"), ("cue:token",))
    assert not {c.case for c in found} & blind
    removed = [c for c in found if c.test == "remove" and c.fill_in == "donor"]
    assert np.mean([c.region_log_odds - c.sham_log_odds for c in removed]) == pytest.approx(-1, abs=0.1)


def test_the_same_place_is_that_of_patients_with_the_same_label():
    def carries(truth, draw):
        return truth and draw.random() < 0.9

    subjects = known.make_subjects(carries=carries)
    found, _ = intervene(subjects, known.mean_of("cue:token"), ("cue:token",))
    compared = {c.case for c in found if c.fill_in == "same place"}
    lenders = {s.case.patient for s in subjects if s.truth and "cue:token" not in s.masks}
    patients = {subjects[case].case.patient for case in compared}
    assert 0 < len(patients) <= len(lenders)


def test_a_device_declared_as_a_mask_is_inserted_too(subjects):
    devices = [
        dataclasses.replace(
            s, masks={k.replace("cue:token", "mask:device"): m for k, m in s.masks.items()}, declared={}
        )
        for s in subjects
    ]
    found, _ = intervene(devices, known.mean_of("cue:token"), ("mask:device",))
    assert {c.case for c in found if c.test == "insert"} == {
        s.case.number for s in devices if "mask:device" not in s.masks
    } & {c.case for c in found}
    assert any(c.test == "insert" for c in found)


def test_a_model_of_the_lesion_relies_on_the_lesion_alone(subjects):
    found = verdicts(subjects, known.mean_of("mask:label"))
    assert found["mask:label"].verdict == "RELIES"
    assert "a disease region" in found["mask:label"].reason
    assert found["cue:token"].verdict in ("EQUIVALENT TO NONE", "NOT SHOWN")


def test_the_detectable_effect_is_that_of_the_patients_means(subjects):
    score = known.mean_of("mask:label", "cue:token", weights=[1.0, 0.1])
    rows = known.rows_of(subjects, score)
    found, _ = intervene(subjects, score)
    for region, listed in effects(rows, found, settings=SETTINGS).items():
        for effect in (one for one in listed if one.test == "remove"):
            clean = {row["case"]: row for row in rows.iter_rows(named=True)}
            moved = {}
            for change in found:
                row = clean[change.case]
                if (change.region, change.test) == (region, "remove") and row["truth"] == (effect.stratum == "present"):
                    difference = (change.region_log_odds - change.sham_log_odds) / effect.sd
                    moved.setdefault(row["patient"], {}).setdefault(change.case, []).append(difference)
            means = [np.mean([np.mean(values) for values in cases.values()]) for cases in moved.values()]
            d = np.std(means, ddof=1)
            power = TTestPower().solve_power(nobs=len(means), alpha=0.05, power=0.8)
            assert effect.detectable == pytest.approx(power * d, rel=1e-3, abs=1e-12)


def test_a_small_use_of_a_cue_is_not_reliance(subjects):
    score = known.mean_of("mask:label", "cue:token", weights=[1.0, 0.02])
    assert verdicts(subjects, score)["cue:token"].verdict != "RELIES"


def test_a_frame_is_exchanged_for_that_of_the_other_label():
    def carries(truth, draw):
        return draw.random() < (0.95 if truth else 0.05)

    subjects = known.make_subjects(carries=carries)
    score = known.mean_of("cue:token")
    found = verdicts(subjects, score, ("border:0.25",), large=("border:0.25",))
    assert found["border:0.25"].verdict == "RELIES"
    assert "replacing" in found["border:0.25"].reason
    lesion = verdicts(subjects, known.mean_of("mask:label"), ("border:0.25",), large=("border:0.25",))
    assert lesion["border:0.25"].verdict == "EQUIVALENT TO NONE"


def test_too_few_patients_are_not_tested():
    found = verdicts(known.make_subjects(6), known.mean_of("cue:token"))
    assert {one.verdict for one in found.values()} == {"NOT TESTABLE"}


def test_changes_touch_the_region_and_nothing_else(subjects):
    donors, mean = PatchDonors(subjects, seed=0), np.zeros((1, known.SIDE, known.SIDE), np.float32)
    subject = next(s for s in subjects if s.truth and "cue:token" in s.masks)
    editor = RegionEditor(ASKED, donors, mean, 0)
    seen = set()
    for _, name, edit in editor.edits(subject):
        mask = subject.masks[name]
        inside = mask if edit.test != "only" else ~mask
        assert np.array_equal(edit.region[0][~inside], subject.x[0][~inside])
        assert not np.array_equal(edit.region, subject.x)
        if edit.lender is not None:
            other = next(s for s in subjects if s.case.number == edit.lender)
            assert name not in other.masks
            assert np.array_equal(edit.sham[0][~mask], other.x[0][~mask])
        elif edit.sham is not None:
            moved = (edit.sham != subject.x)[0]
            assert 0 < moved.sum() <= mask.sum()
            assert not any((moved & declared).any() for declared in subject.declared.values())
        seen.add((name, edit.test, edit.fill_in))
    assert {("mask:label", "remove", "impute"), ("cue:token", "remove", "donor"), ("cue:token", "only", "mean")} <= seen


def with_a_drain(subjects, draw, *, chances):
    """The token of every case is a drain that covers the lesion's left half and as much beside it."""
    made = []
    for s in subjects:
        masks = {name: mask for name, mask in s.masks.items() if name != "cue:token"}
        has = draw.random() < chances[s.truth]
        if has:
            masks["cue:token"] = known.box(10, 7, 5, 6)
        case = dataclasses.replace(s.case, cues={"token": bool(has)})
        made.append(dataclasses.replace(s, masks=masks, declared=masks, case=case))
    return made


def test_a_drain_over_the_lesion_is_not_convicted_of_the_lesion():
    draw = np.random.default_rng(1)
    subjects = with_a_drain(known.make_subjects(60, carries=lambda *_: False), draw, chances=(0.1, 0.9))
    assert verdicts(subjects, known.mean_of("mask:label"))["cue:token"].verdict not in ("RELIES", "RESPONDS")


def test_a_lead_on_tissue_that_the_model_reads_is_compared_with_the_same_place():
    """The model reads the texture of the whole image, also that which is under the cue in other patients."""

    def texture(inputs):
        return inputs[:, 0, 1:12, 1:12].std((1, 2)).astype(float)

    draw = np.random.default_rng(2)
    subjects = []
    for s in known.make_subjects(80, carries=lambda truth, draw: draw.random() < (0.85 if truth else 0.05)):
        x = (draw.normal(1.2 if s.truth else 1.0, 0.1) * draw.standard_normal(s.x.shape)).astype(np.float32)
        subjects.append(dataclasses.replace(s, x=x))
    effect = next(
        e
        for e in effects(known.rows_of(subjects, texture), intervene(subjects, texture)[0], settings=SETTINGS)[
            "cue:token"
        ]
        if (e.stratum, e.test) == ("present", "remove")
    )
    assert effect.by_fill["impute"].high < 0
    assert effect.by_fill["same place"].high > 0
    assert verdicts(subjects, texture)["cue:token"].verdict != "RELIES"


def test_a_lesion_in_a_border_is_left_out_of_the_border():
    draw = np.random.default_rng(3)
    subjects = []
    for s in known.make_subjects(60):
        lesion = known.box(18, int(draw.integers(4, 12)), 6, 8)
        masks = {"border:0.25": s.masks["border:0.25"]} | ({"mask:label": lesion} if s.truth else {})
        x = s.x + np.float32(s.truth) * lesion
        subjects.append(dataclasses.replace(s, x=x.astype(np.float32), masks=masks, declared=masks))

    def bottom(inputs):
        return inputs[:, 0, 18:, 4:20].mean((1, 2)).astype(float)

    regions = ("mask:label", "border:0.25")
    found = verdicts(subjects, bottom, regions, large=("border:0.25",))
    assert found["mask:label"].verdict == "RELIES"
    assert found["border:0.25"].verdict not in ("RELIES", "RESPONDS")


def test_a_sham_stays_in_the_organ_of_its_region(subjects):
    organ = known.box(8, 4, 10, 16)
    drawn = next(s for s in subjects if s.truth)
    drawn = dataclasses.replace(drawn, declared=drawn.declared | {"mask:lung": organ})
    editor = RegionEditor(("mask:label",), PatchDonors(subjects, seed=0), np.zeros_like(drawn.x), 0)
    imputed = next(edit for _, _, edit in editor.edits(drawn) if edit.fill_in == "impute")
    moved = (imputed.sham != drawn.x)[0]
    assert moved.any()
    assert not (moved & ~organ).any()


def test_one_negative_with_a_mask_does_not_take_the_verdict_away():
    score = known.mean_of("mask:label")
    for number in (0, 1, 7):
        subjects = [
            dataclasses.replace(s, masks=s.masks | {"mask:label": known.REGIONS["mask:label"]})
            if not s.truth and s.case.number < 4 * number
            else s
            for s in known.make_subjects(80)
        ]
        assert verdicts(subjects, score)["mask:label"].verdict == "RELIES", number


def test_a_cue_is_inserted_where_it_is_not(subjects):
    found, _ = intervene(subjects, known.mean_of("cue:token"), ("cue:token",))
    inserted = [c for c in found if c.test == "insert"]
    carriers = {s.case.number for s in subjects if "cue:token" in s.masks}
    assert inserted
    assert not {c.case for c in inserted} & carriers
    assert np.mean([c.region_log_odds - c.sham_log_odds for c in inserted]) == pytest.approx(1, abs=0.1)


def test_forwards_are_as_many_as_the_budget_says(subjects):
    counted = []

    def score(inputs):
        counted.append(len(inputs))
        return known.mean_of("cue:token")(inputs)

    regions = ("mask:label", "cue:token", "border:0.25")
    _, forwards = intervene(subjects, score, regions, large=("border:0.25",))
    assert counted.pop(0) == len(subjects), "the unedited images"
    assert forwards == sum(counted)
    fill_ins = 3
    assert forwards <= len(subjects) * len(regions) * (2 * fill_ins + 1)
    assert max(counted) <= 66


def test_a_donor_patient_lends_to_one_patient_of_any_view(subjects):
    viewed = [
        dataclasses.replace(s, case=dataclasses.replace(s.case, group=("AP" if s.case.number % 2 else "PA",)))
        for s in subjects
    ]
    donors = PatchDonors(viewed, seed=0)
    pairs, views = set(), set()
    for subject in viewed:
        one = donors.pick(subject, lambda other: other.truth, role="a")
        if one is not None:
            assert one.truth
            assert one.case.patient != subject.case.patient
            pairs.add((subject.case.patient, one.case.patient))
            views.add((*subject.case.group, *one.case.group))
    for place in (0, 1):
        assert len({pair[place] for pair in pairs}) == len(pairs), "one lends to one"
    assert len(pairs) == 20, "as many as there are patients with the label"
    assert len(views) == 4, "what all images of a view have is not replaced with itself"
    assert donors.pick(viewed[0], lambda other: False, role="b") is None


def test_a_hidden_lesion_leaves_nothing_to_tell_by(subjects):
    score = known.mean_of("border:0.25", "cue:token", weights=[0.0, 1.0])
    rows = known.rows_of(subjects, score)
    found, _ = intervene(subjects, score, ("border:0.25",), large=("border:0.25",))
    shown = hidden_and_alone(rows, found)
    assert set(shown["border:0.25"]) == {"alone"}
    assert 0 <= shown["border:0.25"]["alone"].estimate <= 1


def test_metadata_that_the_score_tells(subjects):
    rows = known.rows_of(subjects, known.mean_of("cue:token"))
    rows = rows.with_columns(rows["cue:token"].cast(int).cast(str).alias("stratum:site"))
    found = metadata(rows, ["stratum:site"])["stratum:site"]["0"]
    assert found["present"].estimate == 0
    assert found["absent"].high < 0.5


def test_where_the_maps_of_two_views_differ():
    draw = np.random.default_rng(0)
    grids, groups, patients = [], [], []
    for number in range(80):
        grid = draw.random((4, 4)) + 0.5
        grid[0, 0] += 3 * (number % 2)
        grids.append(grid.ravel().tolist())
        groups.append("AP" if number % 2 else "PA")
        patients.append(f"P{number // 2}")
    rows = pl.DataFrame({"grid": grids, "group": groups, "patient": patients}).with_columns(grid_height=4, grid_width=4)
    found = group_maps(rows, settings=SETTINGS)
    assert found["patients"] == 40
    assert found["p"][0, 0] < 0.05
    flat = rows.with_columns(pl.Series("grid", draw.random((80, 16)).tolist()))
    assert group_maps(flat, settings=SETTINGS)["smallest_p"] > 0.05
    assert "reason" in group_maps(rows.filter(pl.col("group") == "AP"), settings=SETTINGS)


def test_a_balanced_object_in_a_border_is_seen_without_a_cue():
    """No exchange by the label shows it, since donors with and without the label have it equally often."""
    ring = ~known.box(3, 3, 18, 18)
    found = {}
    for name, score in (("token", known.mean_of("cue:token")), ("lesion", known.mean_of("mask:label"))):
        subjects = [
            dataclasses.replace(
                s,
                case=dataclasses.replace(s.case, cues={}),
                masks={k: m for k, m in s.masks.items() if k != "cue:token"} | {"border:0.10": ring},
                declared={k: m for k, m in s.declared.items() if k != "cue:token"},
            )
            for s in known.make_subjects()
        ]
        rows = known.rows_of(known.make_subjects(), score).drop("cue:token")
        changes, _ = intervene(subjects, score, ("border:0.10",), large=("border:0.10",))
        swapped = adjusted_responses({"L": responses(rows, changes, settings=SETTINGS)})["L"]["border:0.10"]
        found[name] = [r.is_large(0.1) for r in swapped if r.test == "swap"]
        means = effects(rows, changes, settings=SETTINGS)["border:0.10"]
        assert not any(e.is_strong(0.1) or e.spreads(0.1) for e in means)
    assert found == {"token": [True, True], "lesion": [False, False]}


CORNERS = np.logical_or.reduce([known.box(top, left, 6, 6) for top in (0, 18) for left in (0, 18)])
SHARED = {"border:0.25": ~known.box(6, 6, 12, 12), "corner:0.25": CORNERS, "border:0.35": ~known.box(8, 8, 8, 8)}


def token_score(inputs):
    """The lesion, and five units more for a token that is brighter than half of its usual value."""
    token = inputs[:, 0][:, known.REGIONS["cue:token"]].mean(1)
    return known.mean_of("mask:label")(inputs) + 5.0 * (token > 0.5)


def all_or_none(*, token):
    """A cohort in which every image has the token, or none; no column and no mask names it."""
    return [
        dataclasses.replace(
            s,
            case=dataclasses.replace(s.case, cues={"token": False}),
            masks={name: mask for name, mask in s.masks.items() if name == "mask:label"} | SHARED,
            declared={name: mask for name, mask in s.declared.items() if name == "mask:label"},
        )
        for s in known.make_subjects(carries=lambda truth, draw: token)
    ]


@pytest.mark.parametrize("name", SHARED)
def test_a_mark_in_every_image_that_decides_is_not_called_unused(name):
    shared = verdicts(all_or_none(token=True), token_score, (name,), large=(name,))[name]
    assert shared.verdict == "NOT SHOWN"
    assert "blurring it out changes the log-odds" in shared.reason
    assert verdicts(all_or_none(token=False), token_score, (name,), large=(name,))[name].verdict == "EQUIVALENT TO NONE"


def test_the_outside_of_one_mask_is_not_filled_with_the_inside_of_another():
    """Every patient's lungs lie elsewhere: their outsides are exchanged only where both are outside."""
    own, others = known.box(4, 4, 8, 8), known.box(12, 12, 8, 8)
    subjects = [
        dataclasses.replace(s, masks={"outside:lung": ~(own if s.case.number % 4 < 2 else others)}, declared={})
        for s in known.make_subjects()
    ]
    marked = [
        dataclasses.replace(s, x=np.where(s.masks["outside:lung"], 9.0, 0).astype(np.float32)[None]) for s in subjects
    ]

    def dark(inputs):
        return (inputs == 0).sum((1, 2, 3)).astype(float)

    changes, _ = intervene(marked, dark, ("outside:lung",), large=("outside:lung",))
    assert {c.region_log_odds for c in changes if c.test in ("exchange", "swap")} == {64.0}


def test_a_large_lesion_is_compared_with_the_same_place_of_patients_without_it():
    """Most donors with the same label have no lesion there, so that an exchange in place would say little."""
    wide = known.box(4, 4, 15, 15)
    subjects = [
        dataclasses.replace(
            s,
            x=s.x + np.where(wide, float(s.truth), 0).astype(np.float32),
            masks={"mask:label": wide} if s.truth else {},
            declared={"mask:label": wide} if s.truth else {},
        )
        for s in known.make_subjects(carries=lambda truth, draw: False)
    ]

    def score(inputs):
        return inputs[:, 0][:, wide].mean(1).astype(float)

    changes, _ = intervene(subjects, score, ("mask:label",))
    assert {(c.test, c.fill_in) for c in changes} == {("remove", "same place"), ("only", "mean")}
    assert verdicts(subjects, score, ("mask:label",))["mask:label"].verdict == "RELIES"


def test_a_swap_is_not_compared_with_a_part_that_holds_the_lesion():
    """The lesion lies just inside of the border: swapping it would hide what swapping the border does."""
    ring = ~known.box(6, 6, 12, 12)
    subjects = [
        dataclasses.replace(s, masks=s.masks | {"border:0.25": ring}, declared=dict(s.declared))
        for s in moved(known.make_subjects(), "mask:label", known.box(6, 6, 4, 12))
    ]
    inside = known.REGIONS["mask:label"]
    changes, _ = intervene(
        subjects, lambda x: x[:, 0][:, known.box(6, 6, 4, 12)].mean(1).astype(float), ("border:0.25",)
    )
    assert inside.any()
    swaps = [c for c in changes if c.test == "swap" and subjects[c.case].truth]
    clean = [float(s.x[0][known.box(6, 6, 4, 12)].mean()) for s in subjects]
    assert swaps
    assert all(np.isnan(c.sham_log_odds) or abs(c.sham_log_odds - clean[c.case]) < 1e-6 for c in swaps)
