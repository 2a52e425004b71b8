"""Arrays and tensors as pictures: which axis is the channels, which numbers are pixels."""

import numpy as np
import pytest
import torch

from camscope.errors import PictureError
from camscope.images import as_picture

RANDOM = np.random.default_rng(0)


def expected(values, *, first):
    return np.moveaxis(values, 0, -1) if first else values


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float16])
@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((40, 60, 3), False),
        ((40, 60, 1), False),
        ((3, 40, 60), True),
        ((1, 40, 60), True),
        ((4, 40, 60), True),
        ((13, 40, 60), True),
        ((40, 60, 13), False),
        ((40, 60, 2), False),
        ((3, 20, 3), False),  # the usual order of NumPy where both would do
    ],
)
def test_arrays_with_channels_first_or_last(shape, first, kind):
    values = (RANDOM.random(shape) * (1 if kind in (np.float32, np.float16) else 200)).astype(kind)
    white = {np.uint8: 255, np.uint16: 65535}.get(kind, 1)
    picture = as_picture(values)
    np.testing.assert_allclose(picture.pixels, expected(values, first=first).astype(np.float32) / white, rtol=1e-6)
    assert picture.bits == {np.uint8: 8, np.uint16: 16}.get(kind, 32)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "first"),
    [((3, 40, 60), True), ((1, 3, 40, 60), True), ((1, 40, 60), True), ((40, 60, 3), False), ((3, 20, 3), True)],
)
def test_tensors(shape, first, kind):
    values = torch.from_numpy(RANDOM.random(shape))
    values = (values * 255).to(kind) if kind == torch.uint8 else values.to(kind)
    plain = values.reshape(values.shape[-3:]).float().numpy() / (255 if kind == torch.uint8 else 1)
    picture = as_picture(values.requires_grad_() if kind == torch.float32 else values)
    np.testing.assert_allclose(picture.pixels, expected(plain, first=first), rtol=1e-6)


def test_a_tensor_of_two_axes_and_of_a_subclass():
    from torchvision import tv_tensors

    assert as_picture(torch.zeros(4, 6)).pixels.shape == (4, 6, 1)
    assert as_picture(tv_tensors.Image(torch.zeros(3, 4, 6))).pixels.shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.linspace(-2, 2, 300).reshape(3, 10, 10), r"from -2 to 2 .*cs\.cam\(net, x\)"),
        (torch.full((3, 10, 10), 200.0), "from 200 to 200"),
        (torch.zeros(2, 3, 10, 10), r"batch of 2 images.*explain_all\(model, list\(x\)\)"),
        (torch.full((3, 10, 10), torch.nan), "NaN"),
        (torch.full((3, 10, 10), torch.inf), "inf"),
        (torch.zeros(3, 10, 10, dtype=torch.int8), "int8"),
        (torch.zeros(3, 10, 10, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, 0, 10), "no pixels"),
        (torch.zeros(10, 10, 10), "a tensor of shape .* fewer channels"),
        (torch.zeros(5), "a tensor of shape"),
    ],
    ids=str,
)
def test_tensors_that_are_no_pictures(tensor, says):
    with pytest.raises(PictureError, match=says):
        as_picture(tensor)


def test_an_object_that_numpy_takes_for_an_array():
    class Holder:
        def __array__(self, dtype=None, copy=None):
            return np.full((4, 6, 3), 51, np.uint8)

    np.testing.assert_allclose(as_picture(Holder()).pixels, 0.2)
