"""Implement the command line, `camscope COMMAND`. Only this package prints and exits."""

from camscope.cli.main import main

__all__ = ["main"]
