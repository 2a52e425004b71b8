"""The command, run in this process: a process of its own would import PyTorch again for every test."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from camscope.cli import main


def inside(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``camscope ARGUMENTS`` and return what a process would have: exit status, output, errors."""
    words = ["camscope", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", words),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def apart(cases: Path, home: Path, *options: str) -> None:
    """Run a file of tests in a process of its own, for what cannot be undone in this one: Keras takes its backend once.

    Args:
        cases: the file; its name keeps pytest from collecting it here.
        home: folder for Keras' settings and weights.
        *options: for pytest.
    """
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *options, str(cases)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "KERAS"))}
    done = subprocess.run(
        words,
        env={**environment, "KERAS_HOME": str(home)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
