"""Metrics re-derived from their papers with loops; best and worst values on images whose right map is known."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from camscope.metrics import (
    FACTS,
    METRICS,
    THRESHOLDS,
    adcc_of,
    boxes_of,
    chance,
    deletion_curve,
    insertion_curve,
    kept,
    otsu,
    road_curves,
    tuned,
)
from camscope.metrics.imputation import impute
from reference.test_toy import PICTURES, thresholds

B, SIDE = 5, 12


@pytest.fixture
def maps():
    return torch.randn(B, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def masks():
    draw = np.random.default_rng(0)
    masks = torch.zeros(B, SIDE, SIDE, dtype=torch.bool)
    for mask in masks:
        top, left, height, width = draw.integers(1, 6, 4)
        mask[top : top + height, left : left + width] = True
    return masks


@pytest.fixture
def inputs():
    return torch.rand(B, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def score(inputs, rows):
    """A number between 0 and 1 that every pixel acts on, more in some places; each image has its own."""
    places = torch.linspace(-2, 3, inputs[0].numel(), dtype=inputs.dtype).view(inputs.shape[1:])
    return ((inputs * places).mean((1, 2, 3)) + 0.1 * rows).sigmoid()


# --- localisation, each pixel on its own ---


def test_pointing_game_of_torchray(maps, masks, close):
    """A hit: some pixel of the region lies strictly within the tolerance of the first argmax."""
    for tolerance in (0, 2, 3.5):
        hits = []
        for values, mask in zip(maps, masks, strict=True):
            y, x = divmod(int(values.argmax()), SIDE)
            near = [(y - v) ** 2 + (x - u) ** 2 for v, u in mask.nonzero().tolist()]
            hits.append(float(min(near) < tolerance**2 if tolerance else min(near) == 0))
        assert METRICS["pointing_game"](maps, masks, tolerance=tolerance).tolist() == hits
    assert 0 < np.mean(hits) < 1, "a test in which all hit, or none, proves little"


def test_deliberate_difference_from_torchray_ties_count_by_their_share():
    """TorchRay takes the first of several largest values, and a flat map then points at the corner."""
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, :2] = True
    flat = torch.ones(1, 4, 4)
    assert METRICS["pointing"](flat, mask).item() == chance(mask).item() == 2 / 16


def test_average_precision_is_that_of_scikit_learn(maps, masks, close):
    coarse = (2 * maps).round() / 2
    for some in (maps, coarse):
        theirs = [average_precision_score(m.flatten(), v.flatten()) for m, v in zip(masks, some, strict=True)]
        close(METRICS["auprc"](some, masks), exact(theirs), to=1e-12)


def test_mass_rank_and_enrichment(maps, masks, close):
    mass, rank = [], []
    for values, mask in zip(maps.tolist(), masks.tolist(), strict=True):
        cells = [(v, inside) for row, m in zip(values, mask, strict=True) for v, inside in zip(row, m, strict=True)]
        mass.append(sum(max(v, 0) for v, i in cells if i) / sum(max(v, 0) for v, _ in cells))
        first = sorted(cells, reverse=True)[: sum(i for _, i in cells)]
        rank.append(sum(i for _, i in first) / len(first))
    close(METRICS["mass_accuracy"](maps, masks), exact(mass), to=1e-12)
    close(METRICS["rank_accuracy"](maps, masks), exact(rank), to=1e-12)
    close(METRICS["enrichment"](maps, masks), exact(mass) / masks.double().mean((1, 2)), to=1e-12)


def test_otsu_maximises_the_variance_between_classes(maps):
    for values, cut in zip(maps.clamp_min(0), otsu(maps).tolist(), strict=True):
        levels = (values / values.max() * 256).long().clamp(max=255).flatten().double()

        def between(t, levels=levels):
            low, high = levels[levels < t], levels[levels >= t]
            return len(low) * len(high) * float(low.mean() - high.mean()) ** 2 if len(low) and len(high) else -1

        best = max(between(t) for t in range(1, 256))
        assert math.isclose(between(round(cut / float(values.max()) * 256)), best, rel_tol=1e-12)


def test_tuned_iou(maps, masks, close):
    curves = METRICS["tuned_iou"](maps, masks)
    heat = maps.clamp_min(0)
    naive = torch.stack(
        [
            torch.stack([(s & m).sum() / (s | m).sum().double() for s, m in zip(shown, masks, strict=True)])
            for shown in (heat >= t * heat.amax((1, 2), keepdim=True) for t in THRESHOLDS)
        ],
        1,
    )
    close(curves, naive, to=1e-12)
    found = tuned(curves)
    assert found.value == pytest.approx(float(naive.mean(0).max()))
    assert found.thresholds == (float(THRESHOLDS[naive.mean(0).argmax()]),)


def test_maxboxacc(masks):
    """A map that is its mask has its box at every threshold but 0; V2 asks for more than half."""
    heat = masks.double()
    assert METRICS["maxboxacc"](heat, masks)[:, 1:].eq(1).all()
    half = torch.zeros(1, 8, 8, dtype=torch.bool)
    half[0, 2:6, 2:6] = True
    left = half.double()
    left[..., 4:] = 0
    assert tuned(METRICS["maxboxacc"](left, half)).value == 1
    assert tuned(METRICS["maxboxaccv2"](left, half)).value == pytest.approx(2 / 3)
    assert boxes_of(left[0], 0.5) == [(2, 2, 4, 6)]
    several = left.clone()
    several[0, 7, 7] = 2
    assert tuned(METRICS["maxboxacc"](several, half)).value == 1, "the largest piece counts, not the brightest"


# --- faithfulness ---


def test_deletion_and_insertion_step_by_step(maps, inputs, close):
    order = maps.flatten(1).argsort(1, descending=True)
    width = -(-SIDE * SIDE // 7)
    for curve, start, end in (
        (deletion_curve(maps, inputs, score, steps=7, substrate="mean"), inputs, None),
        (insertion_curve(maps, inputs, score, steps=7, substrate="mean"), None, inputs),
    ):
        rest = inputs.mean((2, 3), keepdim=True).expand_as(inputs)
        rows = []
        for i in range(B):
            now = (rest if start is None else start)[i].flatten(1).clone()
            values = [float(score(now.view(1, 2, SIDE, SIDE), torch.tensor([i])))]
            for first in range(0, SIDE * SIDE, width):
                where = order[i, first : first + width]
                now[:, where] = (rest if end is None else end)[i].flatten(1)[:, where]
                values.append(float(score(now.view(1, 2, SIDE, SIDE), torch.tensor([i]))))
            rows.append(values)
        close(curve.scores, exact(rows), to=1e-12)
        x = curve.shares.tolist()
        area = [sum((x[k + 1] - x[k]) * (r[k + 1] + r[k]) / 2 for k in range(len(x) - 1)) for r in rows]
        close(curve.area, exact(area), to=1e-12)


def test_drop_increase_and_gain(maps, inputs, close):
    heat = maps.clamp_min(0)
    heat = heat / heat.amax((1, 2), keepdim=True)
    p, o = score(inputs, torch.arange(B)), score(inputs * heat[:, None], torch.arange(B))
    found = kept(maps, inputs, score)
    close(found.kept, o, to=1e-12)
    close(
        METRICS["average_drop"](maps, inputs, score),
        exact([max(0, float(a - b)) / float(a) for a, b in zip(p, o, strict=True)]),
        to=1e-12,
    )
    assert METRICS["increase"](maps, inputs, score).tolist() == [float(b > a) for a, b in zip(p, o, strict=True)]
    shifted = lambda x, rows: 1 - score(x, rows)  # noqa: E731
    gain = [max(0, float(a - b)) / float(a) for a, b in zip(p, o, strict=True)]
    close(METRICS["average_gain"](maps, inputs, shifted), exact(gain), to=1e-12)


def test_imputed_pixels_are_the_means_of_their_neighbours(inputs):
    removed = torch.rand(B, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) < 0.6
    before = inputs.clone()
    filled = impute(inputs, removed)
    assert torch.equal(inputs, before)
    assert torch.equal(filled[~removed[:, None].expand_as(filled)], inputs[~removed[:, None].expand_as(inputs)])
    for i, y, x in removed.nonzero().tolist():
        total = weight = 0
        for v in range(max(y - 1, 0), min(y + 2, SIDE)):
            for u in range(max(x - 1, 0), min(x + 2, SIDE)):
                if (v, u) != (y, x):
                    w = 1 / 6 if v == y or u == x else 1 / 12
                    total, weight = total + w * filled[i, :, v, u], weight + w
        assert torch.allclose(filled[i, :, y, x], total / weight, atol=1e-12)


def test_adcc():
    """The harmonic mean of the three; the authors' published code forgets to turn its sum over."""
    value = adcc_of(coherency=torch.tensor(0.9), complexity=torch.tensor(0.2), drop=torch.tensor(0.1))
    assert float(value) == pytest.approx(0.864, abs=5e-5)
    assert float(value) == pytest.approx(statistics.harmonic_mean([0.9, 1 - 0.2, 1 - 0.1]))
    assert float(value) != pytest.approx(3 * (1 / 0.9 + 1 / (1 - 0.2) + 1 / (1 - 0.1)))


