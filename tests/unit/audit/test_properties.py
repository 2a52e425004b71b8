"""Models that read one property of the whole image, in cohorts in which it goes with the label or does not."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from PIL import Image
from scipy import ndimage

from camscope.acquisition import PROPERTIES
from camscope.audit.alignment import alignments_of, cue_alignment
from camscope.audit.interventions import scored
from camscope.audit.measures import adjusted, effects
from camscope.audit.properties import (
    PREFIX,
    TraitReader,
    property_cases,
    property_direction,
    property_edits,
    property_facts,
    untestable_property,
    upper_side,
    with_properties,
)
from camscope.audit.samples import PatchDonors, one_per_patient
from camscope.audit.settings import AuditSettings
from camscope.audit.verdicts import judge
from camscope.cohort.case import Case
from camscope.models.preprocess import Preprocess

SIDE, PATIENTS = 48, 64
SETTINGS = AuditSettings(replicates=999)
PREPROCESS = Preprocess(input_size=(SIDE, SIDE), mean=(0.0,), std=(1.0,))
NAMES = ("contrast", "noise", "jpeg")


def make_cohort(folder, agreement):
    """Two images per patient; a bright blob in those with the label, and a contrast that agrees with it that often."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    cases, blobs = [], {}
    for number in range(2 * PATIENTS):
        truth = bool(number // 2 % 2)
        flat = (draw.random() < agreement) == truth
        field = ndimage.gaussian_filter(draw.standard_normal((SIDE, SIDE)), 4)
        pixels = 0.45 + field / field.std() * (0.05 if flat else 0.10)
        if truth:
            y, x = draw.uniform(12, 36, 2)
            blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18)
            pixels += 0.4 * blob
            blobs[number] = blob > 0.05
        path = folder / f"{number}.png"
        Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)).save(path)
        cases.append(Case(number, number, path.name, str(path), f"P{number // 2}", (), "", {"L": truth}))
    return cases, blobs


def flatness(inputs):
    return -20.0 * np.log(inputs[:, 0].std(axis=(1, 2)) / 0.08)


def brightest(inputs):
    return 30.0 * (ndimage.gaussian_filter(inputs[:, 0], (0, 2, 2)).max(axis=(1, 2)) - 0.66)


def audited(cases, blobs, score, *, confounded=False):
    reader = TraitReader(NAMES, SIDE, (lambda case, picture: blobs.get(case.number)) if blobs else None)
    values = reader.values(cases, progress=lambda done: None)
    known = property_cases(cases, "L")
    edits = property_edits(known, values, donors=PatchDonors(known, seed=0), reader=reader, preprocess=PREPROCESS)
    changes, forwards = scored(edits, score=score)
    inputs = np.stack([PREPROCESS(reader.pictures(case).full)[0].numpy() for case in cases])
    rows = pl.DataFrame(
        {
            "case": [case.number for case in cases],
            "patient": [case.patient for case in cases],
            "group": ["AP" if case.number % 4 < 2 else "PA" for case in cases],
            "truth": [case.truth["L"] for case in cases],
            "log_odds": score(inputs),
        }
    )
    rows = with_properties(rows, values)
    found = adjusted({"L": effects(rows, changes, settings=SETTINGS)})["L"]
    judgements = {}
    for name in NAMES:
        column = PREFIX + name
        directions, unedited = {}, {}
        if values[name].high:
            directions[column] = property_direction(
                property_facts(rows, column.removeprefix(PREFIX), values[column.removeprefix(PREFIX)])
            )
            unedited[column] = cue_alignment(rows, column, direction=directions[column] or 1, settings=SETTINGS)
        judgements[name] = judge(
            "L",
            column,
            "property",
            effects=found.get(column, ()),
            heat=None,
            alignments=alignments_of(
                rows, column, changes, unedited=unedited, directions=directions, threshold=0.0, settings=SETTINGS
            ),
            untestable=untestable_property(values[name]),
            delta=SETTINGS.delta,
            doubt="disease" if confounded else "",
        )
    return judgements, rows, values, (changes, forwards)


