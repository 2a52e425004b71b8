import csv
import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from camscope.cohort.case import Case
from camscope.errors import SettingError
from camscope.training.dataset import SPLITS, Dataset, read_dataset
from camscope.training.splits import conflicts, split, write_split


def made(patients: int, *, seed: int = 0, rare: float = 0.1) -> Dataset:
    """Patients with one to four images and two labels, one of them rare."""
    draw = np.random.default_rng(seed)
    cases = []
    for patient in range(patients):
        truth = {"rare": bool(draw.random() < rare), "common": bool(draw.random() < 0.5)}
        for shot in range(draw.integers(1, 5)):
            name = f"{patient}_{shot}"
            cases.append(Case(len(cases), 0, name, name, f"P{patient}", truth=truth, sha256=name))
    return Dataset(Path("made.csv"), ("rare", "common"), "any", tuple(cases))


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_divided_and_every_label_gets_its_share(seed):
    dealt = split(made(200, seed=seed), seed=seed)
    where = defaultdict(set)
    for e in dealt.cases:
        where[e.patient].add(e.split)
    assert all(len(splits) == 1 for splits in where.values())
    counts = {name: dealt.truth(dealt.of(name)) for name in SPLITS}
    whole = dealt.truth(dealt.cases)
    for name, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
        np.testing.assert_allclose(counts[name].sum(0) / whole.sum(0), share, atol=0.06)
        assert abs(len(counts[name]) / len(whole) - share) < 0.06


def test_the_seed_alone_decides():
    one, same, other = (split(made(60), seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_the_rarest_label_is_in_every_split():
    data = made(40, rare=0)
    cases = list(data.cases)
    for n in (0, 30, 60):
        rare = cases[n].patient
        cases = [dataclasses.replace(e, truth={**e.truth, "rare": True}) if e.patient == rare else e for e in cases]
    dealt = split(dataclasses.replace(data, cases=tuple(cases)), fractions=(0.4, 0.3, 0.3))
    assert all(any(e.truth["rare"] for e in dealt.of(name)) for name in SPLITS)


def test_the_same_bytes_stay_together_whoever_they_are_said_to_be_of():
    data = made(60)
    twins = [
        dataclasses.replace(e, sha256="twin") if e.image.endswith("_0") and n % 3 else e
        for n, e in enumerate(data.cases)
    ]
    dealt = split(dataclasses.replace(data, cases=tuple(twins)), fractions=(0.6, 0.2, 0.2))
    assert len({e.split for e in dealt.cases if e.sha256 == "twin"}) == 1


@pytest.mark.parametrize("kind", ["patient", "bytes"])
def test_a_stated_split_that_leaks_is_refused_by_name(kind):
    stated = [dataclasses.replace(e, split=SPLITS[int(e.patient[1:]) % 3]) for e in made(12).cases]
    data = dataclasses.replace(made(12), cases=tuple(stated))
    assert split(data) == data
    first, other = stated[0], next(e for e in stated if e.split == "test")
    change = {"patient": first.patient} if kind == "patient" else {"sha256": first.sha256}
    leaking = [dataclasses.replace(e, **change) if e is other else e for e in stated]
    with pytest.raises(SettingError, match=f"{first.image} \\(train\\) and {other.image} \\(test\\) are"):
        split(dataclasses.replace(data, cases=tuple(leaking)))


@pytest.mark.parametrize("given", [("test",), ("val",), ()])
def test_a_missing_set_is_taken_from_the_training_set(given):
    words = [*given, "train", "train", "train"][:4]
    stated = [dataclasses.replace(e, split=words[int(e.patient[1:]) % len(words)]) for e in made(80).cases]
    data = dataclasses.replace(made(80), cases=tuple(stated))
    dealt = split(data)
    for name in given:
        assert [e.image for e in dealt.of(name)] == [e.image for e in data.of(name)]
    for name in {"val", "test"} - {*given}:
        assert 0.1 < len(dealt.of(name)) / len(data.of("train")) < 0.3
    patients = [{e.patient for e in dealt.of(name)} for name in SPLITS]
    assert len(set.union(*patients)) == sum(map(len, patients))


def test_nothing_is_taken_from_a_test_set():
    stated = tuple(dataclasses.replace(e, split="test") for e in made(8).cases)
    with pytest.raises(SettingError, match="nothing is left for train and val"):
        split(dataclasses.replace(made(8), cases=stated))


def test_too_few_patients_and_wrong_shares():
    with pytest.raises(SettingError, match="nothing is left for"):
        split(made(1))
    with pytest.raises(SettingError, match="add up to 1"):
        split(made(20), fractions=(0.5, 0.5, 0.5))


def test_the_written_split_is_read_back(tmp_path, class_folders):
    data = split(read_dataset(class_folders(8)), fractions=(0.5, 0.25, 0.25))
    bad = dataclasses.replace(data.cases[0], problems={"": "it is, alas, damaged"}, split="")
    data = dataclasses.replace(data, cases=(bad, *data.cases[1:]))
    path = write_split(data, tmp_path)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(data.cases)
    assert rows[0]["problem"] == "it is, alas, damaged"
    back = read_dataset(path)
    assert back.labels == data.labels
    assert [(e.split, e.truth, e.patient) for e in back.cases] == [(e.split, e.truth, e.patient) for e in data.cases]


def test_equal_pictures_with_different_labels_are_named():
    data = made(4)
    other = dataclasses.replace(data.cases[-1], sha256=data.cases[0].sha256, truth={"rare": None, "common": None})
    found = conflicts(dataclasses.replace(data, cases=(*data.cases[:-1], other)))
    assert found == [f"{data.cases[0].image} and {other.image} are the same bytes with different labels"]
