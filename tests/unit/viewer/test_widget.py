"""The widget of notebooks: its data, its errors, and that a notebook runs it."""

from __future__ import annotations

import base64
import sys

import numpy as np
import pytest

import camscope as cs
from camscope.errors import MissingExtraError, SettingError
from camscope.viewer import widget


@pytest.fixture(scope="module")
def explanations():
    pictures = [np.random.default_rng(n).integers(0, 255, (40, 50, 3), np.uint8) for n in range(2)]
    model = cs.load("timm:test_resnet", weights="none")
    return list(cs.explain_all(model, pictures, methods=["gradcam", "layercam"], targets=[1]))


def test_the_widget_has_each_picture_once_and_each_raw_map(explanations):
    pytest.importorskip("anywidget", reason="needs the extra notebook")
    data = cs.view(iter(explanations)).data
    assert [one["picture"] for one in data["maps"]] == [0, 0, 1, 1]
    for one, e in zip(data["maps"], explanations, strict=True):
        values = np.frombuffer(base64.b64decode(one["grid"]["values"]), "<f4")
        np.testing.assert_array_equal(values.reshape(e.grid.shape), e.grid)
        assert one["unit"] == f"{e.method} at {e.layer}, raw values"
    first = np.frombuffer(base64.b64decode(data["pictures"][0]["pixels"]), np.uint8).reshape(40, 50, 3)
    np.testing.assert_array_equal(first, explanations[0].picture.rgb)
    assert len(cs.view(explanations[0]).data["maps"]) == 1


@pytest.mark.parametrize("wrong", [[], ["cat.jpg"], [None], range(3)])
def test_what_is_no_explanation_ends_in_a_sentence(wrong):
    with pytest.raises(SettingError, match="takes one to 60 explanations"):
        cs.view(wrong)


def test_without_its_package_the_extra_is_named(explanations, monkeypatch):
    widget._widget.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'camscope\[notebook\]'"):
        cs.view(explanations)
    widget._widget.cache_clear()


@pytest.mark.slow
def test_a_notebook_shows_it(tmp_path):
    pytest.importorskip("anywidget", reason="needs the extra notebook")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    code = (
        "import numpy as np, camscope as cs\n"
        "image = np.zeros((40, 50, 3), np.uint8)\n"
        "cs.view(cs.explain(cs.load('timm:test_resnet', weights='none'), image))"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    (output,) = book.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in output.data
