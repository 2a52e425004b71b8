"""Regions where they should be, areas exact on every grid and window, evidence with known answers."""

import math

import numpy as np
import pytest
import torch

from camscope.cohort.regions import (
    REGIONS,
    Scene,
    at_input,
    cell_shares,
    check_spec,
    evidence,
    kind,
    region,
    visible_shares,
)
from camscope.errors import SettingError
from camscope.heatmap import place
from camscope.images.picture import Picture, Window
from camscope.models.preprocess import Preprocess
from camscope.phantoms.radiograph import phantom

SIZE = (40, 60)
WHOLE = Window.whole(SIZE)
LESION = np.zeros(SIZE, bool)
LESION[10:20, 5:30] = True


def scene(window=WHOLE, **given):
    return Scene(SIZE, window, **given)


def box(top, bottom, left, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def windows(count=40, seed=0):
    """Crops, letterboxes and shifted boxes with broken edges."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        start = draw.uniform(-0.4, 0.5, 2) * SIZE
        extent = draw.uniform(0.3, 1.6, 2) * SIZE
        yield Window(SIZE, tuple(start), tuple(np.maximum(extent, 3 - start)))


def test_border_is_a_frame_of_what_the_network_saw():
    np.testing.assert_array_equal(region("border:0.10", scene()), ~box(4, 36, 6, 54))
    crop = Window(SIZE, (0.0, 10.0), (40.0, 40.0))
    np.testing.assert_array_equal(region("border:0.10", scene(crop)), box(0, 40, 10, 50) & ~box(4, 36, 14, 46))
    letterbox = Window(SIZE, (-10.0, 0.0), (60.0, 60.0))
    np.testing.assert_array_equal(region("border:0.10", scene(letterbox)), ~box(4, 36, 6, 54))
    assert region("border:0.001", scene()).sum() == 2 * (40 + 60) - 4  # at least one pixel


def test_corners():
    four = {
        "top-left": box(0, 8, 0, 12),
        "top-right": box(0, 8, 48, 60),
        "bottom-left": box(32, 40, 0, 12),
        "bottom-right": box(32, 40, 48, 60),
    }
    for name, mask in four.items():
        np.testing.assert_array_equal(region(f"corner:0.2:{name}", scene()), mask)
    np.testing.assert_array_equal(region("corner:0.2", scene()), np.logical_or.reduce(list(four.values())))
    crop = Window(SIZE, (10.0, 20.0), (20.0, 30.0))
    np.testing.assert_array_equal(region("corner:0.2:top-left", scene(crop)), box(10, 14, 20, 26))
    np.testing.assert_array_equal(region("corner:0.2:bottom-right", scene(crop)), box(26, 30, 44, 50))


def test_masks_and_cues():
    known = scene(masks={"label": lambda: LESION, "lung": None}, cues={"token": lambda: LESION[::-1]})
    for spec, mask in {
        "mask:label": LESION,
        "inside:label": LESION,
        "outside:label": ~LESION,
        "cue:token": LESION[::-1],
    }.items():
        np.testing.assert_array_equal(region(spec, known), mask, err_msg=spec)
    crop = Window(SIZE, (0.0, 10.0), (40.0, 40.0))
    seen = scene(crop, masks={"label": lambda: LESION})
    np.testing.assert_array_equal(region("mask:label", seen), box(10, 20, 10, 30))
    np.testing.assert_array_equal(region("outside:label", seen), box(0, 40, 10, 50) & ~LESION)


def test_masks_are_made_only_when_asked_for():
    def never():
        raise AssertionError

    known = scene(masks={"label": lambda: LESION, "lung": never}, cues={"token": never})
    assert region("mask:label", known) is not None


def test_a_picture_without_the_region_has_none():
    left, everything = Window(SIZE, (0.0, 40.0), (40.0, 20.0)), np.ones(SIZE, bool)
    assert region("mask:lung", scene(masks={"lung": None})) is None
    assert region("outside:lung", scene(masks={"lung": None})) is None
    assert region("cue:token", scene(cues={"token": lambda: None})) is None
    assert region("mask:lung", scene(masks={"lung": lambda: ~everything})) is None
    assert region("mask:label", scene(left, masks={"label": lambda: LESION})) is None  # not seen
    assert region("outside:label", scene(left, masks={"label": lambda: LESION})) is None  # all that was seen
    assert region("mask:lung", scene(masks={"lung": lambda: everything})) is None
    assert region("field-of-view", scene(pixels=np.zeros((*SIZE, 1), np.float32))) is None


def test_a_mask_of_another_size_is_an_error():
    with pytest.raises(SettingError, match=r"shape \(60, 40\), its image \(40, 60\)"):
        region("mask:label", scene(masks={"label": lambda: LESION.T}))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("boder:0.10", "no region called 'boder'; nearest: 'border'"),
        ("", "no region called ''"),
        ("border", "above 0 and below 0.5"),
        ("border:10%", "above 0 and below 0.5"),
        ("border:0.5", "above 0 and below 0.5"),
        ("border:nan", "above 0 and below 0.5"),
        ("border:-0.1", "above 0 and below 0.5"),
        ("corner:1", "above 0 and below 0.5"),
        ("corner:0.1:topleft", "no corner called 'topleft'; nearest: 'top-left'"),
        ("mask:lable", "no mask called 'lable'; nearest: 'label'"),
        ("outside:lungs", "no mask called 'lungs'; nearest: 'lung'"),
        ("mask:", "no mask called ''"),
        ("cue:tokn", "no cue called 'tokn'; nearest: 'token'"),
        ("field-of-view:0.1", "takes no '0.1'"),
    ],
)
def test_wrong_specs_are_found_without_pictures(spec, says):
    with pytest.raises(SettingError, match=says) as caught:
        check_spec(spec, masks=["label", "lung"], cues=["token"])
    assert "\n" not in str(caught.value)


def test_what_is_not_declared_says_what_to_add():
    with pytest.raises(SettingError, match=r'mask:label needs a mask: add mask = "COLUMN" to \[labels.NAME\]'):
        check_spec("mask:label")
    with pytest.raises(SettingError, match=r"no mask called 'lung'; add it to masks in \[cohort\]"):
        check_spec("outside:lung")
    with pytest.raises(SettingError, match=r"no cue called 'token'; add it to cues in \[cohort\]"):
        check_spec("cue:token")


def test_right_specs_pass():
    for spec in ("border:0.10", "corner:0.15", "corner:0.15:top-left", "mask:label", "outside:lung", "cue:token"):
        check_spec(spec, masks=["label", "lung"], cues=["token"])
    check_spec("field-of-view")
    with pytest.raises(SettingError, match="mask:label needs a mask"):
        check_spec("mask:label")


def test_a_new_kind_is_one_function():
    @kind
    def upper_half(argument, scene):
        mask = np.zeros(scene.size, bool)
        mask[: scene.size[0] // 2] = True
        return mask

    try:
        check_spec("upper-half")
        assert region("upper-half", scene())[:20].all()
    finally:
        del REGIONS["upper-half"]


def test_shares_of_cells_that_are_covered_in_part():
    mask = np.zeros((4, 4), bool)
    mask[:, 0] = True
    window = Window.whole((4, 4))
    np.testing.assert_allclose(cell_shares(mask, window, (2, 2)), [[0.5, 0.0], [0.5, 0.0]])
    np.testing.assert_allclose(cell_shares(mask, window, (1, 3)), [[0.75, 0.0, 0.0]])
    crop = Window((4, 4), (0.0, 0.5), (4.0, 3.0))  # begins in the middle of the region's pixels
    np.testing.assert_allclose(cell_shares(mask, crop, (1, 1)), [[0.5 / 3]])
    letterbox = Window((4, 4), (0.0, -4.0), (4.0, 12.0))
    np.testing.assert_allclose(cell_shares(mask, letterbox, (1, 3)), [[0.0, 0.25, 0.0]])
    np.testing.assert_allclose(visible_shares(letterbox, (1, 3)), [[0.0, 1.0, 0.0]])
    np.testing.assert_allclose(visible_shares(letterbox, (1, 2)), [[1 / 3, 1 / 3]])


def exact_area(mask, window):
    """Pixel by pixel: how much of it does the window hold?"""
    total = 0.0
    for row, column in np.argwhere(mask):
        sides = [
            max(0.0, min(pixel + 1, start + extent) - max(pixel, start))
            for pixel, start, extent in zip((row, column), window.start, window.extent, strict=True)
        ]
        total += sides[0] * sides[1]
    return total


def test_shares_add_up_to_the_area_for_every_window_and_grid():
    draw = np.random.default_rng(1)
    for window in windows():
        mask = draw.random(SIZE) < 0.4
        grid = tuple(int(n) for n in draw.integers(1, 30, 2))
        cell = math.prod(window.extent) / math.prod(grid)
        shares, seen = cell_shares(mask, window, grid), visible_shares(window, grid)
        assert shares.sum() * cell == pytest.approx(exact_area(mask, window))
        assert seen.sum() * cell == pytest.approx(exact_area(np.ones(SIZE, bool), window))
        assert (shares <= seen + 1e-12).all()
        np.testing.assert_allclose(shares + cell_shares(~mask, window, grid), seen, atol=1e-12)


def test_a_constant_map_is_enriched_nowhere():
    for window in windows(seed=2):
        for spec in ("border:0.2", "corner:0.3:top-right", "outside:label"):
            mask = region(spec, scene(window, masks={"label": lambda: LESION}))
            if mask is not None:
                found = evidence(
                    np.full((7, 9), 3.0), cell_shares(mask, window, (7, 9)), visible_shares(window, (7, 9))
                )
                assert found.enrichment == pytest.approx(1)
                assert found.mass == pytest.approx(found.area)


def test_mass_on_the_grid_is_the_mass_of_the_map_in_cells():
    draw = np.random.default_rng(3)
    grid_map = draw.standard_normal((5, 6))  # 40 x 60 pixels: cells of 8 x 10
    heat = grid_map.clip(0).repeat(8, axis=0).repeat(10, axis=1)
    found = evidence(grid_map, cell_shares(LESION, WHOLE, (5, 6)), visible_shares(WHOLE, (5, 6)))
    assert found.mass == pytest.approx(heat[LESION].sum() / heat.sum())
    assert found.area == pytest.approx(LESION.mean())
    assert found.enrichment == pytest.approx(found.mass / LESION.mean())


def test_evidence_of_maps_without_heat_is_not_a_number():
    shares, seen = cell_shares(LESION, WHOLE, (5, 6)), visible_shares(WHOLE, (5, 6))
    for empty in (np.zeros((5, 6)), np.full((5, 6), -1.0), np.full((5, 6), np.nan)):
        found = evidence(empty, shares, seen)
        assert math.isnan(found.mass)
        assert math.isnan(found.enrichment)
        assert found.peak_inside is None
        assert found.area == pytest.approx(LESION.mean())


def test_heat_on_the_padding_counts_nowhere():
    letterbox = Window(SIZE, (-10.0, 0.0), (60.0, 60.0))  # rows 0 and 5 of 6 are padding
    grid_map = np.ones((6, 6))
    grid_map[0] = 100
    found = evidence(grid_map, cell_shares(LESION, letterbox, (6, 6)), visible_shares(letterbox, (6, 6)))
    assert found.mass == pytest.approx(LESION.mean())


def test_where_the_peak_is():
    seen = np.ones((4, 6))
    corner = np.zeros((4, 6))
    corner[0, 0] = 1
    small = cell_shares(box(12, 14, 12, 14), WHOLE, (4, 6))  # 4 of the 100 pixels of one cell
    assert evidence(np.eye(4, 6)[::-1] + corner * 2, cell_shares(box(0, 10, 0, 10), WHOLE, (4, 6)), seen).peak_inside
    assert evidence(corner, small, seen).peak_inside is False
    at_small = np.zeros((4, 6))
    at_small[1, 1] = 1
    assert evidence(at_small, small, seen).peak_inside is True
    edge = cell_shares(box(0, 40, 0, 12), WHOLE, (4, 6))  # covers all of column 0 and a fifth of column 1
    assert evidence(at_small, edge, seen).peak_inside is False
    assert evidence(at_small + corner, edge, seen).peak_inside is None  # two peaks, one inside
    assert evidence(seen, edge, seen).peak_inside is None
    assert evidence(seen, np.ones((4, 6)), seen).peak_inside is True


def test_regions_on_the_input_lie_where_the_network_sees_them():
    pixels = np.zeros((40, 60, 1), np.float32)
    pixels[LESION] = 1
    for fit in ("crop", "squash", "pad"):
        preprocess = Preprocess((32, 32), mean=(0.0,), std=(1.0,), fit=fit, interpolation="box")
        tensor, window = preprocess(Picture(pixels))
        shown = tensor[0].numpy()
        sure = np.abs(shown - 0.5) > 0.3  # Pillow's filter counts whole pixels only
        assert sure.mean() > 0.9
        np.testing.assert_array_equal(at_input(LESION, window, (32, 32))[sure], shown[sure] > 0.5)


def test_a_region_grows_on_the_picture_alone():
    letterbox = Window(SIZE, (-10.0, 0.0), (60.0, 60.0))  # the image is rows 10 to 50 of 60
    grown = at_input(box(0, 5, 20, 30), letterbox, (60, 60), grow=2)
    expected = np.zeros((60, 60), bool)
    expected[10:17, 18:32] = True
    np.testing.assert_array_equal(grown, expected)


def test_nothing_small_is_lost_on_the_input():
    draw = np.random.default_rng(4)
    for window in windows(seed=5):
        mask = np.zeros(SIZE, bool)
        mask[int(draw.integers(40)), int(draw.integers(60))] = True
        found = at_input(mask, window, (6, 5))
        assert found.any() == bool(exact_area(mask, window) > 0)
        shown = place(torch.from_numpy(found.astype(np.float64)), window).numpy()
        if (mask & scene(window).visible).any():
            assert shown[mask].item() > 0


def test_field_of_view_of_a_collimated_phantom():
    """The blades of a phantom are known: its pose says how far each side is closed."""
    from camscope.phantoms.anatomy import Patient, Pose

    found, closed_sides, wrongly = 0, 0, 0
    for seed in range(90_000, 90_024):
        made = phantom(seed, size=(128, 128))
        left, top, right, bottom = Pose.of(Patient.of(seed), "PA", shot=0).shutter
        pixels = made.picture.pixels
        mask = region("field-of-view", Scene((128, 128), Window.whole((128, 128)), pixels))
        mask = np.zeros((128, 128), bool) if mask is None else mask
        middles = {"left": mask[64, 0], "top": mask[0, 64], "right": mask[64, -1], "bottom": mask[-1, 64]}
        for side, closed in zip(middles, (left, top, right, bottom), strict=True):
            if closed > 0.02:
                closed_sides += 1
                found += bool(middles[side])
            elif closed == 0:
                wrongly += bool(middles[side])
        assert not mask[40:90, 40:90].any()
    assert closed_sides >= 20
    assert found >= 0.75 * closed_sides  # a blade above the shoulders, where the air is black, cannot be seen
    assert wrongly <= 4
