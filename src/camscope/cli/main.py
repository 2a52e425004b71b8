"""The command line application: all commands; errors become one line and an exit status."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from camscope import __version__
from camscope.cli import (
    audit,
    bundle,
    compare,
    demo,
    evaluate,
    explain,
    failures,
    init,
    layers,
    methods,
    models,
    report,
    scan,
    share,
    study,
    train,
)
from camscope.cli.app import app as web_app
from camscope.cli.terminal import in_options, one_line
from camscope.errors import CamscopeError, TerminatedError, reason

# Typer may include click under another name, depending on the version; its errors are found through public classes.
_UsageError: Any = typer.BadParameter.__mro__[2]

_INTERRUPTED = 128 + signal.SIGINT
_MOMENT = 0.05  # seconds
_STOPPED = "interrupted; re-run the same command to resume"

app = typer.Typer(
    help="See what an image model looks at, and find out whether to believe it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = {
    "Images": (explain.explain, web_app, scan.scan, layers.layers, compare.compare),
    "Cohorts": (init.init, study.study, audit.audit, report.report, share.share, demo.demo),
    "Training": (train.train, failures.failures),
    "Models and methods": (models.models, methods.methods, evaluate.evaluate, bundle.bundle),
}


def _help(text: str) -> str:
    r"""Return a docstring whose paragraphs are one line each, so that they fill a terminal of any width.

    >>> _help("What it does.\n\nTwo\nlines.\n\nExample: a\nExample: b")
    'What it does.\n\nTwo lines.\n\nExample: a\nExample: b'
    """
    return re.sub(r"(?<!\n)\n(?!\n|Example: | )", " ", text)


for panel, commands in _COMMANDS.items():
    for command in commands:
        app.command(help=_help(inspect.getdoc(command) or ""), rich_help_panel=panel)(command)


def _version(flag: bool) -> None:
    if flag:
        print(f"camscope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command: exit status 0 done, 1 some rows failed, 2 wrong usage or input (one line on standard error)."""
    warnings.showwarning = functools.partial(_note, show=warnings.showwarning)
    with _terminable() as signals:
        status = _status(signals)
    sys.exit(status if isinstance(status, int) else 0)


@contextlib.contextmanager
def _terminable() -> Iterator[list[int]]:
    """Make SIGTERM interrupt the command as the interrupt key does; yields a list to which its number is added.

    Python drops an exception that a handler raises inside a destructor or a callback of a weak reference: the signal is
    then raised again, a moment later.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals  # only the main thread can set handlers
        return

    def interrupt(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    def raise_again(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            number = signals[-1] if signals else signal.SIGINT
            threading.Timer(_MOMENT, signal.raise_signal, [number]).start()
        else:
            hook(dropped)

    handler, hook = signal.signal(signal.SIGTERM, interrupt), sys.unraisablehook
    sys.unraisablehook = raise_again
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, handler)
        sys.unraisablehook = hook


def _status(signals: Sequence[int]) -> Any:
    """Run the command of the process and return its exit status; errors are printed.

    Args:
        signals: the termination signals that arrived; one of them ends the command as the interrupt key does.
    """
    try:
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:  # Typer returns this status for the interrupt key, without a message
            status = _interrupted(signals)
    except TerminatedError as error:
        _complain(str(error))
        status = 128 + signal.SIGTERM
    except CamscopeError as error:
        status = _complain(str(error))
    except (typer.Abort, KeyboardInterrupt) as stop:
        # Typer also aborts at the end of a file, such as a truncated weights file.
        cause = stop.__cause__ or stop.__context__
        status = _unexpected(cause) if isinstance(cause, EOFError) else _interrupted(signals)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except _UsageError as error:
        status = _complain(error.format_message())
    except Exception as fault:
        status = _unexpected(fault)
    return status


def _interrupted(signals: Sequence[int]) -> int:
    _complain(_STOPPED)
    return 128 + (signals[-1] if signals else signal.SIGINT)


def _note(
    message: Warning | str, category: type[Warning], filename: str, *args: Any, show: Callable[..., None], **extra: Any
) -> None:
    """Print a warning of camscope as a one-line note; other warnings are shown as usual."""
    if issubclass(category, UserWarning) and Path(__file__).parents[1] in Path(filename).parents:
        print(f"note: {one_line(in_options(str(message)))}", file=sys.stderr)
    else:
        show(message, category, filename, *args, **extra)


def _unexpected(fault: Exception) -> int:
    """Report an unexpected error; with CAMSCOPE_TRACEBACK set, show the traceback."""
    if os.environ.get("CAMSCOPE_TRACEBACK"):
        raise fault
    if isinstance(fault, OSError) and fault.filename is not None:
        return _complain(f"{fault.filename}: {reason(fault)}")
    hint = "set CAMSCOPE_TRACEBACK=1 to see where, and report it"
    return _complain(f"unexpected {type(fault).__name__}: {reason(fault)}; {hint}")


def _complain(text: str) -> int:
    print(f"camscope: {one_line(text)}", file=sys.stderr)
    return 2
