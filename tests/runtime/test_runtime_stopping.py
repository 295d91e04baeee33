"""Ctrl-C and SIGTERM as a question between two steps."""

import os
import signal

import pytest

from progguide_jax.runtime import stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_said_saved_and_an_error_of_one_line(number, capfd):
    before = signal.getsignal(number)
    with stopping.Stop() as stop:
        stop.check("1 of 3 batches")
        os.kill(os.getpid(), number)
        # at once: the step that runs may take long
        assert "stopping when this step has ended" in capfd.readouterr().err
        assert signal.getsignal(number) == before  # a second one ends it
        with pytest.raises(InterruptedError) as error:
            stop.check("2 of 3 batches")
    assert "stopped by a signal after 2 of 3 batches, saved" in str(error.value)


def test_a_step_that_fails_gives_the_signals_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stopping.Stop() as stop:
        assert not stop.asked() and signal.getsignal(signal.SIGINT) != before
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) == before


def test_the_hosts_stop_together_whatever_they_count(monkeypatch):
    """jax picks the number after the largest that it has seen of any host, and answers
    to that number only."""
    seen, chosen = [], []

    def reached(number):
        seen.append(number)
        return [number] == chosen

    monkeypatch.setattr(stopping.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        stopping.multihost_utils, "reached_preemption_sync_point", reached
    )
    for done in ("100 of 300 images", "200 of 300 images"):
        stopping.Stop().check(done)
    chosen.append(seen[-1] + 1)  # SIGTERM on some host
    with pytest.raises(InterruptedError, match="after 1 of 9 batches"):
        stopping.Stop().check("1 of 9 batches")  # of other work, counted from 1
