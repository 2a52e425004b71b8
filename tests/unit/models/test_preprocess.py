"""The input equals that of timm and torchvision, and the window is the part that the network saw."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import models, transforms

from camscope.errors import ModelError, PictureError, SettingError
from camscope.images.picture import Picture
from camscope.models.preprocess import Preprocess
from camscope.models.sources.timm import preprocess_of as of_timm
from camscope.models.sources.torchvision import preprocess_of as of_torchvision

SIZES = [(301, 217), (217, 301), (97, 640), (224, 224), (333, 333), (50, 41)]


def picture_of(size, channels=3, bits=8, seed=0):
    """A smooth image with noise on it, whose 8-bit pixels are whole 255ths."""
    noise = np.random.default_rng(seed).uniform(0, 255, (*size, channels))
    rows, columns = np.mgrid[: size[0], : size[1]]
    smooth = 127 * (1 + np.sin(rows / 17) * np.cos(columns / 23))[:, :, None]
    pixels = (noise + 3 * smooth) / 4
    return Picture((np.rint(pixels) / 255 if bits == 8 else pixels / 255).astype(np.float32), bits=bits)


def pillow(picture):
    return Image.fromarray(picture.rgb)


TIMM = {
    "crop .875": {"crop_pct": 0.875, "interpolation": "bilinear"},
    "crop .95": {"crop_pct": 0.95, "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "crop 1": {"crop_pct": 1.0, "interpolation": "bicubic", "input_size": (3, 299, 299)},
    "crop, not square": {"crop_pct": 0.9, "interpolation": "bicubic", "input_size": (3, 192, 128)},
    "squash .9": {"crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
    "squash 1": {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear", "input_size": (3, 160, 224)},
    "border .95": {"crop_pct": 0.95, "crop_mode": "border", "interpolation": "bicubic"},
    "border 1": {"crop_pct": 1.0, "crop_mode": "border", "interpolation": "bilinear", "input_size": (3, 160, 224)},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TIMM)
def test_equals_timm(name, size):
    cfg = {"input_size": (3, 224, 224), **TIMM[name]}
    theirs = create_transform(**resolve_data_config(pretrained_cfg=cfg))
    picture = picture_of(size)
    tensor, _ = of_timm(cfg, None, {})(picture)
    torch.testing.assert_close(tensor, theirs(pillow(picture)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny.fb_in22k_ft_in1k_384", "vit_base_patch16_clip_224.openai"])
@pytest.mark.parametrize("input_size", [None, (256, 192)])
def test_equals_timm_for_published_configurations(name, input_size):
    cfg = timm.get_pretrained_cfg(name).to_dict()
    wanted = {} if input_size is None else {"input_size": (3, *input_size)}
    theirs = create_transform(**resolve_data_config(wanted, pretrained_cfg=cfg))
    picture = picture_of((411, 300))
    tensor, _ = of_timm(cfg, input_size, {})(picture)
    torch.testing.assert_close(tensor, theirs(pillow(picture)), rtol=0, atol=1e-6)


def presets():
    """One of each kind of evaluation preset in torchvision."""
    distinct = {}
    for name in models.list_models(module=models):
        for entry in models.get_model_weights(name):
            distinct.setdefault(repr(entry.transforms()), entry)
    return list(distinct.values())


def test_equals_every_preset_of_torchvision():
    entries = presets()
    assert len(entries) > 20
    for number, entry in enumerate(entries):
        picture = picture_of(SIZES[number % len(SIZES)], seed=number)
        theirs = entry.transforms()(pillow(picture))
        tensor, _ = of_torchvision(entry.transforms())(picture)
        # One preset divides by a std of 1/255, so its numbers are 255 times as large.
        atol = 1e-6 if min(entry.transforms().std) > 0.1 else 1e-4
        torch.testing.assert_close(tensor, theirs, rtol=0, atol=atol, msg=lambda m, e=entry: f"{e}: {m}")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_grey_is_repeated(fit, bits):
    grey = picture_of((90, 70), channels=1, bits=bits)
    colour = Picture(np.repeat(grey.pixels, 3, axis=2), bits=bits)
    preprocess = Preprocess(input_size=(64, 64), fit=fit)
    torch.testing.assert_close(preprocess(grey)[0], preprocess(colour)[0], rtol=0, atol=0)


def test_one_channel_is_pillows_luminance():
    picture = picture_of((90, 70))
    preprocess = Preprocess(input_size=(64, 64), mean=(0.0,), std=(1.0,), fit="squash")
    theirs = pillow(picture).convert("L").resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(preprocess(picture)[0][0].mul(255).round().numpy(), np.asarray(theirs))
    deep = Picture(picture.pixels, bits=16)
    torch.testing.assert_close(preprocess(deep)[0], preprocess(picture)[0], rtol=0, atol=2 / 255)


def test_deep_pictures_keep_what_bytes_would_lose():
    ramp = np.linspace(0.5, 0.501, 64 * 64, dtype=np.float32).reshape(64, 64, 1)
    preprocess = Preprocess(input_size=(32, 32), mean=(0.0,), std=(1.0,), fit="squash")
    assert preprocess(Picture(ramp, bits=16))[0].unique().numel() > 500
    assert preprocess(Picture(ramp, bits=8))[0].unique().numel() == 1


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_deep_pictures_go_the_way_of_the_others(fit):
    picture = picture_of((201, 140))
    preprocess = Preprocess(input_size=(96, 64), fit=fit, resize=(107, 71))
    shallow, window = preprocess(picture)
    deep, same = preprocess(Picture(picture.pixels, bits=16))
    assert window == same
    torch.testing.assert_close(shallow, deep, rtol=0, atol=2 / 255 / 0.2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("resize", [None, (128, 128), (120, 150)])
def test_window_says_where_a_point_of_the_picture_went(fit, size, resize):
    """An image whose pixels hold their own position: the input must hold what the window says of it."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    position = np.stack([(rows + 0.5) / size[0], (columns + 0.5) / size[1], 0 * rows], axis=2).astype(np.float32)
    preprocess = Preprocess((112, 96), (0.0,) * 3, (1.0,) * 3, fit=fit, resize=resize, interpolation="bilinear")
    tensor, window = preprocess(Picture(position, bits=16))
    for axis in (0, 1):
        pixel = (np.arange(tensor.shape[1 + axis]) + 0.5) / tensor.shape[1 + axis]
        expected = (window.start[axis] + pixel * window.extent[axis]) / size[axis]
        middle = tensor.shape[2 - axis] // 2
        found = tensor[axis].select(1 - axis, middle).numpy()
        # The resampling filter leans inwards within half its width of the image's own edge.
        inside = (expected > 0.08) & (expected < 0.92)
        assert inside.sum() > 10
        np.testing.assert_allclose(found[inside], expected[inside], atol=0.6 / min(112, size[axis]))
        assert np.all(found[(expected < 0) | (expected > 1)] == 0)
    assert window.picture == size


