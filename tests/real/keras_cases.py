"""Keras' preprocessing and maps on real images; run by test_keras.py in a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import camscope as cs
from camscope.images import read
from camscope.models.sources.keras import _family, names
from camscope.models.sources.keras_net import keras

DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
PHOTO = DATA / "imagenet_photos/images/n01537544_indigo_bunting.JPEG"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no test data: set CAMSCOPE_TEST_DATA to their folder")

K = keras()
MODULES = sorted({getattr(K.applications, name).__module__ for name in names()})


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.rpartition(".")[2])
def test_preprocessing_is_that_of_the_family(module: str) -> None:
    """As ``load_img`` and the module's own ``preprocess_input`` prepare a photograph."""
    image = K.utils.load_img(PHOTO, target_size=(160, 192), interpolation="bilinear")
    expected = sys.modules[module].preprocess_input(K.utils.img_to_array(image)[None])
    found, window = _family(module, (160, 192))(read(PHOTO))
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found.movedim(0, -1).numpy(), expected[0], rtol=0, atol=2e-6 * scale)
    assert window.extent == pytest.approx(read(PHOTO).size)


def test_all_four_kinds_are_there() -> None:
    kinds = {name: _family(f"keras.src.applications.{name}", (8, 8)) for name in ("vgg16", "xception", "densenet")}
    assert kinds["vgg16"].order == "bgr"
    assert kinds["xception"].mean == pytest.approx((0.5,) * 3)
    assert kinds["densenet"].std == pytest.approx((0.229, 0.224, 0.225))
    assert _family("keras.src.applications.efficientnet", (8, 8)).std == pytest.approx((1 / 255,) * 3)


def test_a_map_of_a_photograph() -> None:
    torch.manual_seed(0)
    model = cs.load("keras:MobileNetV2", weights="none", options={"alpha": 0.35})
    found = cs.explain(model, PHOTO, target="indigo bunting")
    assert found.layer == "out_relu"
    assert found.grid.shape == (7, 7)
    assert found.heatmap.shape == read(PHOTO).size
