"""Faster Score-CAM, SS-CAM, IS-CAM and Recipro-CAM, re-derived from their papers one image at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camscope as cs
from camscope.errors import SettingError
from camscope.methods.noise import content_seeds, normal

CLASSES = [2, 0]
EXACT = 1e-9
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def parts(dims: int) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(dims)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    features = nn.Sequential(conv(2, 5, 3, 3), nn.ReLU()).double()
    head = nn.Sequential(nn.Flatten(), nn.Linear(5 * 3**dims, 7), nn.ReLU(), nn.Linear(7, 4)).double()
    head[-1].weight.data *= 20
    return features, head, torch.randn(2, 2, *[9] * dims, dtype=torch.float64)


def ours(method: str, dims: int, **settings: object) -> Tensor:
    features, head, x = parts(dims)
    return cs.cam(nn.Sequential(features, head), x, method=method, layer="0", targets=CLASSES, **settings)


def mask(channel: Tensor, size: torch.Size) -> Tensor:
    up = F.interpolate(channel[None, None], size=size, mode=MODES[len(size)], align_corners=False)[0, 0]
    return (up - up.min()) / (up.max() - up.min()) if up.max() > up.min() else torch.zeros_like(up)


def each(dims: int):
    features, head, x = parts(dims)
    with torch.no_grad():
        for picture, index in zip(x, CLASSES, strict=True):
            yield picture, features(picture[None])[0], lambda p, i=index: float(head(features(p[None]))[0, i])


def softmax(scores: list[float]) -> Tensor:
    values = torch.tensor(scores, dtype=torch.float64)
    return torch.exp(values - values.max()) / torch.exp(values - values.max()).sum()


def combine(weights: Tensor, A: Tensor) -> Tensor:
    return sum((w * channel for w, channel in zip(weights, A, strict=True)), torch.zeros_like(A[0]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_fasterscorecam(dims, close):
    rows = []
    for picture, A, score in each(dims):
        order = sorted(range(len(A)), key=lambda k: -float(((A[k] - A[k].mean()) ** 2).mean()))[:3]
        weights = softmax([score(picture * mask(A[k], picture.shape[1:])) for k in order])
        rows.append(combine(weights, A[order]))
    close(
        ours("fasterscorecam", dims, channels=3),
        torch.stack(rows),
        to=EXACT,
        table=("fasterscorecam", "small head", "paper"),
    )


def test_fasterscorecam_of_all_channels_is_scorecam(close):
    close(ours("fasterscorecam", 2, channels=99), ours("scorecam", 2), to=EXACT)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_iscam(dims, close):
    rows, N = [], 4
    for picture, A, score in each(dims):
        means = []
        for channel in A:
            M = mask(channel, picture.shape[1:])
            means.append(sum(score(picture * (i / N) * M) for i in range(1, N + 1)) / N)
        rows.append(combine(softmax(means), A))
    close(ours("iscam", dims, samples=N), torch.stack(rows), to=EXACT, table=("iscam", "small head", "paper"))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("chunk", [None, 4])
def test_sscam(dims, chunk, close):
    rows, N, deviation, seed = [], 3, 0.7, 5
    for picture, A, score in each(dims):
        own = content_seeds(picture[None], seed=seed)[0]
        means = []
        for k, channel in enumerate(A):
            M = mask(channel, picture.shape[1:])
            noisy = [M + deviation * normal([own + n * len(A) + k], M.shape, like=M)[0] for n in range(N)]
            means.append(sum(score(picture * one) for one in noisy) / N)
        rows.append(combine(softmax(means), A))
    close(
        ours("sscam", dims, samples=N, noise=deviation, seed=seed, chunk=chunk),
        torch.stack(rows),
        to=EXACT,
        table=("sscam", "small head", "paper"),
    )


def test_fewer_channels_are_those_of_fasterscorecam(close):
    faster = ours("fasterscorecam", 2, channels=2)
    close(ours("sscam", 2, samples=2, noise=0.0, channels=2), faster, to=EXACT)
    close(ours("iscam", 2, samples=1, channels=2), faster, to=EXACT)
    for method in ("sscam", "iscam"):
        with pytest.raises(SettingError, match="channels=0"):
            ours(method, 2, channels=0)


def test_without_noise_or_with_one_step_they_are_scorecam(close):
    close(ours("sscam", 2, samples=2, noise=0.0), ours("scorecam", 2), to=EXACT)
    close(ours("iscam", 2, samples=1), ours("scorecam", 2), to=EXACT)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("chunk", [None, 4])
def test_reciprocam(dims, chunk, close):
    _, head, _ = parts(dims)
    rows = []
    for (_, A, _), index in zip(each(dims), CLASSES, strict=True):
        row = torch.zeros(A[0].numel(), dtype=A.dtype)
        for cell in range(A[0].numel()):
            alone = torch.zeros_like(A.flatten(1))
            alone[:, cell] = A.flatten(1)[:, cell]
            row[cell] = head(alone.reshape(1, *A.shape))[0, index].detach()
        rows.append(row.reshape(A.shape[1:]))
    close(
        ours("reciprocam", dims, chunk=chunk), torch.stack(rows), to=EXACT, table=("reciprocam", "small head", "paper")
    )


@pytest.mark.parametrize("name", ["small vit", "small swin"])
def test_reciprocam_on_tokens(name, shared_net, pictures, close):
    """Every cell but one set to 0 in the layer's own output, class token kept, in whole forward passes."""
    net, x = shared_net(name), pictures(1, 3, 64, 64)
    layer = cs.default_layer(net, x)
    module = net.get_submodule(layer)
    scores = []
    for cell in range(16 if name == "small vit" else 64):

        def alone(_: nn.Module, __: object, output: Tensor, cell: int = cell) -> Tensor:
            changed = torch.zeros_like(output)
            if name == "small vit":
                changed[:, 0] = output[:, 0]
                changed[:, 1 + cell] = output[:, 1 + cell]
            else:
                changed[:, cell // 8, cell % 8] = output[:, cell // 8, cell % 8]
            return changed

        handle = module.register_forward_hook(alone)
        with torch.no_grad():
            scores.append(float(net(x)[0, 1]))
        handle.remove()
    maps = cs.cam(net, x, method="reciprocam", layer=layer, targets=1)
    close(maps.flatten(), torch.tensor(scores, dtype=torch.float64), to=EXACT, table=("reciprocam", name, "paper"))


@pytest.mark.parametrize(
    ("method", "setting"), [("sscam", "samples"), ("iscam", "samples"), ("smoothgradcampp", "samples"),
                            ("fasterscorecam", "channels")]
)  # fmt: skip
def test_settings_that_are_not_possible(method, setting):
    with pytest.raises(SettingError, match=f"{setting}=0 is not possible"):
        ours(method, 2, **{setting: 0})
