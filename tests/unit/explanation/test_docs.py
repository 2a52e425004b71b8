"""The pages about explaining images and volumes run, and name every kind of file and every scale."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camscope.explanation.file_kinds import FILES
from camscope.render.scaling import SCALES

PAGE = (Path(__file__).parents[3] / "docs" / "explain.md").read_text(encoding="utf-8")


def test_the_picture_of_the_scales_is_made_as_the_page_says(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {"OUT": tmp_path}
    exec(compile(block, "docs/explain.md", "exec"), names)
    hot, cold = names["maps"]
    assert 0.05 < cold.heatmap.max() / hot.heatmap.max() < 0.07  # "6 %"
    assert hot.probability > 0.9 > 0.1 > cold.probability
    assert Image.open(tmp_path / "scales.jpg").size == Image.open(Path(__file__).parents[3] / "docs/scales.jpg").size


def test_every_kind_and_scale_has_its_line():
    assert {name for name in FILES if f"`{name}`" not in PAGE} == set()
    assert {name for name in SCALES if f"`{name.partition(':')[0]}" not in PAGE} == set()


def test_the_page_about_volumes_runs(tmp_path, monkeypatch):
    pytest.importorskip("nibabel")
    folder = Path(__file__).parents[3] / "docs"
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "volumes.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "docs/volumes.md", "exec"), names)
    np.testing.assert_allclose(names["e"].peak_world, (20, 10, 30), atol=4)
    made, shown = (Image.open(path) for path in (tmp_path / "out/panel.png", folder / "volume.jpg"))
    assert made.height / made.width == pytest.approx(shown.height / shown.width, abs=0.01)
