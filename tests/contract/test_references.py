"""Each method and each metric has a reference in tests/reference, which derives it again or stores a peer's numbers."""

import ast
from pathlib import Path

import pytest

from camscope.methods import META, METHODS
from camscope.metrics import METRICS

REFERENCE = Path(__file__).parents[1] / "reference"


def names_in(path):
    """Strings and names in a module; comments and docstrings do not count as a reference."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    words = {word for text in strings if " " not in text or "(" in text for word in text.replace("(", " ").split()}
    return words | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


NAMED = set().union(*(names_in(path) for path in REFERENCE.glob("test_*.py")))


@pytest.mark.parametrize("name", [*METHODS, *META, *METRICS])
def test_there_is_a_reference(name):
    assert name in NAMED, f"add a float64 derivation of {name!r} to tests/reference"


def test_a_name_without_a_reference_is_noticed():
    assert "nosuchcam" not in NAMED
