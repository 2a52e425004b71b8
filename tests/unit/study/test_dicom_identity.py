"""What DICOM headers know and tables lack."""

import io

import numpy as np
import pytest

from camscope.cohort.store import Store
from camscope.study.dicom_identity import Identities
from camscope.study.study import Study

pydicom = pytest.importorskip("pydicom")
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402


def dicom(path, *, patient, view):
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = uid.SecondaryCaptureImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = "1.2.3"
    d.PatientName, d.PatientID, d.ViewPosition = "Somebody^Else", patient, view
    d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = 12, 16, 1, "MONOCHROME2"
    d.BitsAllocated = d.BitsStored = 8
    d.HighBit, d.PixelRepresentation, d.NumberOfFrames = 7, 0, 2
    d.PixelData = np.random.default_rng(0).integers(0, 255, (2, 12, 16), np.uint8).tobytes()
    file = io.BytesIO()
    d.save_as(file, enforce_file_format=True)
    path.write_bytes(file.getvalue())


@pytest.fixture
def study(make_study):
    path = make_study()
    dicom(path.parent / "images/a.dcm", patient="SECRET-7", view="LL")
    dicom(path.parent / "images/b.dcm", patient="SECRET-7", view="")
    text = path.read_text().replace('patient = "patient_id"\n', "").replace('group = "view"\n', "")
    path.write_text(text)
    head = (path.parent / "cohort.csv").read_text().splitlines()[0]
    rows = ["a.dcm#0,,,1,0,", "a.dcm#1,,,1,0,", "b.dcm,,,1,0,", "P000/AP.png,,,1,0,"]
    (path.parent / "cohort.csv").write_text("\n".join([head, *rows]))
    return Study.read(path)


def test_patients_are_salted_hashes_and_views_groups(study, tmp_path):
    identities = Identities(study, Store(tmp_path / "out"))
    one, same, other, picture = map(identities.completed, study.cohort.cases())
    assert one.patient == same.patient == other.patient
    assert len(one.patient) == 12
    assert "SECRET" not in one.patient
    assert (one.group, other.group, picture.group) == (("LL",), (), ())
    assert picture.patient == picture.name == "AP"
    assert one.name != same.name


def test_the_salt_stays(study, tmp_path):
    def patient(folder):
        return Identities(study, Store(tmp_path / folder)).completed(next(study.cohort.cases())).patient

    assert patient("one") == patient("one") != patient("two")
    assert (tmp_path / "one/private").stat().st_mode & 0o077 == 0


def test_tables_that_know_are_believed(make_study, tmp_path):
    study = Study.read(make_study())
    case = next(study.cohort.cases())
    assert Identities(study, Store(tmp_path / "out")).completed(case) is case
    assert not (tmp_path / "out").exists()
