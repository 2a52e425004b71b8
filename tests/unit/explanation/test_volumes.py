"""Volumes: the peak of the map is on the mark, in world coordinates, however the volume was stored and prepared."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import grey_dilation
from torch import nn

import camscope as cs
from camscope.errors import PictureError, SettingError
from camscope.images import Volume, read_volume
from camscope.models.model import Recipe
from camscope.models.sources import SOURCES
from camscope.render.slices import VolumeView
from running import inside
from volume_files import OBLIQUE, marked, save_nifti, save_series

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

RADIUS = 6.0
FITS = [
    {"input_size": (28, 30, 26), "spacing": (1.5, 1.5, 1.5)},
    {"input_size": (24, 20, 22), "spacing": (2.0, 2.0, 2.0), "zscore": True},
    {"input_size": (32, 32, 32), "fit": "pad"},
    {"input_size": (30, 40, 36), "fit": "squash"},
    {"input_size": (26, 30, 22)},
]


class MarkNet(nn.Module):
    """The score of class "mark" is the mean of the local means above a threshold; of "none" it is constant."""

    def __init__(self, threshold=0.5):
        super().__init__()
        self.local, self.active = nn.Conv3d(1, 1, 3, 2, 1), nn.ReLU()
        nn.init.constant_(self.local.weight, 1 / 27)
        nn.init.constant_(self.local.bias, -threshold)

    def forward(self, x):
        mark = self.active(self.local(x)).mean((2, 3, 4))
        return torch.cat([mark * 1000, torch.zeros_like(mark)], 1)


def model(**options):
    preprocess = cs.VolumePreprocess(**{"value_range": (-1000, 200), "fill": -1, **options})
    return cs.Model("marks", MarkNet().eval(), preprocess=preprocess, labels=("mark", "none"))


def distance(e, centre):
    return np.linalg.norm(np.array(e.peak_world) - centre)


@pytest.mark.parametrize("options", FITS, ids=str)
@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
@pytest.mark.parametrize(
    "axes",
    [
        {"orientation": "RAS"},
        {"orientation": "LPI", "spacing": (1.0, 1.2, 2.0)},
        {"orientation": "SAL", "tilt": OBLIQUE},
    ],
    ids=str,
)
def test_the_peak_is_on_the_mark(options, orientation, axes):
    volume, centre = marked(**axes)
    e = cs.explain(model(orientation=orientation, **options), volume)
    assert e.label == "mark"
    assert e.heatmap.shape == volume.size
    assert e.grid.shape == tuple((n + 1) // 2 for n in options["input_size"])
    assert distance(e, centre) < RADIUS
    world = np.argwhere(e.heatmap > e.heatmap.max() / 2) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert np.linalg.norm(world.mean(0) - centre) < 2  # the whole of it, not one voxel alone


def test_a_mark_that_the_input_does_not_show_is_not_in_the_map():
    volume, _ = marked()
    e = cs.explain(model(input_size=(8, 8, 8)), volume, target="mark")
    assert e.peak is e.peak_world is None
    assert not e.heatmap.any()
    assert "sees 2% of it" in e.notes[0]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """The same volume as files of several kinds, and the centre of its mark."""
    folder = tmp_path_factory.mktemp("volumes")
    volume, centre = marked(orientation="LPS", spacing=(1.0, 1.2, 2.0), tilt=OBLIQUE)
    save_nifti(volume, folder / "nifti.nii.gz")
    save_series(volume, folder / "series")
    flipped = Volume(np.ascontiguousarray(volume.values[::-1, :, ::-1]), volume.affine @ _reversal(volume.size))
    save_nifti(flipped, folder / "flipped.nii")
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.ReadImage(folder / "nifti.nii.gz"), folder / "itk.mha", True)
    return folder, volume, centre


def _reversal(size):
    matrix = np.diag([-1.0, 1, -1, 1])
    matrix[:3, 3] = size[0] - 1, 0, size[2] - 1
    return matrix


@pytest.mark.parametrize("name", ["nifti.nii.gz", "series", "flipped.nii", "itk.mha"])
def test_every_kind_of_file_gives_the_same_map_in_the_world(volumes, name):
    folder, volume, centre = volumes
    net = model(**FITS[0])
    e, reference = cs.explain(net, folder / name), cs.explain(net, volume)
    assert distance(e, centre) < RADIUS
    np.testing.assert_allclose(e.grid, reference.grid, atol=1e-3 * reference.grid.max())
    place = np.linalg.inv(e.picture.affine) @ [*reference.peak_world, 1]
    np.testing.assert_allclose(place[:3], e.peak, atol=0.01)
    assert e.picture.modality == ("CT" if name == "series" else "")


@pytest.mark.parametrize("name", ["nifti.nii.gz", "series"])
def test_files_of_an_explanation_are_read_back(volumes, name, tmp_path):
    folder, _, centre = volumes
    e = cs.explain(model(**FITS[0]), folder / name)
    written = {path.name for path in e.save(tmp_path)}
    images = {"original.png", "grayscale.png", "heatmap.png", "overlay.jpg", "panel.png", "montage.png"}
    assert written == images | {"map.npy", "map.nii.gz", "explanation.json"} == set(os.listdir(tmp_path))  # noqa: PTH208
    assert all(Image.open(tmp_path / image).size[0] > 1000 for image in images)
    image = nibabel.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), e.heatmap)
    np.testing.assert_allclose(image.affine, e.picture.affine, atol=1e-4)
    same = read_volume(tmp_path / "map.nii.gz")
    peak = same.world(np.unravel_index(same.values.argmax(), same.size))
    assert np.linalg.norm(np.array(peak) - centre) < RADIUS
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(tmp_path / "map.nii.gz")
    peak = np.array(image.TransformContinuousIndexToPhysicalPoint(tuple(map(float, e.peak)))) * (-1, -1, 1)
    np.testing.assert_allclose(peak, e.peak_world, atol=1e-2)
    assert image.GetPixel(e.peak) == pytest.approx(e.heatmap.max())
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), e.grid)
    record = json.loads((tmp_path / "explanation.json").read_text())
    assert record["peak"]["voxel"] == list(e.peak)
    np.testing.assert_allclose(record["peak"]["world"], e.peak_world)
    np.testing.assert_allclose(record["volume"]["affine"], e.picture.affine)
    assert record["window"]["order"] == [0, 1, 2]
    assert record["preprocess"]["spacing"] == [1.5, 1.5, 1.5]


def test_a_sheared_volume_keeps_its_place(tmp_path):
    volume, _ = marked(orientation="LPS", spacing=(1.0, 1.2, 2.0))
    volume.affine[1, 2] += 0.4  # a tilted gantry displaces each slice
    e = cs.explain(model(**FITS[2]), volume)
    e.save(tmp_path, write="nii")
    np.testing.assert_allclose(read_volume(tmp_path / "map.nii.gz").affine, volume.affine, atol=1e-5)
    assert distance(e, volume.world((8, 25, 15))) < RADIUS


def test_slices_are_shown_as_a_radiologist_sees_them():
    """The patient's right is on the left, anterior and superior are up; the mark is where the lines cross."""
    for code in ("RAS", "LPI", "SAL"):
        size = {"R": 30, "L": 30, "A": 36, "P": 36, "S": 24, "I": 24}
        volume = Volume(np.zeros([size[letter] for letter in code], np.float32), marked(orientation=code)[0].affine)
        world = {"R": 2, "A": 5, "S": 3}  # near the left, posterior, inferior corner of the body
        low = {letter: end for end, pair in {"R": "RL", "A": "AP", "S": "SI"}.items() for letter in pair}
        voxel = tuple(
            world[low[letter]] if letter in "RAS" else size[letter] - 1 - world[low[letter]] for letter in code
        )
        volume.values[voxel] = 1
        view = VolumeView(volume, volume.values, cs.Window.whole(volume.size), levels=(0, 1))
        axial, coronal, sagittal = (np.asarray(tile, float)[..., 0] for tile in view.tiles("grayscale", voxel))
        for tile, x, y in ((axial, 0.8, 0.8), (coronal, 0.8, 0.75), (sagittal, 0.85, 0.75)):
            inner = np.where(tile > 240, tile, 0)
            inner[:, [0, -1]] = 0
            rows, columns = np.nonzero(inner[30:-30, 30:-30])
            assert abs((columns.mean() + 30) / tile.shape[1] - x) < 0.16
            assert abs((rows.mean() + 30) / tile.shape[0] - y) < 0.16


