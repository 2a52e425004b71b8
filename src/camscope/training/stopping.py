"""Stop a training on a signal, at a point from which it can resume."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from camscope.errors import TerminatedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RESUME = "the training was asked to stop; re-run the same command to resume"


class Stopping(L.Callback):
    """End a training at the end of a batch after SIGINT (the interrupt key) or SIGTERM.

    Python ignores an exception that a signal handler raises in some places. So the handler only records the signal; a
    second SIGINT raises at once. A handler of the caller is called as well. Handlers are installed only in the main
    thread, and the previous ones are restored.

    Raises:
        KeyboardInterrupt: after SIGINT.
        TerminatedError: after SIGTERM.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._asked is not None and isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            kind = None  # the same signal ended the processes that read images
        # Lightning ends the process at a second interrupt.
        if kind is _InterruptedError or (kind in (None, SystemExit) and self._asked == signal.SIGINT):
            raise KeyboardInterrupt from None
        if kind is SIGTERMException or (
            kind is None and self._asked == signal.SIGTERM
        ):  # Lightning looks for SIGTERM too
            raise TerminatedError(_RESUME) from None

    def on_train_batch_end(self, *_: object) -> None:  # noqa: D102
        self._end()

    def on_validation_batch_end(self, *_: object) -> None:  # noqa: D102
        self._end()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number
        handler = self._before[signal.Signals(number)]
        with contextlib.suppress(KeyboardInterrupt):  # raised at the end of the batch instead
            if callable(handler):
                handler(number, frame)

    def _end(self) -> None:
        if self._asked == signal.SIGINT:
            raise _InterruptedError
        if self._asked == signal.SIGTERM:
            raise TerminatedError(_RESUME)


class _InterruptedError(Exception):
    """Interruption by the user, as an exception that Lightning passes on."""