def test_windows_of_known_geometry():
    def window(fit, **more):
        return Preprocess(fit=fit, **more)(picture_of((100, 200), bits=8))[1]

    assert (window("squash").start, window("squash").extent) == ((0, 0), (100, 200))
    assert (window("crop").start, window("crop").extent) == ((0, 50), (100, 100))
    assert (window("pad").start, window("pad").extent) == ((-50, 0), (200, 200))
    assert window("crop", resize=(448, 448)).extent == (50, 50)


@pytest.mark.parametrize("bits", [8, 16])
def test_padding_is_nothing_after_normalisation(bits):
    tensor, _ = Preprocess(fit="pad")(picture_of((100, 200), bits=bits))
    margin = tensor[:, :50].abs().max().item()
    assert margin == 0 if bits == 16 else margin <= 0.5 / 255 / 0.224 + 1e-6
    assert tensor[:, 100:120].abs().max() > 0.1


def test_torchvision_pads_a_crop_beyond_the_picture_with_black():
    picture = picture_of((80, 61))
    theirs = transforms.Compose([transforms.Resize(40), transforms.CenterCrop(57), transforms.ToTensor()])
    preprocess = Preprocess((57, 57), (0.0,) * 3, (1.0,) * 3, resize=(40, 40), interpolation="bilinear")
    torch.testing.assert_close(preprocess(picture)[0], theirs(pillow(picture)), rtol=0, atol=1e-6)


