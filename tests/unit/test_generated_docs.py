"""The pages that are written from the registries are those in the repository."""

import importlib.util
from pathlib import Path

import pytest

from camscope.methods import METHODS, facts_of

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["methods", "metrics"])
def test_the_page_is_up_to_date(generate, page):
    written = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert getattr(generate, f"{page}_page")() == written, "run python docs/generate.py"


def test_the_list_of_the_command_is_up_to_date(generate):
    assert generate.methods_listed() == generate.LISTED.read_text(encoding="utf-8"), "run python docs/generate.py"


@pytest.mark.parametrize("name", METHODS)
def test_the_docstring_ends_in_what_the_registry_declares(name):
    facts, text = facts_of(METHODS[name]), METHODS[name].__doc__
    assert facts.passes
    assert facts.reference
    assert f"Cost: {facts.passes}." in text
    assert " ".join(text.partition("Reference:")[2].split()) == facts.reference
