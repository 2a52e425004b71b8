import pytest
import torch

from camscope.errors import SettingError
from camscope.metrics import METRICS, SUBSTRATES, deletion_curve, kept, road_curves
from camscope.metrics.edits import ranks, substitute


class Counter:
    """A score that knows how it was called."""

    def __init__(self):
        self.calls, self.rows = [], []

    def __call__(self, inputs, rows):
        self.calls.append(len(inputs))
        self.rows += rows.tolist()
        return inputs.mean((1, 2, 3))


INPUTS = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
MAPS = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "more", "edits"),
    [
        ("deletion", {"steps": 8}, 8),
        ("insertion", {"steps": 8}, 8),
        ("average_drop", {}, 1),
        ("road_morf", {"shares": (0.2, 0.5)}, 2),
        ("road", {"shares": (0.2, 0.5)}, 4),
        ("infidelity", {"samples": 5}, 5),
        ("completeness", {}, 1),
    ],
)
def test_passes(name, more, edits):
    """One clean score an image, and the edits in batches that may hold several images."""
    counter = Counter()
    METRICS[name](MAPS, INPUTS, counter, batch_size=7, **more)
    assert sum(counter.calls) == 3 * (edits + 1)
    assert max(counter.calls) <= 7
    again = Counter()
    METRICS[name](MAPS, INPUTS, again, batch_size=7, clean=torch.zeros(3), **more)
    assert sum(again.calls) == 3 * edits
    assert sorted(again.rows) == sorted([0, 1, 2] * edits)


def test_batches_hold_steps_of_several_images():
    counter = Counter()
    deletion_curve(MAPS, INPUTS, counter, steps=4, clean=torch.zeros(3), batch_size=12)
    assert counter.calls == [12]


def test_three_numbers_from_one_pass():
    counter = Counter()
    found = kept(MAPS, INPUTS, counter, clean=INPUTS.mean((1, 2, 3)))
    assert sum(counter.calls) == 3
    for name, value in (("average_drop", found.drop), ("increase", found.increase), ("average_gain", found.gain)):
        assert torch.allclose(METRICS[name](MAPS, INPUTS, Counter()), value)


def test_no_graph_is_built():
    weight = torch.ones((), requires_grad=True)
    value = METRICS["deletion"](MAPS, INPUTS, lambda x, rows: weight * x.mean((1, 2, 3)))
    assert not value.requires_grad


def test_ends_of_the_curves():
    blank = substitute(INPUTS, "blur")
    curve = deletion_curve(MAPS, INPUTS, Counter(), substrate="blur", steps=5)
    assert torch.allclose(curve.scores[:, 0], INPUTS.mean((1, 2, 3)).double())
    assert torch.allclose(curve.scores[:, -1], blank.mean((1, 2, 3)).double())
    assert curve.shares[0] == 0
    assert curve.shares[-1] == 1
    assert len(curve.shares) == 6


def test_a_flat_map_deletes_pixels_from_everywhere():
    first = ranks(torch.ones(1, 4, 4), (40, 40)).view(40, 40) < 400
    quarters = [first[:20, :20], first[:20, 20:], first[20:, :20], first[20:, 20:]]
    assert all(70 < int(q.sum()) < 130 for q in quarters)


def test_substrates():
    assert torch.equal(substitute(INPUTS, "zero"), torch.zeros_like(INPUTS))
    assert torch.allclose(substitute(INPUTS, "mean"), INPUTS.mean((2, 3), keepdim=True).expand_as(INPUTS))
    flat = torch.full((1, 1, 30, 30), 0.7)
    assert torch.allclose(substitute(flat, "blur"), flat), "a blur keeps a flat image, to its edges"
    point = torch.zeros(1, 1, 224, 224)
    point[..., 100, 100] = 1
    spread = substitute(point, "blur")[0, 0].nonzero()
    assert spread.amin(0).tolist() == [95, 95]
    assert spread.amax(0).tolist() == [105, 105]
    own = torch.tensor([0.1, 0.2])[:, None, None]
    assert torch.equal(substitute(INPUTS, own)[0, :, 3, 3], own[:, 0, 0])
    assert set(SUBSTRATES) == {"zero", "mean", "blur"}


@pytest.mark.parametrize("steps", [0, 65])
def test_steps_that_are_not_possible(steps):
    with pytest.raises(SettingError, match="give 1 to 64"):
        deletion_curve(MAPS, INPUTS, Counter(), steps=steps)


@pytest.mark.parametrize("shares", [(), (0.0,), (1.0,), (0.5, 1.2)])
def test_shares_that_are_not_possible(shares):
    with pytest.raises(SettingError, match="between 0 and 1"):
        road_curves(MAPS, INPUTS, Counter(), shares=shares)


def test_an_unknown_substrate_has_a_nearest():
    with pytest.raises(SettingError, match="nearest: 'blur'"):
        METRICS["deletion"](MAPS, INPUTS, Counter(), substrate="blurr")


def test_three_axes():
    inputs, maps = torch.rand(2, 1, 6, 5, 4), torch.rand(2, 3, 3, 2)
    mean = lambda x, rows: x.mean((1, 2, 3, 4))  # noqa: E731
    for name in ("deletion", "insertion", "average_drop", "infidelity", "completeness"):
        assert METRICS[name](maps, inputs, mean).isfinite().all()