def test_survives_json():
    preprocess = Preprocess((64, 32), (0.5,), (0.25,), fit="pad", resize=(70, 40), interpolation="lanczos")
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    assert Preprocess.from_dict(Preprocess().to_dict()) == Preprocess()


@pytest.mark.parametrize("values", [{"colour": 1}, {"fit": "stretch"}, {"input_size": [224]}, {"std": [0, 1, 1]}])
def test_unusable_json_is_an_error(values):
    with pytest.raises(ModelError, match="preprocess cannot be read"):
        Preprocess.from_dict(values)


@pytest.mark.parametrize(
    "values", [{"fit": "zoom"}, {"interpolation": "cubic"}, {"mean": (0.5,)}, {"input_size": (0, 3)}, {"std": (1,) * 4}]
)
def test_impossible_settings(values):
    with pytest.raises(SettingError):
        Preprocess(**values)


def test_a_strip_cannot_be_cropped_but_squashed():
    strip = Picture(np.zeros((2, 5000, 1), dtype=np.float32))
    with pytest.raises(PictureError, match="2 x 5000"):
        Preprocess()(strip)
    assert Preprocess(fit="pad")(strip)[0].shape == Preprocess(fit="squash")(strip)[0].shape == (3, 224, 224)


def test_the_order_of_the_channels():
    picture = picture_of((40, 50))
    rgb, _ = Preprocess(input_size=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))(picture)
    bgr, _ = Preprocess(input_size=(32, 32), mean=(0.3, 0.2, 0.1), std=(0.6, 0.5, 0.4), order="bgr")(picture)
    assert torch.equal(bgr, rgb.flip(0))
    assert not torch.equal(bgr, rgb)


def test_where_a_cut_between_two_pixels_starts():
    picture = picture_of((39, 32))
    rounded, floored = (Preprocess(input_size=(32, 32), centre=centre)(picture) for centre in ("round", "floor"))
    assert (rounded[1].start, floored[1].start) == ((4, 0), (3, 0))
    assert torch.equal(rounded[0][:, :-1], floored[0][:, 1:])


def test_values_that_are_not_possible():
    for key, value in (("order", "gbr"), ("centre", "ceiling"), ("fit", "zoom")):
        with pytest.raises(SettingError, match=f"{key} cannot be '{value}'; possible: "):
            Preprocess(**{key: value})


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("channels", [2, 4, 7])
def test_each_band_becomes_what_it_would_as_a_grey_picture(channels, fit, bits):
    mean, std = tuple(np.linspace(0.2, 0.6, channels)), tuple(np.linspace(0.1, 0.5, channels))
    picture = picture_of((61, 83), channels, bits=bits)
    whole, window = Preprocess((32, 40), mean, std, fit=fit)(picture)
    assert whole.shape == (channels, 32, 40)
    for i in range(channels):
        band = Picture(picture.pixels[..., [i]], bits=bits)
        alone, its_window = Preprocess((32, 40), mean[i : i + 1], std[i : i + 1], fit=fit)(band)
        torch.testing.assert_close(whole[[i]], alone, rtol=0, atol=1e-6)
        assert window == its_window


@pytest.mark.parametrize(("has", "takes"), [(4, 3), (3, 4), (4, 1), (1, 4), (2, 3), (13, 4)])
def test_a_picture_of_another_number_of_channels_is_refused(has, takes):
    with pytest.raises(PictureError, match=rf"has {has} channel\(s\) and the network takes {takes}"):
        Preprocess((32, 32), (0.5,) * takes, (0.5,) * takes)(picture_of((40, 50), has))


@pytest.mark.parametrize("values", [(), (0.5, 0.5)])
def test_mean_and_std_must_have_one_number_per_channel(values):
    with pytest.raises(SettingError, match="one number per channel"):
        Preprocess(mean=values, std=(0.5,) * 3)
    with pytest.raises(SettingError, match="'bgr' is of 3 channels"):
        Preprocess(mean=(0.5,) * 4, std=(0.5,) * 4, order="bgr")
