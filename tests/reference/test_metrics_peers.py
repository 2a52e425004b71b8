"""Metrics against pytorch-grad-cam, torch-cam and captum where they are right, and where they differ on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from camscope.metrics import METRICS, THRESHOLDS, boxes_of, deletion_curve, road_curves
from camscope.metrics.imputation import impute

captum = pytest.importorskip("captum.metrics")
grad_cam = pytest.importorskip("pytorch_grad_cam.metrics.road")
drops = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
perturbation = pytest.importorskip("pytorch_grad_cam.metrics.perturbation_confidence")
torchcam = pytest.importorskip("torchcam.metrics")
torchcam_methods = pytest.importorskip("torchcam.methods")

B, SIDE, CLASSES = 3, 16, [0, 2, 1]


@pytest.fixture
def net():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    return nn.Sequential(*body, nn.Softmax(1)).eval()


@pytest.fixture
def inputs():
    return torch.randn(B, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps():
    return torch.rand(B, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def scorer(net):
    return lambda inputs, rows: net(inputs).gather(1, torch.tensor(CLASSES)[rows, None])[:, 0]


def targets():
    return [lambda output, c=c: output[c] for c in CLASSES]


def test_imputation_is_that_of_pytorch_grad_cam(inputs, maps, close):
    removed = maps > 0.3
    imputer = grad_cam.NoisyLinearImputer(noise=0)
    theirs = torch.stack([imputer(x, (~m).float()) for x, m in zip(inputs, removed, strict=True)])
    close(impute(inputs, removed), theirs, to=1e-6)


def test_road_is_that_of_pytorch_grad_cam(net, inputs, maps):
    """Percentiles of the map cut off the same pixels as shares of their number do, where no two are equal."""
    percentiles = [10, 30, 50, 90]
    imputer = grad_cam.NoisyLinearImputer(noise=0)
    counts = [int((maps[0] >= np.percentile(maps[0].numpy(), p)).sum()) for p in percentiles]
    curves = road_curves(maps, inputs, scorer(net), shares=[c / SIDE**2 for c in counts], noise=0)
    for ours, remove in (
        (curves.morf, perturbation.RemoveMostRelevantFirst),
        (curves.lerf, perturbation.RemoveLeastRelevantFirst),
    ):
        for column, percentile in enumerate(percentiles):
            metric = perturbation.PerturbationConfidenceMetric(remove(percentile, imputer))
            theirs = metric(inputs, maps.numpy(), targets(), net)
            assert np.abs(ours[:, column].numpy() - theirs).max() < 1e-6
    assert curves.combined.abs().min() > 1e-5, "nothing to compare"


def test_road_combined_is_that_of_pytorch_grad_cam(net, inputs, maps, monkeypatch):
    start = grad_cam.NoisyLinearImputer.__init__
    monkeypatch.setattr(start, "__defaults__", (0, *start.__defaults__[1:]))  # no noise, which would be its own
    percentiles = [10, 30, 50, 70, 90]
    theirs = grad_cam.ROADCombined(percentiles)(inputs, maps.numpy(), targets(), net)
    counts = [int((maps[0] >= np.percentile(maps[0].numpy(), p)).sum()) for p in percentiles]
    ours = METRICS["road"](maps, inputs, scorer(net), shares=[c / SIDE**2 for c in counts], noise=0)
    assert np.abs(theirs).min() > 1e-5, "nothing to compare"
    assert np.abs(ours.numpy() - theirs).max() < 1e-6


def test_deliberate_difference_road_removes_its_share_where_values_tie(net, inputs):
    """Percentiles remove all equal values together: half of the image here, where a tenth was asked for."""
    halves = torch.zeros(B, SIDE, SIDE)
    halves[:, :, : SIDE // 2] = 1
    metric = perturbation.PerturbationConfidenceMetric(
        perturbation.RemoveMostRelevantFirst(90, grad_cam.NoisyLinearImputer(noise=0))
    )
    theirs = metric(inputs, halves.numpy(), targets(), net)
    ours = road_curves(halves, inputs, scorer(net), shares=[0.1, 0.5], noise=0).morf.numpy()
    assert np.abs(ours[:, 1] - theirs).max() < 1e-6
    assert np.abs(ours[:, 0] - theirs).min() > 1e-5


def test_deliberate_difference_pytorch_grad_cams_drop_is_not_divided_by_p(net, inputs, maps):
    unit = (maps - maps.amin((1, 2), keepdim=True)) / (maps.amax((1, 2)) - maps.amin((1, 2)))[:, None, None]
    theirs = drops.DropInConfidence()(inputs, unit[:, None].numpy(), targets(), net)
    ours = METRICS["average_drop"](maps, inputs, scorer(net)).numpy()
    clean = scorer(net)(inputs, torch.arange(B)).detach().numpy()
    assert theirs.max() > 1e-4, "nothing to compare"
    assert np.abs(ours * clean - theirs).max() < 1e-6
    assert np.abs(ours - theirs).max() > 1e-4


def test_increase_is_that_of_pytorch_grad_cam(net, inputs, maps):
    """Maps of one pixel each and of all, so that some scores rise and some fall."""
    unit = (maps == maps.amax((1, 2), keepdim=True)).float()
    unit[0] = maps[0] / maps[0].max()
    unit[0, 0, 0] = 0
    theirs = drops.IncreaseInConfidence()(inputs, unit[:, None].numpy(), targets(), net)
    ours = METRICS["increase"](unit, inputs, scorer(net))
    assert 0 < ours.mean() < 1, "nothing to compare"
    assert ours.tolist() == np.asarray(theirs, float).tolist()


def its_maps(net, inputs):
    extractor = torchcam_methods.GradCAM(net, "1", input_shape=(3, SIDE, SIDE))
    with torch.enable_grad():
        found = extractor(CLASSES, net(inputs))[0].detach()
    extractor.remove_hooks()
    return found


def test_deletion_and_insertion_are_those_of_torch_cam(net, inputs):
    maps = its_maps(net, inputs)
    assert all(len(m.unique()) > SIDE for m in maps)
    # its order of equal values is that of the rows, ours is random: a little is added that makes none equal
    tilt = torch.linspace(1e-6, 0, SIDE**2).view(SIDE, SIDE)
    metric = torchcam.DeletionInsertionMetric(torchcam_methods.GradCAM(net, "1", input_shape=(3, SIDE, SIDE)), steps=16)
    metric.update(inputs, CLASSES)
    theirs = metric.summary()
    ours = deletion_curve(maps + tilt, inputs, scorer(net), steps=16).area.mean()
    back = METRICS["insertion"](maps + tilt, inputs, scorer(net), steps=16, substrate="zero").mean()
    assert abs(float(ours) - theirs["deletion_auc"]) < 1e-6
    assert abs(float(back) - theirs["insertion_auc"]) < 1e-6


def test_average_drop_is_that_of_torch_cam(net, inputs):
    """Its scaled maps have the inputs' size here, so that it does not matter that it scales before it resizes."""
    maps = its_maps(net, inputs)
    metric = torchcam.ClassificationMetric(torchcam_methods.GradCAM(net, "1", input_shape=(3, SIDE, SIDE)))
    metric.update(inputs, CLASSES)
    theirs = metric.summary()
    assert abs(float(METRICS["average_drop"](maps, inputs, scorer(net)).mean()) - theirs["avg_drop"]) < 1e-6
    assert float(METRICS["increase"](maps, inputs, scorer(net)).mean()) == pytest.approx(theirs["conf_increase"])


