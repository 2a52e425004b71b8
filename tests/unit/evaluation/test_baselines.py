"""Maps that know nothing: right, and never of the image's own patient."""

import torch

from camscope.evaluation.baselines import CELLS, AverageMasks, as_seen, baseline_maps, centre, uniform
from camscope.evaluation.data import read_data
from camscope.heatmap import place
from camscope.images import Window


def test_the_centre_prior_is_symmetric_and_highest_in_the_middle():
    grid = centre()
    assert torch.equal(grid, grid.flip(0))
    assert torch.equal(grid, grid.T)
    assert grid.argmax() == (CELLS // 2 - 1) * CELLS + CELLS // 2 - 1
    assert uniform().unique().tolist() == [1.0]


def test_the_average_mask_leaves_out_the_patient(folder):
    cases = read_data(folder / "pictures.csv", boxes="box").cases
    average = AverageMasks(cases)
    for patient in ("P0", "P1", "P2", "P3"):
        others = [item.annotation((48, 48)) for item in cases if item.patient != patient]
        expected = torch.nn.functional.adaptive_avg_pool2d(
            torch.stack([torch.from_numpy(mask) for mask in others]).double().mean(0)[None], (CELLS, CELLS)
        )[0]
        assert torch.allclose(average.without(patient).double(), expected, atol=1e-6)


def test_one_patient_alone_has_no_average_mask(folder):
    cases = [item for item in read_data(folder / "pictures.csv", boxes="box").cases if item.patient == "P0"]
    average = AverageMasks(cases)
    assert average.without("P0") is None
    assert baseline_maps("averagemask", cases=cases, windows=[Window.whole((48, 48))] * 2, average=average) == {}


def test_a_map_over_the_picture_lies_where_it_lay_when_a_part_was_seen():
    over = torch.rand(4, 4)
    window = Window((64, 64), (16.0, 0.0), (32.0, 64.0))
    seen = place(as_seen(over, window), window)
    whole = place(over, Window.whole((64, 64)))
    assert (seen[16:48] - whole[16:48]).abs().max() < 0.1
    assert seen[:16].abs().max() == seen[48:].abs().max() == 0


def test_padding_is_empty():
    seen = as_seen(torch.ones(2, 2), Window((32, 32), (-16.0, 0.0), (64.0, 32.0)))
    assert seen[: CELLS // 4].abs().max() == 0
    assert seen[CELLS // 4 : 3 * CELLS // 4].min() == 1
