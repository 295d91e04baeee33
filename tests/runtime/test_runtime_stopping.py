"""Ctrl-C and SIGTERM as a question between two steps."""

import os
import signal

import pytest

from progguide_jax.runtime import stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_said_saved_and_an_error_of_one_line(number, capfd):
    before = signal.getsignal(number)
    with stopping.Stop() as stop:
        stop.check(1, "1 of 3 batches")
        os.kill(os.getpid(), number)
        # at once: the step that runs may take long
        assert "stopping when this step has ended" in capfd.readouterr().err
        assert signal.getsignal(number) == before  # a second one ends it
        with pytest.raises(InterruptedError) as error:
            stop.check(2, "2 of 3 batches")
    assert "stopped by a signal after 2 of 3 batches, saved" in str(error.value)


def test_a_step_that_fails_gives_the_signals_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stopping.Stop() as stop:
        assert not stop.asked(1) and signal.getsignal(signal.SIGINT) != before
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) == before
