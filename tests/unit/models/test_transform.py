"""Callables as preprocessing: the input is theirs, and the window is the part of the image that they show."""

import random
import re

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import functional as F
from torchvision.transforms import v2

import camscope as cs
from camscope.errors import ModelError, PictureError, SettingError
from camscope.images.memory import as_picture
from camscope.models.transform import Transform

SIZES = [(300, 500), (412, 260), (97, 311)]
NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FLOATS = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def picture_of(size, channels=3, bits=8, seed=1):
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 200, (size[0] // 20 + 1, size[1] // 20 + 1, channels))
    values = coarse.repeat(20, 0).repeat(20, 1)[: size[0], : size[1]] + generator.integers(0, 55, (*size, channels))
    return cs.Picture((values / 255).astype(np.float32), bits=bits)


def centred(size, share):
    """The window of a centred square crop of a share of the shorter side."""
    side = min(size) * share
    return tuple((n - side) / 2 for n in size), (side, side)


def whole(size):
    return (0, 0), size


def padded(size):
    side = max(size)
    return tuple((n - side) / 2 for n in size), (side, side)


def of_array(pixels):
    """Takes arrays alone."""
    step = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    return nn.functional.interpolate(step, (60, 90), mode="bilinear", antialias=True)


def standardised(image):
    values = np.asarray(image.convert("L").resize((64, 64)), np.float32)
    return (values - values.mean())[None] / max(values.std(), 1e-6)


CASES = {
    "Resize and CenterCrop": (
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), NORMALISE],
        lambda size: centred(size, 224 / 256),
    ),
    "squash": ([transforms.Resize((64, 96)), transforms.ToTensor(), NORMALISE], whole),
    "presets of weights": (models.ResNet18_Weights.DEFAULT.transforms(), lambda size: centred(size, 224 / 256)),
    "timm": (create_transform((3, 192, 192), crop_pct=0.8), lambda size: centred(size, 0.8)),
    "timm, border": (create_transform((3, 192, 192), crop_mode="border", crop_pct=1.0), padded),
    "v2 on images": (v2.Compose([*FLOATS, v2.Resize(128), v2.CenterCrop(96)]), lambda size: centred(size, 0.75)),
    "v2 on tensors": (
        v2.Compose(
            [v2.Resize(128), v2.CenterCrop(96), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [1])]
        ),
        lambda size: centred(size, 0.75),
    ),
    "modules": (nn.Sequential(transforms.Resize((50, 60)), NORMALISE), whole),
    "crop of pixels": (
        [transforms.CenterCrop(90), transforms.ToTensor()],
        lambda size: (tuple((n - 90) / 2 for n in size), (90, 90)),
    ),
    "margin": (
        [transforms.Pad(30), transforms.Resize((96, 96)), transforms.ToTensor()],
        lambda size: ((-30, -30), (size[0] + 60, size[1] + 60)),
    ),
    "corner": (
        lambda image: F.to_tensor(image.crop((20, 10, 84, 90)).resize((48, 60))),
        lambda size: ((10, 20), (80, 64)),
    ),
    "sizes that vary": ([transforms.Resize(100), transforms.ToTensor()], whole),
    "grey": ([transforms.Grayscale(), transforms.Resize((32, 32)), transforms.ToTensor()], whole),
    "arrays": (of_array, whole),
    "standardised by image": (standardised, whole),
}


@pytest.mark.parametrize("name", CASES)
def test_inputs_and_windows(name):
    function, expected = CASES[name]
    function = transforms.Compose(function) if isinstance(function, list) else function
    transform = Transform.of(function)
    for size in SIZES:
        picture = picture_of(size)
        tensor, window = transform(picture)
        image = Image.fromarray(picture.rgb)
        takes = {"pillow": image, "array": picture.bytes, "tensor": F.pil_to_tensor(image)}
        takes["float tensor"] = F.to_tensor(image)
        theirs = torch.as_tensor(function(takes[transform.form.kind])).reshape(tensor.shape)
        torch.testing.assert_close(tensor, theirs.float(), rtol=0, atol=1e-6)
        assert not window.assumed
        start, extent = expected(size)
        off = 2 * max(e / n for e, n in zip(extent, tensor.shape[1:], strict=True)) + 1
        assert window.start == pytest.approx(start, abs=off)
        assert window.extent == pytest.approx(extent, abs=2 * off)


