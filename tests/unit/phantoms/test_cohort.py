import csv
import tomllib

import numpy as np
import pytest
from PIL import Image

from camscope.errors import SettingError
from camscope.phantoms.cohort import cells, cohort, plan_cohort, plan_training, write_cohort
from camscope.phantoms.radiograph import FINDINGS


@pytest.mark.parametrize("seed", [0, 1, 7, 23])
def test_every_cell_has_eight_patients(seed):
    cases = plan_cohort(seed)
    assert len({case.patient_id for case in cases}) == 70
    assert 180 <= len(cases) <= 220
    assert {case.view for case in cases} == {"AP", "PA"}
    for finding in FINDINGS:
        counts = cells(cases, finding)
        assert len(counts) == 4
        assert min(counts.values()) >= 8


def test_token_stands_on_ap_alone():
    cases = plan_cohort(7)
    assert not any(case.token for case in cases if case.view == "PA")
    share = np.mean([case.token for case in cases if case.view == "AP"])
    assert 0.3 < share < 0.7


def test_plan_is_repeated_by_its_seed():
    assert plan_cohort(3) == plan_cohort(3) != plan_cohort(4)


def test_too_few_patients():
    with pytest.raises(SettingError, match="at least 10"):
        plan_cohort(1, patients=4)


def test_cohort_makes_what_was_planned():
    for case, made in zip(plan_cohort(7, patients=12), cohort(7, patients=12, size=(64, 64)), strict=True):
        assert (made.view, made.findings, made.token_box is not None) == (case.view, case.findings, case.token)


@pytest.mark.parametrize("finding", FINDINGS)
def test_planted_training_set(finding):
    cases = plan_training(finding, seed=0, pictures=2000, token=(0.95, 0.05))
    has = np.array([finding in case.findings for case in cases])
    token = np.array([case.token for case in cases])
    assert has.mean() == 0.5
    assert abs(token[has].mean() - 0.95) < 0.02
    assert abs(token[~has].mean() - 0.05) < 0.02
    assert {case.view for case in cases} == {"AP"}
    assert len({case.seed for case in cases}) == 2000
    for other in set(FINDINGS) - {finding}:
        with_other = np.array([other in case.findings for case in cases])
        assert abs(with_other[has].mean() - with_other[~has].mean()) < 0.06


def test_independent_training_set_is_matched():
    cases = plan_training("Effusion", seed=0, pictures=2000)
    has = np.array(["Effusion" in case.findings for case in cases])
    token = np.array([case.token for case in cases])
    bedside = np.array([case.view == "AP" for case in cases])
    assert abs(token[has & bedside].mean() - token[~has & bedside].mean()) < 0.1
    assert not token[~bedside].any()
    assert 0.4 < bedside.mean() < 0.6
    for one, other in zip(cases[::2], cases[1::2], strict=True):
        assert (one.seed, one.view, one.shot) == (other.seed, other.view, other.shot)
        assert set(one.findings) - set(other.findings) == {"Effusion"}


def test_patients_of_different_sets_differ():
    sets = [{case.seed for case in plan_training(finding, seed=0, pictures=200)} for finding in FINDINGS]
    sets += [{case.seed for case in plan_training("Nodule", seed=1, pictures=200)}]
    sets += [{case.seed for case in plan_cohort(seed)} for seed in (0, 7)]
    assert sum(map(len, sets)) == len(set.union(*sets))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("Mass", (0.5, 0.5)), "no finding called 'Mass'"), (("Nodule", (1.2, 0.5)), "not probabilities")],
)
def test_wrong_training_sets(arguments, says):
    finding, token = arguments
    with pytest.raises(SettingError, match=says):
        plan_training(finding, seed=0, pictures=4, token=token)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "new"
    seen = []
    study = write_cohort(folder, seed=7, patients=12, size=(96, 96), progress=lambda *done: seen.append(done))
    with (folder / "cohort.csv").open(encoding="utf-8", newline="") as file:
        return study, list(csv.DictReader(file)), seen


def test_written_table_names_files_that_are_there(written):
    study, rows, seen = written
    assert seen[-1] == (len(rows), len(rows))
    for row in rows:
        grey = Image.open(study.parent / row["path"])
        assert (grey.mode, grey.size) == ("L", (96, 96))
        assert row["view"] in ("AP", "PA")
        assert row["sex"] in ("F", "M")
        assert 18 < int(row["age"]) < 100
        lung = np.asarray(Image.open(study.parent / row["lung_mask"]))
        assert set(np.unique(lung)) == {0, 255}
        for finding in FINDINGS:
            path = row[f"{finding.lower()}_mask"]
            assert (path != "") == (row[finding.lower()] == "1")
            if path:
                assert np.asarray(Image.open(study.parent / path)).any()


def test_written_token_box_holds_the_plate(written):
    study, rows, _ = written
    marked = [row for row in rows if row["token"] == "1"]
    assert marked
    for row in rows:
        assert (row["token_box"] != "") == (row["token"] == "1")
    for row in marked:
        x0, y0, x1, y1 = map(int, row["token_box"].split(","))
        plate = np.asarray(Image.open(study.parent / row["path"]))[y0:y1, x0:x1]
        assert plate.max() > 230
        assert plate.min() < 30


def test_study_file_names_columns_and_models(written):
    study, rows, _ = written
    content = tomllib.loads(study.read_text(encoding="utf-8"))
    assert list(content) == ["cohort", "labels", "explain", "audit"]
    assert set(content["labels"]) == set(FINDINGS)
    columns = set(rows[0])
    about = content["cohort"]
    named = [about["image"], about["patient"], about["group"], *about["masks"].values(), *about["strata"]]
    named += [about["cues"]["token"]["column"], about["cues"]["token"]["mask"]]
    for label in content["labels"].values():
        named += [label["column"], label["mask"]]
    assert set(named) <= columns
    assert (study.parent / about["table"]).is_file()