def test_coherency_and_complexity(inputs, close):
    """Pearson's correlation of the heat before and after the image is multiplied by it; the mean of the heat."""
    explain = lambda some: some[:, 0] - 0.7 * some[:, 1]  # noqa: E731
    coherent, dense = [], []
    for one in inputs:
        heat = explain(one[None]).clamp_min(0)[0]
        heat = heat / heat.max()
        again = explain((one * heat)[None]).clamp_min(0)[0]
        coherent.append((1 + np.corrcoef(heat.flatten(), again.flatten())[0, 1]) / 2)
        dense.append(float(heat.mean()))
    close(METRICS["coherency"](explain, inputs), exact(coherent), to=1e-6)
    close(METRICS["complexity"](explain(inputs)), exact(dense), to=1e-12)


def test_additivity_of_a_linear_model(inputs):
    """Where the score is a sum over pixels and the map is its terms, it is complete and foretells every rectangle."""
    weights = torch.linspace(-1, 2, 2 * SIDE * SIDE, dtype=torch.float64).view(2, SIDE, SIDE)
    maps = (inputs * weights).sum(1)
    linear = lambda x, rows: (x * weights).sum((1, 2, 3))  # noqa: E731
    assert METRICS["completeness"](maps, inputs, linear).max() < 1e-12
    assert METRICS["completeness"](1.5 * maps, inputs, linear).allclose(torch.tensor(0.5, dtype=torch.float64))
    assert METRICS["infidelity"](7 * maps, inputs, linear).max() < 1e-20
    assert METRICS["infidelity"](maps.flip(1), inputs, linear).min() > 1e-3