@pytest.mark.parametrize("convert", [False, True], ids=["array", "tensor"])
def test_albumentations(convert):
    albumentations = pytest.importorskip("albumentations")
    from albumentations.pytorch import ToTensorV2

    steps = [albumentations.Resize(64, 80), albumentations.Normalize((0.2, 0.3, 0.4), (0.5, 0.6, 0.7))]
    if not convert:
        with pytest.raises(ModelError, match="with the channels last"):
            Transform.of(albumentations.Compose(steps))
        return
    transform = Transform.of(albumentations.Compose([*steps, ToTensorV2()]))
    assert (transform.form.keyword, transform.input_size) == ("image", (64, 80))
    assert transform.mean == pytest.approx((0.2, 0.3, 0.4), abs=1e-5)
    tensor, window = transform(picture_of((120, 100)))
    assert tuple(tensor.shape) == (3, 64, 80)
    assert (window.start, window.extent) == ((0, 0), (120, 100))
    for chance in (0.5, 0.01):  # a rare augmentation is found too
        flip = albumentations.HorizontalFlip(p=chance)
        for augmentation in (flip, albumentations.Sequential([flip], p=1)):
            with pytest.raises(ModelError, match="is random"):
                Transform.of(albumentations.Compose([*steps, augmentation, ToTensorV2()]))


def bright_part(image):
    """A crop that depends on the content: the bounding box of what is bright."""
    bright = np.asarray(image.convert("L")) > 100
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, *image.size)
    return F.to_tensor(image.crop(box).resize((64, 64)))


def test_a_crop_that_depends_on_the_content_is_measured_on_each_picture_or_said_to_be_unknown():
    transform = Transform.of(bright_part)
    pixels = picture_of((200, 300)).pixels * 0.15
    pixels[40:120, 100:220] = 0.6 + 0.4 * picture_of((80, 120)).pixels
    _, window = transform(cs.Picture(pixels))
    known = (window.start, window.extent) == (pytest.approx((40, 100), abs=3), pytest.approx((80, 120), abs=5))
    assert known or window.assumed
    assert window != cs.Window.whole((200, 300))


def test_local_contrast_keeps_its_window():
    cv2 = pytest.importorskip("cv2")

    def clahe(image):
        grey = cv2.resize(np.asarray(image.convert("L")), (96, 96), interpolation=cv2.INTER_AREA)
        return cv2.createCLAHE(3.0, (6, 6)).apply(grey)[None] / 255

    _, window = Transform.of(clahe)(picture_of((200, 300)))
    assert not window.assumed
    assert window.extent == pytest.approx((200, 300), abs=8)


def test_what_has_no_upright_window_is_said_to_be_unknown():
    transform = Transform.of(lambda image: F.to_tensor(image.rotate(30).resize((64, 64))))
    _, window = transform(picture_of((200, 300)))
    assert window == cs.Window((200, 300), (0.0, 0.0), (200.0, 300.0), assumed=True)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    e = cs.explain(net, picture_of((200, 300)), preprocess=transform)
    assert any("could not be measured" in note and "displaced" in note for note in e.notes)


@pytest.mark.parametrize(
    "steps",
    [
        [transforms.RandomHorizontalFlip()],
        [transforms.RandomHorizontalFlip(0.02)],
        [transforms.RandomResizedCrop(64)],
        [transforms.ColorJitter(0.5)],
        [transforms.Lambda(lambda image: F.hflip(image) if random.random() < 0.5 else image)],
        [transforms.Lambda(lambda image: F.hflip(image) if np.random.rand() < 0.5 else image)],  # noqa: NPY002
    ],
    ids=lambda steps: type(steps[0]).__name__,
)
def test_random_augmentations_are_refused_and_random_states_kept(steps):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    with pytest.raises(ModelError, match=r"is random: .* give the transforms of evaluation"):
        Transform.of(transforms.Compose([*steps, transforms.Resize((64, 64)), transforms.ToTensor()]))
    assert (torch.rand(1), random.random(), np.random.rand()) == expected  # noqa: NPY002