def test_a_model_of_the_contrast_relies_on_it_where_it_goes_with_the_label(tmp_path):
    cases, blobs = make_cohort(tmp_path, 0.8)
    judgements, rows, values, (changes, forwards) = audited(cases, blobs, flatness)
    assert judgements["contrast"].verdict == "RELIES"
    assert "relies on the contrast: replacing it with that of a patient" in judgements["contrast"].reason
    assert judgements["jpeg"].verdict == "NOT TESTABLE"
    assert "the JPEG compression cannot be tested: it is the same in all images" in judgements["jpeg"].reason
    assert forwards == 2 * len(changes)
    facts = property_facts(rows, "contrast", values["contrast"])
    assert facts["label"].high < 0.5  # flat images go with the label
    assert facts["score"]["absent"].high < 0.5
    assert set(facts["groups"]) == {"PA"} or set(facts["groups"]) == {"AP"}
    tiny = dataclasses.replace(
        values["contrast"], values={case: 1e-9 * value for case, value in values["contrast"].values.items()}
    )
    assert property_facts(rows, "contrast", tiny)["label"] == facts["label"]  # no rounding of a network
    confounded, *_ = audited(cases, {}, flatness, confounded=True)
    assert confounded["contrast"].verdict == "RESPONDS"
    assert "The disease itself can change this property" in confounded["contrast"].reason


def test_without_an_association_the_model_responds(tmp_path):
    cases, blobs = make_cohort(tmp_path, 0.5)
    judgements, *_ = audited(cases, blobs, flatness)
    assert judgements["contrast"].verdict == "RESPONDS"
    assert "it is not associated with the label in this cohort" in judgements["contrast"].reason


def test_a_model_of_the_disease_does_not_rely_on_the_contrast_that_the_disease_adds(tmp_path):
    cases, blobs = make_cohort(tmp_path, 0.5)
    judgements, *_ = audited(cases, blobs, brightest)
    assert judgements["contrast"].verdict != "RELIES"


def test_properties_are_measured_outside_the_disease_and_at_as_many_places_without_it(tmp_path):
    cases, blobs = make_cohort(tmp_path, 0.5)
    reader = TraitReader(("contrast",), SIDE, lambda case, picture: blobs.get(case.number))
    outside = reader.values(cases, progress=lambda done: None)["contrast"].values
    plain = TraitReader(("contrast",), SIDE).values(cases, progress=lambda done: None)["contrast"].values
    truth = np.array([case.truth["L"] for case in cases])
    excess = [
        np.log([values[case.number] for case in cases]) @ (truth / truth.sum() - (~truth) / (~truth).sum())
        for values in (outside, plain)
    ]
    assert abs(excess[0]) < 0.5 * excess[1]
    assert all(reader.knows_disease(case) == case.truth["L"] for case in cases)


def test_cases_are_read_once_for_all_labels(tmp_path, monkeypatch):
    cases, _ = make_cohort(tmp_path, 0.5)
    reader, measured = TraitReader(("noise",), SIDE), []
    item = PROPERTIES["noise"]
    counting = dataclasses.replace(item, measure=lambda picture: measured.append(picture) or item.measure(picture))
    monkeypatch.setitem(PROPERTIES, "noise", counting)
    reader.values(cases[:10], progress=lambda done: None)
    done = []
    reader.values(cases[:14], progress=done.append)
    assert len(measured) == 14
    assert done == [11, 12, 13, 14]


@pytest.mark.parametrize(
    ("values", "upper"),
    [([1, 1, 1], None), ([0, 0, 0, 5], [3]), ([1, 2, 3, 4], [2, 3]), ([0, 1, 1, 1], [1, 2, 3]), ([2.0], None)],
)
def test_the_upper_side_is_the_most_even_of_the_two_halves(values, upper):
    side = upper_side(np.array(values, float))
    assert (None if side is None else np.flatnonzero(side).tolist()) == upper


def test_one_case_per_patient_is_taken_from_both_sides_of_the_label(tmp_path):
    cases, _ = make_cohort(tmp_path, 0.5)
    both = [Case(c.number, c.number, "", "", "A" if c.number < 6 else c.patient, (), "", c.truth) for c in cases]
    chosen = one_per_patient(property_cases(both, "L"), 40)
    assert len(chosen) == 40
    assert len({item.case.patient for item in chosen}) == 40
    everyone = one_per_patient(property_cases(both, "L"), 1000)
    assert len(everyone) == PATIENTS - 2
    assert abs(sum(item.truth for item in everyone) - len(everyone) / 2) <= 1
