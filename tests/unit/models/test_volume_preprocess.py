"""Volumes to inputs: the same samples as SimpleITK's resampling, at places that the window tells."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs
from camscope.errors import CamscopeError, PictureError, SettingError
from camscope.heatmap import place
from camscope.images import Picture, Turn, Volume, Window
from camscope.models.volume_preprocess import preprocess_from_dict
from volume_files import OBLIQUE, affine, marked

CODES = ["".join(p) for axes in itertools.product("LR", "PA", "IS") for p in itertools.permutations(axes)]
FITS = [
    {"spacing": (1.5, 0.8, 2.0)},
    {"spacing": (1.5, 0.8, 2.0), "input_size": (40, 12, 50)},
    {},
    {"fit": "pad"},
    {"fit": "squash"},
]


def worlds(preprocess, volume):
    """World coordinates (*input_size, 3) of the samples of an input, by its window."""
    window = preprocess.place(volume)
    own = [
        window.start[i]
        + (np.arange(preprocess.input_size[a]) + 0.5) * window.extent[i] / preprocess.input_size[a]
        - 0.5
        for i, a in enumerate(map(window.order.index, range(3)))
    ]
    grid = np.stack(np.meshgrid(*own, indexing="ij"), axis=-1)
    turn = Turn(window.order, window.flipped)
    own_world = grid @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return np.stack([turn(own_world[..., axis]) for axis in range(3)], axis=-1)


@pytest.mark.parametrize("options", FITS, ids=str)
@pytest.mark.parametrize("code", ["RAS", "LPI", "SAL"])
@pytest.mark.parametrize("orientation", ["RAS", "SPL", "PIR"])
def test_an_input_is_what_simpleitk_samples_in_the_same_places(options, code, orientation):
    sitk = pytest.importorskip("SimpleITK")
    volume, _ = marked((17, 15, 12), voxel=(5, 9, 8), orientation=code, spacing=(1.0, 1.3, 2.5), tilt=OBLIQUE)
    preprocess = cs.VolumePreprocess(**{"input_size": (16, 20, 18), "fill": -7, "orientation": orientation, **options})
    tensor, _ = preprocess(volume)
    image = sitk.GetImageFromArray(volume.values.T)
    lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    image.SetSpacing(volume.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing).ravel().tolist())
    places = worlds(preprocess, volume).reshape(-1, 3) * (-1, -1, 1)
    expected, counted = [], []
    for place_ in places:
        index = np.array(image.TransformPhysicalPointToContinuousIndex(place_.tolist()))
        ends = np.array([index + 0.5, np.array(volume.size) - 0.5 - index])
        clamped = index.clip(0, np.array(volume.size) - 1 - 1e-9)
        expected.append(image.EvaluateAtContinuousIndex(clamped.tolist()) if ends.min() > 0 else -7)
        counted.append(abs(ends.min()) > 1e-6)  # samples on the edge itself may be on either side
    assert np.mean(counted) > 0.8
    np.testing.assert_allclose(tensor.numpy().ravel()[counted], np.array(expected)[counted], atol=0.02)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
def test_an_input_leads_to_the_ends_of_the_body_that_it_names(code, orientation):
    """The mean of the world coordinates rises along each axis as the orientation says."""
    volume = Volume(np.zeros((6, 7, 8), np.float32), affine(orientation=code, tilt=OBLIQUE))
    places = worlds(cs.VolumePreprocess((5, 5, 5), orientation=orientation, fit="squash"), volume)
    for axis, letter in enumerate(orientation):
        world = next(i for i, ends in enumerate(("LR", "PA", "IS")) if letter in ends)
        steps = np.diff(places[..., world], axis=axis)
        assert (steps > 0).all() if letter in "RAS" else (steps < 0).all()


@pytest.mark.parametrize("options", FITS, ids=str)
@pytest.mark.parametrize("code", ["RAS", "LPI", "SAL", "IRP"])
@pytest.mark.parametrize("orientation", ["RAS", "SPL", "PIR"])
def test_a_map_is_put_back_where_it_came_from(options, code, orientation):
    """The coordinate of each sample, placed as a map, is the world coordinate of the voxels that the network saw."""
    volume = Volume(np.zeros((17, 15, 12), np.float32), affine(orientation=code, spacing=(1.0, 1.3, 2.5), tilt=OBLIQUE))
    preprocess = cs.VolumePreprocess(**{"input_size": (16, 20, 18), "orientation": orientation, **options})
    window = preprocess.place(volume)
    maps = place(torch.from_numpy(worlds(preprocess, volume)).movedim(-1, 0), window)
    grid = np.stack(np.meshgrid(*map(np.arange, volume.size), indexing="ij"), axis=-1)
    expected = grid @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    view = tuple(slice(part.start + 1, part.stop - 1) for part in window.visible())  # the outermost are clamped
    assert all(part.stop > part.start for part in view)
    np.testing.assert_allclose(maps.movedim(0, -1).numpy()[view], expected[view], atol=1e-3)


def test_windows_of_images_are_as_before():
    maps = torch.rand(2, 3, 4)
    assert torch.equal(place(maps, Window((8, 8), (0, 0), (8, 8))), place(maps, Window.whole((8, 8))))
    assert Window.whole((8, 8)).to_dict() == {"picture": [8, 8], "start": [0.0, 0.0], "extent": [8.0, 8.0]}


def test_values_are_cut_to_a_range_then_normalised():
    volume = Volume(np.array([-1000, -60, 40, 3000], np.float32).reshape(4, 1, 1))
    options = {"input_size": (4, 1, 1), "value_range": (-160, 240)}
    tensor, _ = cs.VolumePreprocess(**options)(volume)
    np.testing.assert_allclose(tensor.ravel(), [0, 0.25, 0.5, 1])
    tensor, _ = cs.VolumePreprocess(**options, mean=(0.5, 0.0), std=(0.25, 1.0))(volume)
    np.testing.assert_allclose(tensor[:, :, 0, 0], [[-2, -1, 0, 2], [0, 0.25, 0.5, 1]])
    tensor, _ = cs.VolumePreprocess(**options, zscore=True)(volume)
    assert float(tensor.mean()) == pytest.approx(0, abs=1e-6)
    assert float(tensor.std(correction=0)) == pytest.approx(1)


def test_a_crop_at_the_volumes_own_spacing_copies_voxels():
    volume, _ = marked((9, 8, 7), voxel=(2, 3, 4), radius=2)
    tensor, window = cs.VolumePreprocess((4, 4, 4))(volume)
    np.testing.assert_array_equal(tensor[0], volume.values[2:6, 2:6, 1:5])
    assert window.start == (2, 2, 1)
    flat, _ = cs.VolumePreprocess((4, 4, 4), zscore=True)(Volume(np.full((4, 4, 4), 5, np.float32)))
    assert not flat.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_size": (8, 8)}, "3 whole numbers"),
        ({"input_size": (8, 8, 0)}, "at least 1"),
        ({"orientation": "XYZ"}, "one of L and R"),
        ({"fit": "stretch"}, "possible: crop, squash, pad"),
        ({"std": (0.0,)}, "std above 0"),
        ({"mean": (0.0, 0.0), "std": (1.0,)}, "one number per channel"),
        ({"spacing": (1, 1, 0)}, "above 0"),
        ({"spacing": (1, 1, 1), "fit": "pad"}, "fit='crop'"),
        ({"value_range": (240, -160)}, "a lower value"),
        ({"value_range": 240}, "numbers"),
    ],
)
def test_wrong_settings_are_one_sentence(options, words):
    with pytest.raises(SettingError, match=words):
        cs.VolumePreprocess(**options)


def test_a_record_makes_the_same_preprocessing():
    preprocess = cs.VolumePreprocess(32, spacing=1.5, value_range=[-160, 240], orientation="spl", mean=0.5, std=0.5)
    assert preprocess.input_size == (32, 32, 32)
    assert preprocess_from_dict(preprocess.to_dict()) == preprocess
    assert "interpolation" not in preprocess.to_dict()
    images = cs.Preprocess((32, 40))
    assert preprocess_from_dict(images.to_dict()) == images


def net3d(channels=1):
    return nn.Sequential(nn.Conv3d(channels, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())


def test_a_network_of_volumes_gets_a_preprocessing_of_volumes():
    model = cs.load(net3d(2))
    assert isinstance(model.preprocess, cs.VolumePreprocess)
    assert model.preprocess.channels == 2
    assert "volumes are turned to RAS" in model.facts["assumed"]
    assert cs.load(net3d(), input_size=32).preprocess.input_size == (32, 32, 32)
    assert "32 x 32 x 32" in cs.load(net3d(), input_size=32).facts["assumed"]
    normalised = cs.load(net3d(), mean=-300, std=400, fit="squash")
    assert (normalised.preprocess.zscore, normalised.preprocess.fit, normalised.facts) == (False, "squash", {})
    assert isinstance(cs.Model("mine", net3d()).preprocess, cs.VolumePreprocess)
    with pytest.raises(CamscopeError, match=r"camscope\.VolumePreprocess"):
        cs.load(net3d(), preprocess=lambda image: image)


def test_images_are_refused():
    with pytest.raises(PictureError, match=r"takes volumes, and 'cat\.png' is an image"):
        cs.VolumePreprocess()(Picture(np.zeros((4, 4, 1), np.float32), "cat.png"))