def test_infidelity_is_that_of_captum(net, inputs, maps, close):
    """Our rectangles are handed to captum, whose maps have channels: each has its share of ours."""
    from camscope.metrics.additivity import _rectangles

    boxes = _rectangles(inputs.shape[2:], 16, 0)
    drawn = iter(boxes)

    def perturb(x, *_):
        box = next(drawn)
        edited = torch.where(box, torch.zeros_like(x), x)
        return box.double().expand_as(x), edited.to(x)

    net, x = net.double(), inputs.double()
    theirs = captum.infidelity(
        lambda some: net(some),
        lambda x, *_: perturb(x),
        x,
        (maps.double()[:, None] / 3).expand_as(x),
        target=CLASSES,
        n_perturb_samples=16,
        max_examples_per_batch=B,
        normalize=True,
    )
    ours = METRICS["infidelity"](maps, x, scorer(net), samples=16)
    close(ours, theirs, to=1e-6)


def test_completeness_is_the_convergence_delta_of_captum(net, inputs, maps, close):
    attribution = pytest.importorskip("captum.attr")
    net, x = net.double(), inputs.double()
    each = (maps.double()[:, None] / 3).expand_as(x)
    delta = attribution.IntegratedGradients(net).compute_convergence_delta(each, torch.zeros_like(x), x, target=CLASSES)
    rows = torch.arange(B)
    change = scorer(net)(x, rows) - scorer(net)(torch.zeros_like(x), rows)
    close(METRICS["completeness"](maps, x, scorer(net)), (delta / change).abs().detach(), to=1e-6)


