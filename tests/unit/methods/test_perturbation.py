"""How many passes methods of many passes make, and how large the largest batch is: that bounds their memory."""

import pytest
import torch
from torch import nn

import camscope as cs
from camscope.methods import perturbation

K, GRID, SIZE, BATCH = 10, 4, 16, 3


class Counts(list):
    """A list that copies of the network share."""


class Stem(nn.Conv2d):
    """It counts the images of each pass that is computed."""

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(Stem(3, K, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(K * GRID * GRID, 4))
    net.stem = net[0].seen = Counts()
    net.tail = Counts()
    net[3].register_forward_pre_hook(lambda _, inputs: net.tail.append(len(inputs[0])))
    return net.eval()


@pytest.fixture
def x():
    return torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


MASKED = {  # images that go through the network for each one explained
    "scorecam": ({}, K),
    "fasterscorecam": ({"channels": 6}, 6),
    "sscam": ({"samples": 2}, 2 * K),
    "iscam": ({"samples": 3, "channels": 4}, 3 * 4),
    "smoothgradcampp": ({"samples": 5}, 5),
}
ABLATED = {"ablationcam": K, "reciprocam": GRID * GRID}


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("method", list(MASKED))
def test_no_pass_is_larger_than_the_chunk(net, x, method, chunk):
    settings, passes = MASKED[method]
    cs.cam(net, x, method=method, layer="1", targets=1, chunk=chunk, **settings)
    first, *more = net.stem
    assert first == BATCH
    assert sum(more) == BATCH * passes
    assert max(more) <= chunk


@pytest.mark.parametrize("method", list(MASKED))
def test_by_default_as_many_pictures_go_at_once_as_their_pixels_allow(net, x, method, monkeypatch):
    monkeypatch.setattr(perturbation, "_CHUNK_PIXELS", 7 * SIZE * SIZE)
    settings, _ = MASKED[method]
    cs.cam(net, x, method=method, layer="1", targets=1, **settings)
    assert max(net.stem[1:]) == 7


@pytest.mark.parametrize("method", list(ABLATED))
def test_ablation_runs_the_tail_in_chunks_and_the_rest_once_more(net, x, method):
    """The second pass finds out what belongs to the tail; its proofs run the tail on two small batches."""
    cs.cam(net, x, method=method, layer="1", targets=1, chunk=4)
    assert net.stem == [BATCH, BATCH]
    tails = net.tail[2:]
    proofs, chunks = tails[:2], tails[2:]
    assert sorted(proofs) == [2, BATCH + 1]
    assert sum(chunks) == BATCH * ABLATED[method]
    assert max(chunks) == 4


@pytest.mark.parametrize("method", list(ABLATED))
def test_by_default_as_many_tails_run_at_once_as_their_activations_allow(net, x, method, monkeypatch):
    monkeypatch.setattr(perturbation, "_CHUNK_VALUES", 5 * K * GRID * GRID)
    cs.cam(net, x, method=method, layer="1", targets=1)
    assert max(net.tail[4:]) == 5


def test_masks_are_made_a_chunk_at_a_time(net, x, monkeypatch):
    """The masks, at the image's size, are the memory that Score-CAM takes."""
    made = []
    upsample = perturbation.upsample

    def watched(values, size):
        made.append(len(values))
        return upsample(values, size)

    monkeypatch.setattr(perturbation, "upsample", watched)
    cs.cam(net, x, method="scorecam", layer="1", targets=1, chunk=4)
    assert sum(made) == BATCH * K
    assert max(made) == 4


def test_passes_are_reported(net, x):
    said = []
    with cs.methods.passes.reporting(lambda done, total: said.append((done, total))):
        cs.cam(net, x, method="scorecam", layer="1", targets=1, chunk=20)
    assert said == [(20, 30), (30, 30)]


def test_refinecam_sees_all_layers_in_one_pass(net, x):
    cs.cam(net, x, method="refinecam", layers=["0", "1"], targets=1)
    assert len(net.stem) <= 2, "one to settle the targets, one for the maps of all layers"


@pytest.mark.parametrize("method", ["scorecam", "fasterscorecam"])
def test_flat_channels_hide_the_picture_and_share_one_pass(net, x, method):
    """Six channels never answer, and one answers everywhere alike."""
    settings = {"channels": K} if method == "fasterscorecam" else {}
    with torch.no_grad():
        net[0].weight[3:] = 0
        net[0].bias[3:] = -1
        net[0].bias[9] = 0.3
    maps = cs.cam(net, x, method=method, layer="1", targets=1, **settings)
    assert sum(net.stem) == BATCH * (1 + 3 + 1)
    A = net[:2](x)
    up = nn.functional.interpolate(A, size=(SIZE, SIZE), mode="bilinear")
    low, high = up.amin((2, 3), keepdim=True), up.amax((2, 3), keepdim=True)
    masks = torch.where(torch.arange(K)[:, None, None] < 3, (up - low) / (high - low), 0.0)
    scores = torch.stack([net(x * masks[:, k : k + 1])[:, 1] for k in range(K)], 1)
    torch.testing.assert_close(maps, (scores.softmax(1)[:, :, None, None] * A).sum(1))