@pytest.mark.parametrize("flip", [F.hflip, F.vflip])
def test_a_mirrored_picture_is_refused(flip):
    with pytest.raises(ModelError, match="mirrors the image"):
        Transform.of(lambda image: F.to_tensor(flip(image).resize((64, 64))))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda image: None, "returns an object of type NoneType"),
        (transforms.PILToTensor(), "numbers of type uint8, not yet scaled"),
        (lambda image: np.asarray(image, np.float32) / 255, "channels last"),
        (transforms.Compose([transforms.Resize(64), transforms.FiveCrop(48)]), "cannot be used"),
        (lambda: None, "fails: .*argument"),
        (int, "fails"),
    ],
)
def test_what_makes_no_input_is_refused_with_the_preprocess_to_write(function, says):
    with pytest.raises(ModelError, match=says) as error:
        cs.Model("mine", nn.Conv2d(3, 2, 1), preprocess=function)
    assert "camscope.Preprocess(input_size=(h, w)" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [3, "imagenet", (0.5, 0.5), {"mean": 0.5}])
def test_what_is_no_callable_is_refused(given):
    with pytest.raises(SettingError, match=r"must be a camscope\.Preprocess or a callable, but got an object of type"):
        cs.Model("mine", nn.Conv2d(3, 2, 1), preprocess=given)


def test_without_a_preprocessing_one_is_assumed_and_said():
    model = cs.Model("mine", nn.Conv2d(1, 2, 1))
    assert (model.preprocess.channels, model.preprocess.input_size) == (1, (224, 224))
    assert "ImageNet's mean and std, which is an assumption" in model.notes[0]


