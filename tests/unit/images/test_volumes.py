"""Volumes from NIfTI, DICOM series, NRRD and MHA: the same values at the same places of the world."""

import gzip
import itertools
import struct
import sys

import numpy as np
import pytest

from camscope.errors import MissingExtraError, PictureError, SettingError
from camscope.images import Turn, Volume, as_volume, read_volume
from camscope.images.limits import check_voxels
from volume_files import OBLIQUE, affine, marked, save_nifti, save_series

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")

CODES = ["".join(p) for axes in itertools.product("LR", "PA", "IS") for p in itertools.permutations(axes)]
SMALL, _ = marked((6, 7, 5), voxel=(2, 3, 4), radius=2.5, orientation="LAS", spacing=(0.5, 2, 3), tilt=OBLIQUE)


def same(read, volume):
    np.testing.assert_allclose(read.values, volume.values, atol=1e-3)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize("code", CODES)
def test_an_orientation_is_that_of_nibabel_and_a_turn_leads_there(code):
    volume = Volume(np.arange(24, dtype=np.float32).reshape(2, 3, 4), affine(orientation=code, tilt=OBLIQUE))
    assert volume.orientation == "".join(nibabel.aff2axcodes(volume.affine)) == code
    turned = Turn.to("RAS", volume)(volume.values)
    expected = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.values, volume.affine))
    np.testing.assert_array_equal(turned, expected.get_fdata())
    back = Turn.to(code, Volume(np.ascontiguousarray(turned), expected.affine))
    np.testing.assert_array_equal(back(turned), volume.values)


@pytest.mark.parametrize("code", ["", "RA", "RLS", "RASX", "abc"])
def test_other_orientations_are_refused(code):
    with pytest.raises(SettingError, match="one of L and R"):
        Turn.to(code, SMALL)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "B.NII.GZ"])
def test_nifti(tmp_path, name):
    same(read_volume(save_nifti(SMALL, tmp_path / name)), SMALL)
    same(as_volume(nibabel.load(tmp_path / name)), SMALL)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_nrrd_and_mha(tmp_path, name, packed):
    image = sitk.GetImageFromArray(SMALL.values.T)
    lps = np.diag([-1.0, -1, 1, 1]) @ SMALL.affine
    image.SetSpacing(SMALL.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / SMALL.spacing).ravel().tolist())
    sitk.WriteImage(image, tmp_path / name, packed)
    same(read_volume(tmp_path / name), SMALL)


def test_simpleitk_reads_a_nifti_file_to_the_same_place(tmp_path):
    image = sitk.ReadImage(save_nifti(SMALL, tmp_path / "a.nii.gz"))
    lps = np.array(image.TransformContinuousIndexToPhysicalPoint((1.0, 2.0, 3.0)))
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").world((1, 2, 3)), lps * (-1, -1, 1), atol=1e-3)


def test_units_and_scaling_of_nifti_files(tmp_path):
    image = nibabel.Nifti2Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([200.0, 200, 300, 1]))
    image.header.set_xyzt_units("micron")
    image.header.set_slope_inter(2, -5)
    image.to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.spacing == pytest.approx((0.2, 0.2, 0.3))
    np.testing.assert_allclose(volume.values.ravel(), 2 * np.arange(24) - 5)


