"""Ctrl-C and SIGTERM wait until a run is between two steps."""

import os
import signal

import pytest

from ctr.training.interrupts import Interrupts


def test_interruptions_wait_until_they_may_act() -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.pending == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            interrupts.act()
    with pytest.raises(KeyboardInterrupt), Interrupts():  # at the latest at the end
        os.kill(os.getpid(), signal.SIGINT)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)  # a second one at once
        interrupts.pending = None
    with pytest.raises(KeyboardInterrupt), Interrupts(active=False):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the system's: never touched


def test_sigterm_waits_too_and_does_not_hasten() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with Interrupts() as interrupts:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            assert not got
            interrupts.act()
            assert got == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(got) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
