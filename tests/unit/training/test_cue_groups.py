import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from camscope.errors import SettingError
from camscope.training.cue_groups import CueGroups, GroupLoss
from camscope.training.dataset import read_dataset


def grouped(path, **options):
    data = read_dataset(path, cue="cue", **options)
    cases = tuple(dataclasses.replace(case, split=case.split or "train") for case in data.cases)
    return CueGroups.of(dataclasses.replace(data, cases=cases), "cue")


def test_groups_of_labels_that_are_present_or_absent(table):
    rows = [
        {"patient": "a", "x": 1, "y": 0, "cue": "AP"},
        {"patient": "b", "x": 0, "y": "", "cue": "AP"},
        {"patient": "c", "x": 1, "y": 1, "cue": "PA"},
        {"patient": "d", "x": 0, "y": 0, "cue": "PA"},
        {"patient": "e", "x": 1, "y": 1, "cue": "AP"},
    ]
    groups = grouped(table(rows), labels=["x", "y"])
    np.testing.assert_array_equal(groups.members, [[2, 0], [0, -1], [3, 3], [1, 1], [2, 2]])
    np.testing.assert_allclose(groups.shares, [[0.2, 0.2, 0.4, 0.2], [0.2, 0.2, 0.2, 0.2]])
    assert groups.counts["x present, cue = AP"] == 2
    assert groups.counts["y absent, cue = PA"] == 1


def test_groups_of_classes_and_the_cue_is_no_label(table):
    rows = [{"patient": n, "label": "abc"[n % 3], "cue": n // 3 % 2} for n in range(12)]
    groups = grouped(table(rows))
    assert groups.members[:, 0].tolist() == [n % 3 * 2 + n // 3 % 2 for n in range(12)]
    assert groups.counts == {f"{c} cue = {v}": 2 for c in "abc" for v in "01"}
    rows = [{"patient": n, "x": n % 2, "cue": n // 2 % 2} for n in range(8)]
    assert read_dataset(table(rows, name="two.csv"), cue="cue").labels == ("x",)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cue": ""}, r"the cue 'cue' of 1 images is unknown \(0.png\): give each image a value"),
        ({"x": 1}, "no training image has x absent, cue = 0: weighting by 'cue' needs"),
        ({"split": "test"}, "no training image has x absent, cue = 0"),
    ],
)
def test_a_missing_cue_and_an_empty_group_are_errors(table, change, text):
    rows = [{"patient": n, "x": n % 2, "cue": n // 2, "split": "train"} for n in range(4)]
    rows[0] |= change
    with pytest.raises(SettingError, match=text):
        grouped(table(rows), labels=["x"])


def test_the_cue_of_a_test_image_may_be_unknown(table):
    rows = [{"patient": n, "x": n % 2, "cue": n // 2 % 2, "split": "train"} for n in range(4)]
    groups = grouped(table([*rows, {"patient": 9, "x": 1, "cue": "", "split": "test"}]), labels=["x"])
    assert groups.members[-1].tolist() == [-1]


def test_a_cue_that_the_data_lack(table, class_folders):
    path = table([{"patient": 1, "x": 1, "token": 0}])
    with pytest.raises(SettingError, match="no column called 'cue'"):
        read_dataset(path, labels=["x"], cue="cue")
    with pytest.raises(SettingError, match="a folder of class folders, without the column 'cue'"):
        read_dataset(class_folders(1), cue="cue")


def test_balanced_is_the_mean_of_the_groups_over_all_batches():
    draw = np.random.default_rng(0)
    groups = torch.from_numpy(draw.choice(4, size=(400, 2), p=[0.48, 0.02, 0.02, 0.48]))
    groups[:7, 1] = -1
    losses = torch.from_numpy(draw.uniform(0, 2, (400, 2)))
    shares = torch.stack([torch.bincount(g[g >= 0], minlength=4) / 400 for g in groups.T])
    loss = GroupLoss(shares)
    mean = torch.stack([loss(x, g) for x, g in zip(losses.split(40), groups.split(40), strict=True)]).mean()
    expected = np.mean([losses[groups[:, head] == g, head].mean() for head in range(2) for g in range(4)])
    assert mean.item() == pytest.approx(expected, rel=1e-5)


def test_group_dro_moves_weight_to_the_group_with_most_loss():
    shares = torch.tensor([[0.7, 0.3]])
    losses, groups = torch.tensor([[1.0]] * 7 + [[3.0]] * 3), torch.tensor([[0]] * 7 + [[1]] * 3)
    loss = GroupLoss(shares, step=0.1)
    assert loss(losses, groups).item() == pytest.approx(2.0)
    # Exponentiated gradient: q_g is proportional to exp(0.1 L_g).
    expected = np.exp([0.1, 0.3]) / np.exp([0.1, 0.3]).sum()
    np.testing.assert_allclose(loss.weights[0], expected, rtol=1e-5)
    assert loss(losses, groups).item() == pytest.approx(expected @ [1, 3], rel=1e-5)
    weights = loss.weights.clone()
    loss.eval()
    assert loss(losses, groups).item() == pytest.approx(2.0)
    assert torch.equal(loss.weights, weights)
    assert torch.equal(loss.state_dict()["weights"], weights)


@pytest.mark.parametrize("step", [0.0, 0.05])
def test_weighted_training_does_not_use_the_cue(step):
    """The cue tells 95 % of the labels, the evidence all of them but faintly: plain training uses the cue."""
    draw = np.random.default_rng(0)
    label = draw.random(2000) < 0.5
    cue = np.where(draw.random(2000) < 0.95, label, ~label)
    evidence = draw.normal(np.where(label, 1.0, -1.0), 1.5)
    x = torch.tensor(np.stack([evidence, np.where(cue, 1.0, -1.0)], 1), dtype=torch.float32)
    y, groups = torch.tensor(label).float()[:, None], torch.tensor(label * 2 + cue)[:, None]
    shares = torch.bincount(groups[:, 0], minlength=4)[None] / 2000
    used = {}
    for name in ("plain", "weighted"):
        net, loss = nn.Linear(2, 1), GroupLoss(shares, step=step)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(400):
            losses = nn.functional.binary_cross_entropy_with_logits(net(x), y, reduction="none")
            value = losses.mean() if name == "plain" else loss(losses, groups)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        used[name] = abs(net.weight[0, 1].item() / net.weight[0, 0].item())
    assert used["plain"] > 1
    assert used["weighted"] < 0.15
