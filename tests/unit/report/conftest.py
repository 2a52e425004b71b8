from __future__ import annotations

import pytest

from camscope.study.run import run
from camscope.study.study import Study


@pytest.fixture
def made(make_study, tmp_path):
    """A study of eight images that has been run, one of them damaged."""
    file = make_study(explain='when = "all"')
    (file.parent / "images" / "P002" / "AP.png").write_bytes(b"no image")
    for _ in run(Study.read(file), tmp_path / "out"):
        pass
    return file, tmp_path / "out"
