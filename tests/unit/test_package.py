import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import camscope

SOURCE = Path(camscope.__file__).parent


def test_importing_camscope_loads_nothing_heavy():
    code = "import camscope, sys; print(sorted({'torch', 'numpy', 'PIL', 'matplotlib', 'timm'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(loaded) == []


@pytest.mark.parametrize("name", camscope.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(camscope, name)
    assert name in dir(camscope)
    if callable(value):
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = camscope.nothing


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_files_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.body[0].lineno < 60, node.name


def test_no_two_classes_share_a_name():
    counts = Counter(
        node.name
        for path in SOURCE.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in counts.items() if count > 1] == []
