"""The same table gives the same patients to a study, an evaluation and a training."""

import shutil

import pytest

from camscope.cohort.open_table import open_table, patient_source
from camscope.errors import SettingError
from camscope.evaluation.data import read_data
from camscope.study.study import Study
from camscope.training.dataset import read_dataset
from camscope.training.evaluate import count_patients
from layout_folders import chexpert, dicom

STUDY = """[cohort]
table = "train.csv"
search = true
[labels.Edema]
column = "Edema"
model = { spec = "timm:test_resnet", weights = "none", labels = ["Edema"] }
"""


def test_patients_of_a_known_layout(tmp_path):
    chexpert(tmp_path)
    shutil.copytree(tmp_path / "train", tmp_path / "CheXpert-v1.0-small/train")
    (tmp_path / "study.toml").write_text(STUDY)
    study = [case.patient for case in Study.read(tmp_path / "study.toml").cohort.cases()]
    assert study == [f"patient{n // 2 + 1:05d}" for n in range(8)]
    assert [case.patient for case in read_data(tmp_path / "train.csv").cases] == study
    assert [case.patient for case in read_dataset(tmp_path / "train.csv", labels=["Edema"]).cases] == study
    assert [case.patient for case in read_data(tmp_path / "study.toml").cases] == study
    assert [case.patient for case in read_dataset(tmp_path / "study.toml").cases] == study


def test_patients_of_headers(tmp_path):
    for n in range(4):
        dicom(tmp_path / f"{n}.dcm", PatientID=f"MRN{n // 2}")
    (tmp_path / "t.csv").write_text("path,ill\n" + "".join(f"{n}.dcm,{n % 2}\n" for n in range(4)))
    expected = ["patient 1", "patient 1", "patient 2", "patient 2"]
    assert [case.patient for case in read_data(tmp_path / "t.csv").cases] == expected
    data = read_dataset(tmp_path / "t.csv", labels=["ill"])
    assert [case.patient for case in data.cases] == expected
    assert count_patients(data.cases) == 2
    assert patient_source(open_table(str(tmp_path / "t.csv"), labels={})) == "column"


def test_lists_of_findings_are_labels(tmp_path):
    for n in range(3):
        dicom(tmp_path / f"{n}.dcm", PatientID=f"MRN{n}")
    (tmp_path / "t.csv").write_text("path,Finding Labels\n0.dcm,Mass|Effusion\n1.dcm,No Finding\n2.dcm,Mass\n")
    data = read_dataset(tmp_path / "t.csv", labels=["Finding Labels"])
    assert (data.labels, data.outcome) == (("Effusion", "Mass"), "any")
    assert data.truth(data.cases).tolist() == [[1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize("read", [read_data, read_dataset])
def test_no_image_is_there(tmp_path, read):
    (tmp_path / "t.csv").write_text("path,patient,ill\na.png,1,0\nb.png,2,1\n")
    with pytest.raises(SettingError, match=r"2 of 2 images are missing, the first is 'a.png'"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize("read", [read_data, lambda path: read_dataset(path, labels=["ill"])])
@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (["0.dcm,A,0", "./0.dcm,B,1", "1.dcm,C,1"], "image '0.dcm' has 2 patients: 'A', 'B'"),
        (["0.dcm,P1,0", "1.dcm,p1,1"], "'P1' and 'p1' are counted as different patients"),
        (["0.dcm,7,0", "1.dcm,7.0,1"], "'7' and '7.0' are counted as different patients"),
    ],
)
def test_doubtful_patients_are_told(tmp_path, rows, note, read):
    for n in range(2):
        dicom(tmp_path / f"{n}.dcm")
    (tmp_path / "t.csv").write_text("\n".join(["path,patient,ill", *rows]))
    with pytest.warns(UserWarning, match=note):
        read(tmp_path / "t.csv")
