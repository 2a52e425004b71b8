import pytest
import torch

from camscope.errors import SettingError
from camscope.metrics import METRICS, boxes_of, chance, mask_boxes, otsu, tuned
from camscope.metrics.localisation import near


def square(top, left, side, *, of=32):
    mask = torch.zeros(1, of, of, dtype=torch.bool)
    mask[0, top : top + side, left : left + side] = True
    return mask


def test_tolerance_grows_the_region_by_a_disc_without_its_rim():
    point = square(10, 10, 1)
    grown = near(point, 3)[0]
    expected = [(y - 10) ** 2 + (x - 10) ** 2 < 9 for y in range(32) for x in range(32)]
    assert grown.flatten().tolist() == expected
    assert not near(point & False, 3).any()
    assert chance(point, tolerance=3).item() == sum(expected) / 1024


def test_maps_are_laid_over_the_mask_as_heatmaps_are():
    """A grid cell of 8 pixels: its centre lies between pixels 11 and 12, where the peak is after interpolation."""
    grid = torch.zeros(1, 4, 4)
    grid[0, 1, 1] = 1
    assert METRICS["pointing"](grid, square(11, 11, 2)).item() == 1
    assert METRICS["pointing"](grid, square(0, 0, 8)).item() == 0


def test_signed_maps_count_with_their_positive_part():
    maps = torch.tensor([[[4.0, 0.0], [-9.0, -1.0]]])
    mask = torch.tensor([[[True, False], [True, False]]])
    assert METRICS["mass_accuracy"](maps, mask).item() == 1
    assert METRICS["rank_accuracy"](maps, mask).item() == 0.5


def test_a_map_without_heat():
    maps, mask = -torch.rand(1, 8, 8), square(2, 2, 3, of=8)
    assert METRICS["mass_accuracy"](maps, mask).isnan().all()
    assert METRICS["enrichment"](maps, mask).isnan().all()
    assert METRICS["iou"](maps, mask).item() == 0
    assert METRICS["tuned_iou"](maps, mask).eq(0).all()
    assert METRICS["maxboxacc"](maps, mask).eq(0).all()
    assert boxes_of(maps[0], 0.5) == []


@pytest.mark.parametrize("name", ["pointing", "pointing_game", "mass_accuracy", "rank_accuracy", "auprc", "iou"])
def test_a_map_with_nan_is_not_defined(name):
    maps = torch.rand(1, 8, 8)
    maps[0, 0, 0] = torch.nan
    assert METRICS[name](maps, square(2, 2, 3, of=8)).isnan().all()


def test_a_negative_tolerance():
    with pytest.raises(SettingError, match="give 0 for none"):
        METRICS["pointing_game"](torch.rand(1, 8, 8), square(2, 2, 3, of=8), tolerance=-1)


def test_otsu_parts_two_levels_and_leaves_a_flat_map_whole():
    maps = torch.where(square(4, 4, 10, of=32), 0.8, 0.2)
    assert 0.2 < otsu(maps).item() < 0.8
    assert METRICS["iou"](maps, square(4, 4, 10)).item() == 1
    assert METRICS["iou"](torch.ones(1, 8, 8), square(0, 0, 4, of=8)).item() == 0.25


def test_boxes_come_largest_first_and_touch_at_corners():
    mask = square(0, 0, 2) | square(2, 2, 3) | square(20, 20, 8)
    assert boxes_of(mask[0].double(), 0.5) == [(20, 20, 28, 28), (0, 0, 5, 5)]
    assert sorted(mask_boxes(mask)[0]) == [(0, 0, 5, 5), (20, 20, 28, 28)]


def test_true_boxes_may_be_given_where_they_overlap():
    maps, mask = square(4, 4, 8).double(), square(4, 4, 8) | square(4, 4, 20)
    assert tuned(METRICS["maxboxacc"](maps, mask)).value == 0, "as pieces of the mask the two are one"
    assert tuned(METRICS["maxboxacc"](maps, mask, boxes=[[(4, 4, 12, 12), (4, 4, 24, 24)]])).value == 1


def test_large_pictures_are_cut_at_224_pixels_with_their_boxes():
    mask = square(200, 400, 300, of=1024)
    grid = torch.nn.functional.avg_pool2d(mask.double(), 64)
    assert tuned(METRICS["maxboxacc"](grid, mask)).value == 1
    boxed = METRICS["maxboxacc"](grid, mask, boxes=[[(400, 200, 700, 500)]])
    assert torch.equal(boxed, METRICS["maxboxacc"](grid, mask))


def test_tuned_leaves_pictures_without_a_region_out():
    curves = torch.tensor([[0.1, 0.9], [torch.nan, torch.nan], [0.8, 0.3]])
    found = tuned(curves)
    assert found.value == pytest.approx(0.6)
    assert found.thresholds == (0.01,)
    assert found.values.isnan().tolist() == [False, True, False]


def test_tuned_chooses_one_threshold_for_each_overlap():
    curves = torch.zeros(2, 3, 4)
    curves[:, 0, 1], curves[:, 1, 2], curves[0, 2, 3] = 1, 1, 1
    found = tuned(curves)
    assert found.thresholds == (0.01, 0.02, 0.03)
    assert found.values.tolist() == pytest.approx([1, 2 / 3])
    assert found.value == pytest.approx(5 / 6)
