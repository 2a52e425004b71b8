import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from camscope.acquisition import PROPERTIES
from camscope.errors import SettingError
from camscope.images.picture import Picture
from camscope.models.preprocess import Preprocess
from camscope.training.dataset import read_dataset
from camscope.training.exchange import Lenders, compared, exchange_kinds, exchanged, measured, with_properties
from camscope.training.pictures import Pictures, Preparation, read_all

PREPROCESS = Preprocess(input_size=(32, 32), fit="squash", mean=(0.5,), std=(0.25,))


def exchanging(path, exchange, *, labels=(), split="train", epochs=1):
    """The inputs (epochs, images, 32, 32) in grey values, without augmentation, and the dataset."""
    data = read_dataset(path, labels=labels)
    preparation = Preparation(PREPROCESS, data.masks, exchange=exchange)
    cases = tuple(dataclasses.replace(case, split=split) for case in data.cases)
    data, shelf = read_all(dataclasses.replace(data, cases=cases), preparation)
    pictures = Pictures(data, split, preparation=preparation, shelf=shelf)
    inputs = []
    for epoch in range(epochs):
        pictures.epoch = epoch
        inputs.append(torch.stack([x[0] for x, *_ in pictures]))
    return ((torch.stack(inputs) * 0.25 + 0.5) * 255).round().numpy(), data


def framed(path, rings):
    """Grey images (32, 32) of 128 with a ring of another grey value."""
    for n, ring in enumerate(rings):
        pixels = np.full((32, 32), ring, np.uint8)
        pixels[4:-4, 4:-4] = 128
        Image.fromarray(pixels).save(path.parent / f"{n}.png")


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_region_does_not_tell_the_label_and_the_rest_stays(table, split):
    """Rings are 10 with the label and 250 without, in one image of five the other way round; few images have it."""
    path = table([{"there": int(n % 5 == 0)} for n in range(40)])
    framed(path, [10 if n % 5 == 0 else 250 for n in range(40)])
    inputs, _ = exchanging(path, ("border:0.12",), labels=["there"], split=split, epochs=50)
    assert (inputs[:, :, 8:-8, 8:-8] == 128).all()
    dark = inputs[:, :, 16, 0] == 10
    assert ((inputs[:, :, 16, 0] == 250) | dark).all()
    present = np.arange(40) % 5 == 0
    # Half of all rings are those of the rare label, in images with it and without it: 400 and 1600 draws.
    assert dark[:, present].mean() == pytest.approx(0.5, abs=0.1)
    assert dark[:, ~present].mean() == pytest.approx(0.5, abs=0.05)


def test_with_several_labels_all_images_lend_alike(table):
    path = table([{"a": int(n % 2), "b": int(n % 5 == 0)} for n in range(10)])
    framed(path, [20 * n for n in range(10)])
    inputs, _ = exchanging(path, ("border:0.12",), epochs=100)
    counts = np.bincount((inputs[:, :, 16, 0] / 20).astype(int).ravel(), minlength=10)
    assert counts.sum() == 1000
    assert (np.abs(counts - 100) < 40).all()


def test_a_cue_is_removed_from_its_image_and_inserted_where_the_lender_has_it(table):
    """Images with the cue stand apart from the others: after the exchange, half of each have it, at its own place."""
    boxes = [f"{2 + n},4,{8 + n},10" if n % 2 else "" for n in range(12)]
    path = table([{"there": n % 2, "box": box} for n, box in enumerate(boxes)])
    for n in range(12):
        pixels = np.full((32, 32), 100, np.uint8)
        if n % 2:
            pixels[4:10, 2 + n : 8 + n] = 255
        Image.fromarray(pixels).save(path.parent / f"{n}.png")
    inputs, _ = exchanging(path, ("cue:box",), labels=["there"], epochs=40)
    bright = (inputs == 255).sum((2, 3))
    assert set(np.unique(bright)) == {0, 36}
    present = np.arange(12) % 2 == 1
    assert (bright[:, present] > 0).mean() == pytest.approx(0.5, abs=0.12)
    assert (bright[:, ~present] > 0).mean() == pytest.approx(0.5, abs=0.12)


def test_where_an_image_has_no_cue_it_is_patched_all_the_same(table):
    """Otherwise a patch of another image's tissue would tell that there was a cue, and so the label."""
    path = table([{"there": n % 2, "box": "4,4,12,12" if n % 2 else ""} for n in range(8)])
    for n in range(8):
        Image.fromarray(np.full((32, 32), 20 * n, np.uint8)).save(path.parent / f"{n}.png")
    inputs, _ = exchanging(path, ("cue:box",), labels=["there"], epochs=20)
    patched = inputs[:, :, 8, 8] != inputs[:, :, 30, 30]
    # An image is its own lender once in 8.
    for label in (0, 1):
        assert patched[:, label::2].mean() == pytest.approx(7 / 8, abs=0.1)