# --- images whose right map is known ---


@pytest.fixture(scope="module")
def planted():
    """Coloured squares; for the red class the right map, the worst one, a uniform and a blurred map."""
    net, pictures, regions = thresholds()
    mask = regions[:, 0]
    right = torch.nn.functional.avg_pool2d(mask.double()[:, None], 4)[:, 0]
    rows = torch.zeros(PICTURES, dtype=torch.long)

    def probability(inputs, numbers):
        with torch.no_grad():
            return net(inputs).div(4).softmax(1).gather(1, rows[numbers, None])[:, 0]

    return {
        "mask": mask,
        "pictures": pictures,
        "score": probability,
        "maps": {"right": right, "wrong": 1 - right, "uniform": torch.ones_like(right)},
    }


@pytest.mark.parametrize(
    "name", ["pointing", "pointing_game", "mass_accuracy", "rank_accuracy", "enrichment", "iou", "auprc"]
)
def test_planted_localisation(name, planted):
    mask, maps = (
        planted["mask"],
        {k: v.repeat_interleave(4, 1).repeat_interleave(4, 2) for k, v in planted["maps"].items()},
    )
    right, wrong, uniform = (METRICS[name](maps[k], mask).nan_to_num(0.0) for k in ("right", "wrong", "uniform"))
    area = mask.double().mean((1, 2))
    if name == "enrichment":
        assert torch.allclose(right, 1 / area)
        assert torch.allclose(uniform, torch.ones_like(area))
    else:
        assert torch.allclose(right, torch.ones_like(area))
        expected = chance(mask, tolerance=15) if name == "pointing_game" else area
        assert torch.allclose(uniform, expected), "a uniform map gets what chance gives"
    assert (wrong < uniform + 1e-9).all() if name == "auprc" else (wrong < uniform).all()


MORE = {"deletion": {"steps": 16}, "insertion": {"steps": 16, "substrate": "zero"}}


@pytest.mark.parametrize("name", ["deletion", "insertion", "road_morf", "road_lerf", "road", "average_drop"])
def test_planted_faithfulness(name, planted):
    """The right map is better than a uniform one, and that better than the wrong one, on every image."""
    values = {
        key: METRICS[name](maps, planted["pictures"], planted["score"], **MORE.get(name, {}))
        for key, maps in planted["maps"].items()
    }
    sign = 1 if FACTS[name].best == "high" else -1
    assert (sign * (values["right"] - values["wrong"]) > 0.02).all()
    if name != "average_drop":
        assert (sign * (values["right"] - values["uniform"]) > 0).all()
        assert (sign * (values["uniform"] - values["wrong"]) > 0).all()
    else:
        assert values["uniform"].max() == 0, "a map of ones games the average drop"


def test_road_curves(planted):
    curves = road_curves(planted["maps"]["right"], planted["pictures"], planted["score"], shares=(0.1, 0.5))
    assert (curves.morf[:, 0] < curves.lerf[:, 0]).all()
    assert torch.allclose(curves.combined, (curves.lerf - curves.morf).mean(1) / 2)