def test_max_sensitivity_is_that_of_captum(net, inputs, close):
    x = inputs.double()
    noise = 0.02 * (2 * torch.rand(4, *x.shape[1:], generator=torch.Generator().manual_seed(5)) - 1)
    explain = lambda some: (some**2).sum(1)  # noqa: E731
    drawn = iter(noise)

    def perturb(some, _radius):
        """Captum asks for several samples of each image at once, the images one after the other."""
        more = torch.stack([next(drawn) for _ in range(len(some) // B)])
        return some + more.repeat(B, 1, 1, 1)

    theirs = captum.sensitivity_max(
        lambda some: (explain(some[0] if isinstance(some, tuple) else some)[:, None],),
        x,
        perturb_func=perturb,
        n_perturb_samples=4,
        max_examples_per_batch=B,
    )
    again = iter(noise)
    ours = METRICS["max_sensitivity"](lambda _: explain(x + next(again)), x, samples=4, maps=explain(x))
    close(ours, theirs, to=1e-6)


def test_deliberate_difference_infidelity_fits_the_factor_of_the_map(net, inputs, maps, close):
    """As the authors' code does: a map is defined up to a factor, and the paper's formula would ask for its scale."""
    ours = METRICS["infidelity"](maps, inputs, scorer(net), samples=16)
    close(METRICS["infidelity"](1000 * maps, inputs, scorer(net), samples=16), ours, to=1e-6)
    silent = METRICS["infidelity"](0 * maps, inputs, scorer(net), samples=16)
    assert (ours < silent).all(), "the factor that fits best is no worse than none"


def test_deliberate_difference_max_sensitivity_is_relative(inputs, close):
    """As in the authors' code, captum and Quantus; the paper's own formula does not divide by the map's length."""
    explain = lambda some: (some**2).sum(1)  # noqa: E731
    ours = METRICS["max_sensitivity"](explain, inputs, samples=3)
    close(METRICS["max_sensitivity"](lambda some: 7 * explain(some), inputs, samples=3), ours, to=1e-6)
    draw = torch.Generator().manual_seed(0)
    noises = [0.02 * (2 * torch.rand(inputs.shape[1:], generator=draw) - 1) for _ in range(3)]
    moved = [(explain(inputs + noise) - explain(inputs)).double().flatten(1).norm(dim=1) for noise in noises]
    papers = torch.stack(moved).amax(0)
    close(ours * explain(inputs).double().flatten(1).norm(dim=1), papers, to=1e-4)


def blobs():
    """Smooth maps, (B, 64, 64) from 0 to 255 in whole numbers."""
    coarse = torch.rand(B, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    values = nn.functional.interpolate(coarse, (64, 64), mode="bicubic")[:, 0]
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return (255 * (values - low) / (high - low)).round()


def test_overlap_after_otsu_is_that_of_scikit_image(close):
    filters = pytest.importorskip("skimage.filters")
    heat, masks = blobs(), blobs().roll(9, 1) > 150
    shown = torch.stack([one > filters.threshold_otsu(one.numpy().astype(np.uint8)) for one in heat])
    theirs = (shown & masks).sum((1, 2)) / (shown | masks).sum((1, 2)).double()
    close(METRICS["iou"](heat, masks), theirs, to=1e-12)


def test_boxes_are_those_of_opencv(close):
    """MaxBoxAcc and V2 at every threshold, of OpenCV's connected pieces and the rules in the papers' words."""
    cv2 = pytest.importorskip("cv2")
    heat, region = blobs(), (4, 2, 58, 60)
    masks = torch.zeros(B, 64, 64, dtype=torch.bool)
    masks[:, region[1] : region[3], region[0] : region[2]] = True
    half, several = torch.zeros(B, len(THRESHOLDS)), torch.zeros(B, 3, len(THRESHOLDS))
    for i, one in enumerate(heat):
        for t, threshold in enumerate(THRESHOLDS.tolist()):
            shown = (one >= threshold * one.max()).numpy().astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(shown, connectivity=8)
            pieces = sorted(stats[1:].tolist(), key=lambda piece: -piece[4])
            boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in pieces]
            assert sorted(boxes_of(one, threshold)) == sorted(boxes)
            overlaps = [overlap(box, region) for box in boxes]
            half[i, t] = overlaps[0] >= 0.5
            several[i, :, t] = torch.tensor([float(max(overlaps) >= least) for least in (0.3, 0.5, 0.7)])
    assert 0 < half.mean() < 1, "a test in which all hit, or none, proves little"
    assert torch.equal(METRICS["maxboxacc"](heat, masks).float(), half)
    assert torch.equal(METRICS["maxboxaccv2"](heat, masks).float(), several)


def test_deliberate_difference_the_largest_piece_has_the_most_pixels():
    """The code of MaxBoxAcc takes the piece with the largest outline: a thin ring before a solid block."""
    cv2 = pytest.importorskip("cv2")
    heat = torch.zeros(1, 24, 24)
    heat[0, 1:12, 1:12] = 1
    heat[0, 2:11, 2:11] = 0  # a ring of 40 pixels
    heat[0, 14:22, 14:22] = 1  # a block of 64
    outlines, _ = cv2.findContours(heat[0].numpy().astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    x, y, width, height = cv2.boundingRect(max(outlines, key=cv2.contourArea))
    assert (x, y, x + width, y + height) == boxes_of(heat[0], 0.5)[1] == (1, 1, 12, 12)
    assert boxes_of(heat[0], 0.5)[0] == (14, 14, 22, 22)
    block = torch.zeros(1, 24, 24, dtype=torch.bool)
    block[0, 14:22, 14:22] = True
    assert METRICS["maxboxacc"](heat, block)[0, 50] == 1


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)