def test_the_property_of_an_image_is_that_of_another(table):
    path = table([{"there": n % 2} for n in range(8)])
    draw = np.random.default_rng(0)
    for n in range(8):
        pixels = 128 + (20 if n % 2 else 60) * draw.uniform(-1, 1, (32, 32))
        Image.fromarray(pixels.astype(np.uint8)).save(path.parent / f"{n}.png")
    before = exchanging(path, ())[0]
    inputs, data = exchanging(path, ("contrast",), labels=["there"], epochs=40)
    assert data.cases[0].sha256
    spread = np.subtract(*np.percentile(inputs, [75, 25], axis=(2, 3)))
    low = spread < 40
    # The audit measures the contrast in the middle of an image, here over the whole.
    assert ((spread > 12) & (spread < 30) | (spread > 45) & (spread < 80)).all()
    for label in (0, 1):
        assert low[:, label::2].mean() == pytest.approx(0.5, abs=0.12)
    # The content stays: pixels keep their order.
    assert all(np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99 for a, b in zip(before[0], inputs[0], strict=True))


def test_inversion_is_exchanged_in_terms_of_the_split(table):
    path = table([{"there": n % 2} for n in range(9)])
    slope = np.tile(np.linspace(20, 200, 32), (32, 1))
    for n in range(9):
        Image.fromarray(np.uint8(255 - slope if n in (1, 3) else slope)).save(path.parent / f"{n}.png")
    inputs, _ = exchanging(path, ("inversion",), labels=["there"], epochs=60)
    inverted = inputs[:, :, 16, 0] > inputs[:, :, 16, -1]
    for label in (0, 1):
        assert inverted[:, label::2].mean() == pytest.approx(0.25, abs=0.1)  # half of the two among four


def test_several_properties_are_all_those_of_the_lender():
    draw = np.random.default_rng(1)
    names = ("contrast", "brightness", "noise")
    own, other = (
        Picture((level + spread * draw.uniform(-1, 1, (64, 64, 1))).astype(np.float32), bits=16)
        for level, spread in ((0.3, 0.1), (0.5, 0.2))
    )
    traits = [measured(picture, names, side=64) for picture in (own, other)]
    changed = with_properties(own, *traits, side=64)
    after = measured(changed, names, side=64)
    assert after["brightness"][0] == pytest.approx(traits[1]["brightness"][0], abs=0.02)
    assert after["contrast"][0] == pytest.approx(traits[1]["contrast"][0], rel=0.15)


def test_a_property_of_the_file_is_set_at_full_size_and_others_in_a_reduced_picture():
    pixels = np.random.default_rng(0).uniform(0.2, 0.8, (1024, 1024, 1)).astype(np.float32)
    picture = Picture(pixels, bits=16)
    trait = measured(picture, ["resolution", "brightness"], side=64)
    assert trait["resolution"][0] == 1024
    half = {"resolution": np.array([512.0])}
    assert with_properties(picture, {"resolution": trait["resolution"]}, half, side=64).size == (512, 512)
    brighter = with_properties(picture, {"brightness": trait["brightness"]}, {"brightness": np.array([0.7])}, side=64)
    assert brighter.size == (256, 256)


def test_lenders_of_classes():
    truth = np.eye(3)[[0, 0, 0, 1, 2, 2]]
    lenders = Lenders.of([3, 5, 7, 9, 11, 13], truth, single=True)
    assert lenders.groups == ((3, 5, 7), (9,), (11, 13))
    draw = np.random.default_rng(0)
    picks = [lenders.pick(draw) for _ in range(3000)]
    assert picks.count(9) == pytest.approx(1000, abs=120)
    assert picks.count(3) == pytest.approx(333, abs=90)


def test_padding_stays():
    seen = np.ones((4, 6), bool)
    seen[:, :2] = False
    x, donor = np.zeros((1, 4, 6), np.float32), np.ones((1, 4, 6), np.float32)
    result = exchanged(x, [(np.ones((4, 6), bool), None)], visible=seen, donor=donor)
    np.testing.assert_array_equal(result[0], seen)
    np.testing.assert_array_equal(exchanged(x, [(None, None)], visible=seen, donor=donor), x)
    assert not x.any()


def test_traits_in_terms_of_a_cohort_keep_their_images():
    slope = np.tile(np.linspace(0.1, 0.9, 32, dtype=np.float32), (32, 1))[..., None]
    traits = {
        n: measured(Picture(1 - slope if n == 7 else slope), ["inversion", "contrast"], side=32) for n in (2, 5, 7)
    }
    result = compared(traits)
    assert {n: result[n]["inversion"].tolist() for n in result} == {2: [0.0], 5: [0.0], 7: [1.0]}
    np.testing.assert_array_equal(result[5]["contrast"], traits[5]["contrast"])


@pytest.mark.parametrize(
    ("exchange", "fixed", "text"),
    [
        (["contrst"], (), "no region or property called 'contrst'; nearest: 'contrast'"),
        (["cue:tokn"], (), "no cue called 'tokn'; nearest: 'token'"),
        (["border:0.7"], (), "needs a fraction above 0 and below 0.5"),
        (["frame", "border:0.1"], (), "exchanging 'frame' moves the content of an image, and 'border:0.1'"),
        (["aspect"], ("lung",), "exchanging 'aspect' moves the content of an image, and 'lung'"),
    ],
)
def test_what_cannot_be_exchanged_is_an_error(exchange, fixed, text):
    with pytest.raises(SettingError, match=text):
        exchange_kinds(exchange, masks=["token", "lung"], fixed=fixed)


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_property_gives_an_input_of_the_same_size(table, name):
    path = table([{"there": n % 2} for n in range(4)])
    inputs, _ = exchanging(path, (name,), labels=["there"])
    assert inputs.shape == (1, 4, 32, 32)
    assert np.isfinite(inputs).all()
