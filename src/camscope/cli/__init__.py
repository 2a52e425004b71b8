"""The command line: `camscope COMMAND`. The only place that prints and exits."""

from camscope.cli.main import main

__all__ = ["main"]