def test_pictures_of_parts_that_the_network_did_not_see_have_no_colours():
    volume, _ = marked()
    e = cs.explain(model(input_size=(14, 16, 12), spacing=(1, 1, 1)), volume, target="mark")
    assert not e.heatmap[:7].any()
    tile = np.asarray(VolumeView(volume, e.scaled()[0], e.window).tiles("overlay", (15, 18, 12))[0]).astype(int)
    coloured = np.ptp(tile[100:320, 100:320], axis=-1) > 10
    assert 0.2 < coloured.mean() < 0.9
    assert not (np.ptp(tile[60:80, 100:200], axis=-1) > 10).any()


def test_models_and_images_that_do_not_fit_are_one_sentence(tmp_path, volumes):
    Image.new("RGB", (32, 32)).save(tmp_path / "cat.png")
    with pytest.raises(PictureError, match=r"cat\.png' is not a volume, which the model takes"):
        cs.explain(model(), tmp_path / "cat.png")
    flat = cs.load("timm:test_resnet", weights="none")
    for source in (volumes[0] / "nifti.nii.gz", volumes[1]):
        with pytest.raises(PictureError, match=r"volume|Volume"):
            cs.explain(flat, source)
    with pytest.raises(SettingError, match="file of volumes"):
        cs.explain(flat, np.zeros((32, 32, 3), np.uint8)).save(tmp_path, write="nii")


