import os
import signal

import pytest

from unclip.training import stop
from unclip.training.stop import Stop


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_that_come_together_are_one(first):
    """As where a scheduler tells all processes, and a launcher tells its own."""
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as asked:
        assert not asked.asked
        for number in (first, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
            assert asked.asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_later_one_acts_as_ever(monkeypatch):
    monkeypatch.setattr(stop, "ONE", -1.0)
    # where a shell runs us in the background, it has the signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Stop():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
