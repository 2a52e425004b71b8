import pytest
from PIL import Image

from camscope.cohort.columns import find_column
from camscope.cohort.open_table import notes_on
from camscope.errors import SettingError, StudyError
from camscope.evaluation.data import read_data
from camscope.study.study import Study
from camscope.training.dataset import read_dataset


@pytest.mark.parametrize(
    ("columns", "role", "found"),
    [
        (["Image Index", "Finding Labels", "Patient ID"], "image", "Image Index"),
        (["Image Index", "Finding Labels", "Patient ID"], "patient", "Patient ID"),
        (["Path", "Sex"], "image", "Path"),
        (["FILE_NAME", "subject-id"], "image", "FILE_NAME"),
        (["FILE_NAME", "subject-id"], "patient", "subject-id"),
        (["patientId", "x"], "patient", "patientId"),
        (["a", "b"], "patient", None),
    ],
)
def test_names_are_compared_without_case_spaces_and_underscores(columns, role, found):
    assert find_column(columns, role, option="--x") == found


def test_two_candidates_are_named():
    with pytest.raises(
        SettingError, match=r"'patient' and 'Patient ID' could each be that of the patient: .*--patient"
    ):
        find_column(["patient", "Patient ID", "path"], "patient", option="--patient")
    assert find_column(["patient", "Patient ID"], "patient", name="patient", option="--patient") == "patient"
    with pytest.raises(SettingError, match=r"no column called 'patint'; nearest: 'patient'.* \(--patient names it\)"):
        find_column(["patient"], "patient", name="patint", option="--patient")


READERS = {"evaluate": read_data, "train": lambda path, **more: read_dataset(path, labels=["ill"], **more)}


@pytest.fixture(autouse=True)
def _images(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_evaluation_and_training_read_the_same_patients(reader, tmp_path):
    """A table with two columns that could be the patients gave evaluate the one and train the other."""
    (tmp_path / "t.csv").write_text("path,patient,Patient ID,ill\na.png,A0,B0,1\nb.png,A1,B1,0\n")
    with pytest.raises(SettingError, match=r"'patient' and 'Patient ID'"):
        reader(tmp_path / "t.csv")
    for column, patients in (("patient", ["A0", "A1"]), ("Patient ID", ["B0", "B1"])):
        assert [case.patient for case in reader(tmp_path / "t.csv", patient=column).cases] == patients


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_no_column_of_patients_is_a_warning(reader, tmp_path):
    (tmp_path / "t.csv").write_text("Image Index,ill\na.png,1\nb.png,0\n")
    with pytest.warns(UserWarning, match="intervals will be too narrow.*--patient"):
        data = reader(tmp_path / "t.csv")
    assert [case.patient for case in data.cases] == ["a.png", "b.png"]
    (tmp_path / "u.csv").write_text("picture,ill\na.png,1\nb.png,0\n")
    with pytest.raises(SettingError, match=r"no column of images is recognised among picture, ill: .*--image"):
        reader(tmp_path / "u.csv")
    with pytest.warns(UserWarning, match="no patients are known"):
        assert len(reader(tmp_path / "u.csv", image="picture").cases) == 2


STUDY = """[cohort]
table = "t.csv"
[labels.ill]
column = "ill"
model = { spec = "timm:test_resnet", weights = "none", labels = ["ill"] }
"""


def test_a_study_reads_the_same_columns(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "t.csv").write_text("Image Index,Patient ID,ill\na.png,A,1\nb.png,A,0\n")
    study = Study.read(tmp_path / "study.toml")
    assert [(case.image, case.patient) for case in study.cohort.cases()] == [("a.png", "A"), ("b.png", "A")]
    assert (study.file.cohort.image.name, study.file.cohort.patient.name) == ("Image Index", "Patient ID")
    (tmp_path / "t.csv").write_text("Image Index,Patient ID,patient,ill\na.png,A,B,1\n")
    with pytest.raises(StudyError, match=r"'Patient ID' and 'patient' could each be .* cohort.patient"):
        Study.read(tmp_path / "study.toml")


def test_a_study_without_patients_is_warned_of(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "t.csv").write_text("path,ill\na.png,1\n")
    with pytest.warns(UserWarning, match="name the patients with cohort.patient"):
        Study.read(tmp_path / "study.toml")
    study, problems = Study.check(tmp_path / "study.toml")
    assert problems == []
    (note,) = notes_on(study.cohort, option="cohort.patient")
    assert "intervals will be too narrow" in note