def test_a_grey_network_is_given_grey_images():
    steps = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Normalize(0.5, 0.25)])
    model = cs.Model("grey", nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model = cs.load(model.net, preprocess=steps)
    assert (model.preprocess.channels, model.preprocess.form.channels) == (1, 1)
    assert model.preprocess.mean == pytest.approx((0.5,))
    assert model.preprocess.std == pytest.approx((0.25,))
    for channels in (1, 3):
        assert cs.explain(model, picture_of((40, 50), channels)).heatmap.shape == (40, 50)
    with pytest.raises(ModelError, match=r"makes inputs of 3 channel\(s\), .* convolution of the network takes 4"):
        cs.Model("four", nn.Conv2d(4, 2, 1), preprocess=lambda a: torch.rand(3, 8, 8) * 0 + 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_bands_are_given_as_arrays(bits):
    def bands(pixels):
        assert pixels.dtype == np.float32
        assert pixels.max() <= 1
        values = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        return nn.functional.interpolate(values, (48, 48), mode="bilinear", antialias=True)[0]

    net = nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = cs.Model("five", net, preprocess=bands)
    tensor, window = model.preprocess(picture_of((90, 120), 5, bits=bits))
    assert tuple(tensor.shape) == (5, 48, 48)
    assert not window.assumed
    with pytest.raises(PictureError, match=r"has 3 channel\(s\) and the preprocessing takes 5"):
        cs.explain(model, picture_of((90, 120)))


def test_pictures_of_many_bands_are_refused_by_a_callable_of_images():
    with pytest.raises(PictureError, match="has 4 channels and the preprocessing takes grey or RGB"):
        Transform.of(transforms.Compose([transforms.Resize(64), transforms.ToTensor()]))(picture_of((90, 120), 4))


def test_a_picture_on_which_the_callable_fails_is_one_error():
    def fails(image):
        if image.size == (50, 40):
            raise KeyError("lung")
        return F.to_tensor(image.resize((32, 32)))

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    failed = []
    pictures = [picture_of((40, 50)), picture_of((60, 50))]
    good = list(cs.explain_all(net, pictures, preprocess=fails, on_error=lambda source, error: failed.append(error)))
    assert len(good) == 1
    assert isinstance(failed[0], PictureError)
    assert re.search("the preprocessing .*fails fails: 'lung'", str(failed[0]))
    with pytest.raises(PictureError, match="not finite"):
        Transform.of(lambda image: F.to_tensor(image.resize((32, 32))) / np.asarray(image).max())(
            cs.Picture(np.zeros((40, 50, 3), np.float32))
        )


def test_inputs_of_several_sizes_in_one_call():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    steps = transforms.Compose([transforms.Resize(64), transforms.ToTensor()])
    pictures = [picture_of(size) for size in [(90, 120), (120, 90), (90, 120), (90, 120)]]
    model = cs.load(net, preprocess=steps)
    assert not model.preprocess.fixed_size
    several = list(cs.explain_all(model, pictures))
    for e, picture in zip(several, pictures, strict=True):
        alone = cs.explain(model, picture)
        assert e.heatmap.shape == picture.size
        np.testing.assert_allclose(e.heatmap, alone.heatmap, atol=1e-5)
    with pytest.raises(SettingError, match="inputs of different sizes, and the places of boxes need one"):
        cs.Model("boxes", net, preprocess=steps, outcome="boxes")


def test_where_a_preprocess_is_used_a_callable_works_or_says_why_not(tmp_path):
    steps = transforms.Compose([transforms.Resize(72), transforms.CenterCrop(64), transforms.ToTensor(), NORMALISE])
    model = cs.load("timm:test_resnet", weights="none", preprocess=steps)
    written = model.preprocess.to_dict()
    assert written["input_size"] == [64, 64]
    assert "CenterCrop(size=(64, 64))" in written["callable"]
    assert written == Transform.of(steps).to_dict()
    other = transforms.Compose([transforms.Resize(73), *steps.transforms[1:]])
    assert Transform.of(other).to_dict()["fingerprint"] != written["fingerprint"]
    np.testing.assert_allclose(model.preprocess.mean, NORMALISE.mean, atol=1e-5)
    np.testing.assert_allclose(model.preprocess.std, NORMALISE.std, atol=1e-5)
    with pytest.raises(SettingError, match=r"input_size=\(96, 96\) cannot change the preprocessing Compose"):
        model.preprocess.at((96, 96))
    with pytest.raises(ModelError, match="cannot be written as a bundle: its preprocessing Compose is a callable"):
        model.save(tmp_path / "bundle")
    with pytest.raises(SettingError, match="expected either preprocess or mean, std, input_size and fit, but got both"):
        cs.load(model.net, preprocess=steps, mean=[0.5])
    e = cs.explain(model, picture_of((100, 150)))
    assert e.to_dict()["preprocess"] == written
    assert e.window.extent == pytest.approx((64 / 72 * 100,) * 2, abs=2)


def test_bgr_and_a_hugging_face_processor():
    hf = pytest.importorskip("transformers")
    assert Transform.of(lambda image: F.to_tensor(image.resize((32, 32))).flip(0)).order == "bgr"
    transform = Transform.of(hf.ViTImageProcessor(size={"height": 64, "width": 48}))
    assert (transform.form.keyword, transform.input_size) == ("images", (64, 48))
    _, window = transform(picture_of((100, 150)))
    assert (window.start, window.extent) == ((0, 0), (100, 150))


DEEP = (np.random.default_rng(0).random((64, 64)) * 20000 + 20000).astype(np.uint16)


def sixteen_bits(image):
    values = np.asarray(image).astype(np.float32)
    return torch.from_numpy((values if values.ndim == 2 else values[..., 0]) / 65535)[None]


def of_array(array):
    return torch.from_numpy(array[::2, ::2].astype(np.float32) / 65535)[None]


@pytest.mark.parametrize("function", [sixteen_bits, of_array])
def test_a_picture_of_16_bits_is_given_as_it_is(function):
    picture = as_picture(DEEP)
    transform = Transform.of(function, channels=1)
    np.testing.assert_allclose(transform(picture)[0], function(DEEP), rtol=1e-6)
    assert "16-bit values" in transform.notes(picture)[0]
    assert transform.notes(as_picture((DEEP >> 8).astype(np.uint8))) == ()


@pytest.mark.parametrize("steps", [[transforms.Grayscale()], [transforms.Lambda(lambda image: image.convert("L"))]])
def test_what_saturates_at_8_bits_is_given_8_of_16(steps):
    transform = Transform.of(transforms.Compose([*steps, transforms.ToTensor()]), channels=1)
    picture = as_picture(DEEP)
    np.testing.assert_allclose(transform(picture)[0][0], DEEP / 65535, atol=1 / 255)
    assert "8 of the 16 bits" in transform.notes(picture)[0]


def test_grey_pictures_for_a_network_of_one_channel():
    transform = Transform.of(lambda image: torch.from_numpy(np.asarray(image, np.float32) / 255)[None], channels=1)
    assert tuple(transform(as_picture((DEEP >> 8).astype(np.uint8)))[0].shape) == (1, 64, 64)
