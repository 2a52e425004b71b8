import pytest
import torch

from camscope.errors import TargetError
from camscope.targets import box, category, contrast, region, similarity, top


@pytest.fixture
def output():
    return torch.tensor([3.0, -1.0, 5.0, 2.0], dtype=torch.float64, requires_grad=True)


def gradient(target, output):
    return torch.autograd.grad(target(output), output)[0].tolist()


def test_category(output):
    assert [float(category(i)(output.detach())) for i in (0, 2, 3)] == [3, 5, 2]
    assert gradient(category(2), output) == [0, 0, 1, 0]
    assert float(category(0)(torch.tensor(7.0))) == 7


@pytest.mark.parametrize("index", [4, 1000])
def test_no_such_class(output, index):
    with pytest.raises(TargetError, match=f"no class {index}: the model has 4, 0 to 3"):
        category(index)(output)
    with pytest.raises(TargetError, match="no class 1: the model has 1, 0 to 0"):
        category(1)(torch.tensor(7.0))
    for target in (category, region, box):
        with pytest.raises(TargetError, match="class indices count from 0, but got -5"):
            target(-5)
    with pytest.raises(TargetError, match="no rank 5: the model has 4 classes"):
        top(5)(output)


def test_a_class_index_needs_a_vector():
    with pytest.raises(TargetError, match=r"\(4, 5, 6\); use targets.region"):
        category(1)(torch.zeros(4, 5, 6))


def test_contrast(output):
    assert float(contrast(2, 0)(output.detach())) == 2
    assert gradient(contrast(2, 0), output) == [-1, 0, 1, 0]
    with pytest.raises(TargetError, match="no class 9"):
        contrast(0, 9)(output)


def test_top(output):
    assert [float(top(rank)(output.detach())) for rank in (1, 2, 3, 4)] == [5, 3, 2, -1]
    assert gradient(top(2), output) == [1, 0, 0, 0]
    assert float(top()(-output.detach())) == 1


def test_region_of_predicted_pixels():
    torch.manual_seed(0)
    output = torch.randn(3, 4, 5, dtype=torch.float64)
    for index in (0, 2):
        wanted = index
        expected = sum(output[wanted, i, j] for i in range(4) for j in range(5) if output[:, i, j].argmax() == wanted)
        torch.testing.assert_close(region(index)(output), expected)


def test_region_under_a_mask():
    output = torch.arange(2 * 3 * 4, dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    mask = torch.zeros(3, 4, dtype=torch.uint8)
    mask[1, 2] = mask[0, 3] = 255
    assert float(region(1, mask=mask)(output).detach()) == 12 + 6 + 12 + 3
    (seen,) = torch.autograd.grad(region(1, mask=mask)(output), output)
    assert torch.equal(seen[1], (mask != 0).double())
    assert not seen[0].any()
    volume = torch.ones(2, 3, 4, 5)
    assert float(region(0, mask=torch.ones(3, 4, 5))(volume)) == 60


@pytest.mark.parametrize(
    ("output", "mask", "message"),
    [
        (torch.zeros(5), None, r"a region of class 3 needs an output \(classes, H, W\), and this one is \(5,\)"),
        (torch.zeros(2, 4, 4), None, "a region of class 3 needs"),
        (torch.zeros(4, 4, 4), torch.ones(2, 2), r"the mask is \(2, 2\), and the output's map \(4, 4\)"),
    ],
)
def test_region_that_does_not_fit(output, mask, message):
    with pytest.raises(TargetError, match=message):
        region(3, mask=mask)(output)


def test_similarity(output):
    other = torch.tensor([1, 0, 2, -1])
    a, b = output.detach(), other.double()
    expected = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
    torch.testing.assert_close(similarity(other)(output).detach(), expected)
    torch.testing.assert_close(similarity(other)(10 * output).detach(), expected)
    torch.testing.assert_close(similarity(other[None])(output.reshape(2, 2)).detach(), expected)


BOXES = [[0, 0, 10, 10, 1.5, 3], [20, 0, 30, 10, 2.5, 3], [0, 0, 10, 10, 4.0, 1], [0, 0, 0, 0, -13.8, -1]]


def test_box_of_a_class_and_at_a_place():
    output = torch.tensor(BOXES, requires_grad=True)
    assert float(box(3)(output).detach()) == 2.5
    assert float(box(3, at=(1, 0, 11, 10))(output).detach()) == 1.5
    (seen,) = torch.autograd.grad(box(3, at=(1, 0, 11, 10))(output), output)
    assert seen.nonzero().tolist() == [[0, 4]]


@pytest.mark.parametrize("target", [box(2), box(1, at=(6, 0, 16, 10)), box(3, at=(0, 0, 0, 0))])
def test_a_box_that_is_not_there_has_the_lowest_score_and_no_gradient(target):
    output = torch.tensor(BOXES, requires_grad=True)
    score = target(output)
    assert float(score.detach()) == pytest.approx(-13.8155, abs=1e-3)
    assert not torch.autograd.grad(score, output)[0].any()


def test_a_box_needs_boxes():
    with pytest.raises(TargetError, match=r"a box needs an output \(boxes, 6\): .*; this one is \(4,\)"):
        box(0)(torch.zeros(4))
