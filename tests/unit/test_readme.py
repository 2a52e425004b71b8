"""The README does what it says: its Python blocks run, its commands and files exist."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import camscope as cs
from camscope.cli.main import app
from camscope.models.loading import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save("cat.jpg")

    # Published weights are out of reach in tests; a small network with the same labels stands in.
    def load_unpublished(model, **options):
        return load(model, **options) if isinstance(model, nn.Module) else load("timm:resnet18", weights="none")

    monkeypatch.setattr(cs, "load", load_unpublished, raising=False)
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})
    if "e.save" in BLOCKS[number]:
        assert (tmp_path / "out" / "panel.png").is_file()


def test_the_commands_it_names_exist():
    named = set(re.findall(r"^camscope (\w+) ", README, re.MULTILINE))
    known = {command.callback.__name__ for command in app.registered_commands}
    assert named
    assert named <= known


def test_the_files_it_links_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