def test_one_of_several_volumes(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    first = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(first.values, values[..., 0])
    assert "holds 2 frames" in first.notes[0]
    np.testing.assert_array_equal(read_volume(f"{tmp_path}/a.nii.gz#1").values, values[..., 1])
    with pytest.raises(PictureError, match="no frame #2"):
        read_volume(f"{tmp_path}/a.nii.gz#2")


def test_values_that_are_not_finite_and_unknown_orientations_are_noted(tmp_path):
    values = SMALL.values.copy()
    values[0, 0, :2] = np.nan, np.inf
    nibabel.Nifti1Image(values, None).to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.values[0, 0, 0] == volume.values[0, 0, 1] == values[np.isfinite(values)].min()
    assert "2 voxels are not finite" in volume.notes[0]
    assert "left and right may be swapped" in volume.notes[1]


def damaged_nifti(kind):
    content = nibabel.Nifti1Image(SMALL.values, SMALL.affine).to_bytes()
    if kind == "truncated":
        return content[:600]
    if kind == "beginning":
        return b"\0" * 400
    if kind == "pair":
        return content.replace(b"n+1", b"ni1")
    if kind == "colours":
        return nibabel.Nifti1Image(np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]), None).to_bytes()
    if kind == "plane":
        return nibabel.Nifti1Image(np.zeros((4, 4), np.float32), None).to_bytes()
    if kind == "huge":
        return content[:42] + struct.pack("<3h", 30000, 30000, 30000) + content[48:]
    if kind == "flat":
        return content[:296] + bytes(16) + content[312:]
    return gzip.compress(content)[:-200]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "damaged or truncated"),
        ("beginning", "is not a NIfTI file"),
        ("pair", "pair of files"),
        ("colours", "not one number per voxel"),
        ("plane", "shape 4 x 4"),
        ("huge", "more than .* voxels"),
        ("flat", "flattens"),
        ("packed", "damaged or truncated"),
    ],
)
def test_a_bad_nifti_file_is_one_sentence(tmp_path, kind, words):
    (tmp_path / "a.nii").write_bytes(damaged_nifti(kind))
    with pytest.raises(PictureError, match=words) as caught:
        read_volume(tmp_path / "a.nii")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize(
    "content", [b"nothing of the kind", b"NRRD0004\ndata file: /etc/passwd\n", b"ElementDataFile = x"]
)
def test_a_bad_file_of_itk_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=r"damaged or truncated|another file") as caught:
        read_volume(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_the_limit_of_voxels_holds_before_decoding():
    check_voxels((512, 512, 2000), "a")
    with pytest.raises(PictureError, match="voxels"):
        check_voxels((1024, 1024, 1024), "a")


def test_a_series_is_sorted_by_position_and_lies_where_its_slices_lie(tmp_path):
    volume, _ = marked((6, 7, 5), voxel=(2, 3, 4), radius=2.5, orientation="LPS", spacing=(0.5, 2, 3), tilt=OBLIQUE)
    (tmp_path / "notes.txt").write_text("no slice")
    same(read_volume(save_series(volume, tmp_path)), volume)
    assert read_volume(tmp_path).modality == "CT"
    slices = [pydicom.dcmread(file) for file in tmp_path.glob("*.dcm")]
    top = max(slices, key=lambda one: one.ImagePositionPatient[2])
    corner = np.array(top.ImagePositionPatient, float) * (-1, -1, 1)
    np.testing.assert_allclose(read_volume(tmp_path).world((0, 0, 4)), corner, atol=1e-4)


def test_simpleitk_reads_a_series_to_the_same_place(tmp_path):
    volume, _ = marked((6, 7, 5), voxel=(2, 3, 4), radius=2.5, orientation="LPS", spacing=(0.5, 2, 3))
    save_series(volume, tmp_path)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    mine = read_volume(tmp_path)
    np.testing.assert_allclose(mine.values, sitk.GetArrayFromImage(image).T, atol=1e-3)
    place = np.array(image.TransformContinuousIndexToPhysicalPoint((1.0, 2.0, 3.0))) * (-1, -1, 1)
    np.testing.assert_allclose(mine.world((1, 2, 3)), place, atol=1e-3)


def test_slices_that_go_down_are_turned_round(tmp_path):
    volume, _ = marked((6, 7, 5), voxel=(2, 3, 4), radius=2.5, orientation="LPI", spacing=(0.5, 2, 3))
    mine = read_volume(save_series(volume, tmp_path))
    assert mine.orientation == "LPS"
    np.testing.assert_array_equal(mine.values, volume.values[:, :, ::-1])
    np.testing.assert_allclose(mine.world((1, 2, 0)), volume.world((1, 2, 4)))


def _removed(folder):
    by_place = sorted(folder.glob("*.dcm"), key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    by_place[2].unlink()


def _empty(folder):
    (folder / "z.dcm").write_bytes(b"")


def _cut(folder):
    file = next(folder.glob("*.dcm"))
    file.write_bytes(file.read_bytes()[:-20])


def _only_one(folder):
    for file in sorted(folder.glob("*.dcm"))[1:]:
        file.unlink()


@pytest.mark.parametrize(
    ("elements", "change", "words"),
    [
        ({}, _removed, r"a gap: 6\.00 mm between slices 2 and 3, where 3\.00 mm are usual"),
        ({}, _empty, "empty"),
        ({}, _cut, "damaged"),
        ({}, _only_one, "one DICOM image, and a volume is"),
        ({"SeriesInstanceUID": lambda k: f"1.2.{k // 3}"}, None, "2 series, of 3, 2 images"),
        (
            {"ImageOrientationPatient": lambda k: [1, 0, 0, 0, 0 if k == 1 else 1, k == 1]},
            None,
            "different orientations",
        ),
        ({"ImagePositionPatient": lambda k: [0, 0, 3 * (k // 2)]}, None, "same place"),
        ({"ImagePositionPatient": lambda k: [0, 5 * (k == 2), 3 * k]}, None, "on a line"),
        ({"ImagePositionPatient": lambda k: None if k == 1 else [0, 0, 3 * k]}, None, "does not state its place"),
        ({"PixelSpacing": lambda k: [1 + k, 1]}, None, "different pixel spacings"),
        ({"NumberOfFrames": 2}, None, "several frames"),
        ({"SamplesPerPixel": 3}, None, "colour"),
    ],
)
def test_a_folder_that_is_no_series_is_one_sentence(tmp_path, elements, change, words):
    volume, _ = marked((6, 7, 5), voxel=(2, 3, 4), radius=2.5, orientation="LPS", spacing=(0.5, 2, 3))
    save_series(volume, tmp_path, **elements)
    if change is not None:
        change(tmp_path)
    with pytest.raises(PictureError, match=words) as caught:
        read_volume(tmp_path)
    assert "\n" not in str(caught.value)


def test_folders_and_files_that_are_no_volumes(tmp_path):
    with pytest.raises(PictureError, match="no DICOM images"):
        read_volume(tmp_path)
    with pytest.raises(PictureError, match=r"'cat.jpg' is not a volume, .* \.nii"):
        read_volume("cat.jpg")


@pytest.mark.parametrize(("name", "package"), [("a.nii.gz", "nibabel"), ("a.mha", "SimpleITK")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}: pip install 'camscope\[volumes\]'"):
        read_volume(name)


def test_arrays_and_other_objects():
    volume = as_volume(np.zeros((3, 4, 5), np.int16))
    assert volume.values.dtype == np.float32
    assert "no affine" in volume.notes[0]
    for wrong in (np.zeros((4, 5)), 7, np.full((2, 2, 2), np.nan)):
        with pytest.raises(PictureError, match=r"as a volume|not finite"):
            as_volume(wrong)
