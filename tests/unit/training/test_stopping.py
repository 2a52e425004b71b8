"""Signals that stop a training."""

import os
import signal

import pytest

pytest.importorskip("lightning")

from camscope.errors import TerminatedError
from camscope.training.stopping import Stopping

ERRORS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: TerminatedError}


@pytest.fixture(autouse=True)
def _survivor():
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize("check", ["on_train_batch_end", "on_validation_batch_end"])
def test_a_signal_ends_a_training_at_the_end_of_a_batch(number, check):
    before = {one: signal.getsignal(one) for one in ERRORS}
    reached = False
    with pytest.raises(ERRORS[number]), Stopping() as stopping:  # noqa: PT012
        os.kill(os.getpid(), number)
        reached = True
        getattr(stopping, check)()
        pytest.fail("it went on")
    assert reached
    assert {one: signal.getsignal(one) for one in ERRORS} == before


@pytest.mark.parametrize("number", ERRORS)
def test_a_signal_after_the_last_batch_is_not_lost(number):
    with pytest.raises(ERRORS[number]), Stopping():
        os.kill(os.getpid(), number)


def test_a_second_interrupt_does_not_wait():
    with pytest.raises(KeyboardInterrupt), Stopping():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")


def test_a_handler_of_the_caller_is_called_as_well():
    called = []
    signal.signal(signal.SIGTERM, lambda number, _: called.append(number))
    with pytest.raises(TerminatedError), Stopping():
        os.kill(os.getpid(), signal.SIGTERM)
    assert called == [signal.SIGTERM]


def test_an_error_of_the_training_is_its_own():
    with pytest.raises(ZeroDivisionError), Stopping() as stopping:  # noqa: PT012
        stopping.on_train_batch_end()
        os.kill(os.getpid(), signal.SIGINT)
        raise ZeroDivisionError
