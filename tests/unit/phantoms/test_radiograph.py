import numpy as np
import pytest

from camscope.errors import SettingError
from camscope.phantoms.radiograph import FINDINGS, phantom

SMALL = (96, 96)


def grey(made):
    return made.picture.pixels[..., 0]


def test_same_seed_same_picture():
    first = phantom(5, view="AP", findings=["Nodule", "Effusion"], token=True, shot=2, size=SMALL)
    phantom(6, size=SMALL), phantom(7, size=SMALL), phantom(8, size=SMALL)  # push the first out of the memory
    again = phantom(5, view="AP", findings=["Effusion", "Nodule"], token=True, shot=2, size=SMALL)
    assert np.array_equal(grey(first), grey(again))
    assert all(np.array_equal(first.masks[name], again.masks[name]) for name in first.findings)
    assert first.findings == ("Effusion", "Nodule")


def test_other_shot_same_patient_other_picture():
    first, second = phantom(5, size=SMALL), phantom(5, size=SMALL, shot=1)
    assert (first.sex, first.age) == (second.sex, second.age)
    assert np.abs(grey(first) - grey(second)).mean() > 0.01


def test_pixels_are_grey_bytes_in_range():
    made = phantom(3, size=(80, 112))
    assert made.picture.pixels.shape == (80, 112, 1)
    assert made.picture.pixels.dtype == np.float32
    assert made.picture.pixels.min() >= 0
    assert made.picture.pixels.max() <= 1
    levels = made.picture.pixels * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4
    assert 2.0 < made.picture.spacing[0] < 6.0


def test_sizes_show_the_same_anatomy():
    small, large = phantom(11, size=(96, 96)), phantom(11, size=(192, 192))
    reduced = large.lung.reshape(96, 2, 96, 2).mean(axis=(1, 3)) > 0.5
    assert (reduced & small.lung).sum() / (reduced | small.lung).sum() > 0.96
    brightness = large.picture.pixels[..., 0].reshape(96, 2, 96, 2).mean(axis=(1, 3))
    assert np.abs(brightness - grey(small)).mean() < 0.02


@pytest.mark.parametrize("view", ["AP", "PA"])
def test_anatomy_is_a_chest(view):
    for seed in range(6):
        made = phantom(seed, view=view, size=SMALL)
        columns = np.arange(SMALL[1])
        left = (made.left_lung * columns).sum() / made.left_lung.sum()
        right = (made.right_lung * columns).sum() / made.right_lung.sum()
        heart = (made.heart * columns).sum() / made.heart.sum()
        assert right < heart < left  # the patient's left is the right of the image
        assert not (made.left_lung & made.right_lung).any()
        assert not (made.lung & made.heart).any()
        assert 0.12 < made.lung.mean() < 0.45
        assert grey(made)[made.heart].mean() > grey(made)[made.lung].mean() + 0.2


def test_heart_is_larger_in_ap_than_in_pa():
    ratios = {}
    for view in ("AP", "PA"):
        made = [phantom(seed, view=view, size=SMALL) for seed in range(8)]
        ratios[view] = np.mean([np.ptp(np.where(m.heart)[1]) / np.ptp(np.where(m.lung)[1]) for m in made])
    assert ratios["AP"] > 1.05 * ratios["PA"]


@pytest.mark.parametrize("finding", FINDINGS)
def test_finding_is_seen_inside_its_mask_and_changes_little_outside(finding):
    for seed in range(8):
        view = "AP" if seed % 2 else "PA"
        without, made = phantom(seed, view=view, size=SMALL), phantom(seed, view=view, findings=[finding], size=SMALL)
        change, mask = np.abs(grey(made) - grey(without)) * 255, made.masks[finding]
        assert mask.any()
        assert change[mask].mean() > 10
        assert change[mask].mean() > 8 * change[~mask].mean()
        assert without.masks == {}


@pytest.mark.parametrize("finding", ["Pneumothorax", "Nodule", "Consolidation"])
def test_lung_findings_lie_in_the_chest(finding):
    for seed in range(8):
        made = phantom(seed, findings=[finding], size=SMALL)
        rows, columns = np.where(made.lung)
        inside = made.masks[finding][rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert inside.sum() == made.masks[finding].sum()
        assert (made.masks[finding] & made.lung).sum() > 0.5 * made.masks[finding].sum()


def test_pneumothorax_darkens_and_the_others_brighten():
    for seed in range(4):
        plain = grey(phantom(seed, size=SMALL))
        for finding in ("Pneumothorax", "Effusion", "Consolidation", "Nodule"):
            made = phantom(seed, findings=[finding], size=SMALL)
            change = (grey(made) - plain)[made.masks[finding]].mean()
            assert change < 0 if finding == "Pneumothorax" else change > 0


def test_cardiomegaly_widens_the_heart():
    for seed in range(4):
        usual, made = phantom(seed, size=SMALL), phantom(seed, findings=["Cardiomegaly"], size=SMALL)
        assert np.ptp(np.where(made.heart)[1]) > 1.12 * np.ptp(np.where(usual.heart)[1])
        assert np.array_equal(made.masks["Cardiomegaly"], made.heart)


def in_ring(box, size, width=0.10):
    x0, y0, x1, y1 = box
    height, wide = size
    inside = 0 <= x0 < x1 <= wide and 0 <= y0 < y1 <= height
    return inside and (
        x1 <= width * wide or x0 >= (1 - width) * wide or y1 <= width * height or y0 >= (1 - width) * height
    )


@pytest.mark.parametrize("size", [(96, 96), (128, 128), (256, 256), (100, 140)])
def test_token_lies_in_the_outer_tenth_and_changes_nothing_else(size):
    places = set()
    for seed in range(5):
        without, made = phantom(seed, view="AP", size=size), phantom(seed, view="AP", token=True, size=size)
        assert in_ring(made.token_box, size)
        x0, y0, x1, y1 = made.token_box
        change = grey(made) != grey(without)
        assert change[y0:y1, x0:x1].mean() > 0.5
        change[y0:y1, x0:x1] = False
        assert not change.any()
        assert without.token_box is None
        places.add((x0, y0))
    assert len(places) > 2


def test_token_does_not_cover_the_side_marker():
    for seed in range(12):
        made = phantom(seed, view="AP", token=True, size=SMALL)
        if made.marker_box is not None:
            a, b = made.token_box, made.marker_box
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_side_marker_is_on_most_pictures_and_varies():
    boxes = [phantom(seed, size=(64, 64)).marker_box for seed in range(30)]
    there = [box for box in boxes if box is not None]
    assert 20 <= len(there) < 30
    assert len({box[:2] for box in there}) > 15


def test_masks_given_out_can_be_changed_without_harm():
    made = phantom(2, findings=["Cardiomegaly"], size=(64, 64))
    count = made.lung.sum()
    made.left_lung[:] = True
    made.masks["Cardiomegaly"][:] = True
    assert phantom(2, findings=["Cardiomegaly"], size=(64, 64)).lung.sum() == count


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"view": "LAT"}, "no view 'LAT'"),
        ({"findings": ["Nodul"]}, "nearest: 'Nodule'"),
        ({"findings": "Nodule"}, "give a list"),
        ({"token": True}, "AP images only"),
        ({"size": (32, 32)}, "at least 64 x 64"),
    ],
)
def test_wrong_arguments(arguments, says):
    with pytest.raises(SettingError, match=says):
        phantom(0, **arguments)
