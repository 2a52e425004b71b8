"""Signals that stop a training."""

import signal

import pytest

pytest.importorskip("lightning")

from camscope.errors import TerminatedError
from camscope.training.stopping import Stopping

ERRORS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: TerminatedError}


@pytest.fixture(autouse=True)
def usual_handlers():
    """Set Python's own handlers, which a library may have replaced in this process."""
    before = {number: signal.getsignal(number) for number in ERRORS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def deliver(number):
    """Call the handler as Python would; a real signal would end the test process if a library reset its handler."""
    signal.getsignal(number)(number, None)


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize("check", ["on_train_batch_end", "on_validation_batch_end"])
def test_a_signal_ends_a_training_at_the_end_of_a_batch(number, check):
    before = {one: signal.getsignal(one) for one in ERRORS}
    reached = False
    with pytest.raises(ERRORS[number]), Stopping() as stopping:  # noqa: PT012
        deliver(number)
        reached = True
        getattr(stopping, check)()
        pytest.fail("it went on")
    assert reached
    assert {one: signal.getsignal(one) for one in ERRORS} == before


@pytest.mark.parametrize("number", ERRORS)
def test_a_signal_after_the_last_batch_is_not_lost(number):
    with pytest.raises(ERRORS[number]), Stopping():
        deliver(number)


def test_a_second_interrupt_does_not_wait():
    with pytest.raises(KeyboardInterrupt), Stopping():  # noqa: PT012
        deliver(signal.SIGINT)
        deliver(signal.SIGINT)
        pytest.fail("it went on")


def test_a_handler_of_the_caller_is_called_as_well():
    called = []
    before = signal.signal(signal.SIGTERM, lambda number, _: called.append(number))
    with pytest.raises(TerminatedError), Stopping():
        deliver(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert called == [signal.SIGTERM]


def test_an_error_of_the_training_is_its_own():
    with pytest.raises(ZeroDivisionError), Stopping() as stopping:  # noqa: PT012
        stopping.on_train_batch_end()
        deliver(signal.SIGINT)
        raise ZeroDivisionError