@pytest.fixture
def marks(monkeypatch):
    """Make the network of marks the source "marks:"."""

    def make(name, *, weights, classes, input_size, options):
        return replace(model(**FITS[0]), recipe=Recipe("marks:net", classes=2, weights=weights))

    monkeypatch.setitem(SOURCES, "marks", make)


@pytest.mark.usefixtures("marks")
def test_the_command_explains_files_and_folders(volumes, tmp_path):
    folder, _, centre = volumes
    done = inside("explain", folder, "--model", "marks:net", "--weights", "none", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {Path(line["source"]).name for line in lines} == {"nifti.nii.gz", "series", "flipped.nii", "itk.mha"}
    assert len({line["folder"] for line in lines}) == 4
    for line in lines:
        assert np.linalg.norm(np.array(line["peak"]["world"]) - centre) < RADIUS
        assert set(line["files"]) >= {"nii", "montage", "panel", "json"}
        assert all(Path(path).is_file() for path in line["files"].values())
    assert (tmp_path / "index.html").is_file()
    assert Image.open(tmp_path / "contact_sheet.jpg").width > 300


@pytest.mark.usefixtures("marks")
def test_a_bad_volume_of_a_folder_is_told_and_the_others_are_explained(volumes, tmp_path):
    save_nifti(volumes[1], tmp_path / "good.nii")
    (tmp_path / "bad.nii").write_bytes(b"no volume")
    done = inside("explain", tmp_path, "--model", "marks:net", "--weights", "none", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "bad.nii' is not a NIfTI file" in done.stderr
    assert len(list((tmp_path / "out").rglob("map.nii.gz"))) == 1
    done = inside("explain", tmp_path / "none", "--model", "marks:net", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", Path(__file__).parents[4] / "shared/data")) / "medical_formats"


@pytest.mark.skipif(not DATA.is_dir(), reason="no test data: set CAMSCOPE_TEST_DATA to their folder")
@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
def test_a_network_of_bone_looks_at_the_bone_of_a_ct(orientation):
    body = read_volume(DATA / "ct_small_bone_mask.nii.gz").values > 0  # in spite of its name, the mask is of the body
    bone = grey_dilation(read_volume(DATA / "ct_small.nii.gz").values > 200, size=5)
    preprocess = cs.VolumePreprocess((60, 60, 60), fit="pad", orientation=orientation, value_range=(-200, 400))
    net = cs.Model("bone", MarkNet(0.6).eval(), preprocess=preprocess, labels=("bone", "none"))
    e = cs.explain(net, DATA / "ct_small.nii.gz", target="bone")
    assert bone.mean() < 0.2
    assert bone[e.peak]
    assert body[e.peak]
    assert e.heatmap[bone].sum() > 0.95 * e.heatmap.sum()
    assert e.heatmap[body].sum() > 0.95 * e.heatmap.sum()
