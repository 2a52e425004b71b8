"""What --help shows is what stands in the source."""

import inspect
import re

import pytest
import typer

from camscope.cli.main import app

COMMANDS = {info.callback.__name__: info.callback for info in app.registered_commands}
MARKUP = re.compile(r"\[[a-z/]")


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_in_brackets_is_taken_for_markup(name):
    """Rich leaves out what it takes for a tag, such as [default: x] or [audit]."""
    signature = inspect.signature(COMMANDS[name], eval_str=True)
    helps = [
        extra.help or ""
        for parameter in signature.parameters.values()
        for extra in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(extra, (typer.models.OptionInfo, typer.models.ArgumentInfo))
    ]
    assert len(helps) == len(signature.parameters)
    assert [text for text in (*helps, inspect.getdoc(COMMANDS[name])) if MARKUP.search(text)] == []
