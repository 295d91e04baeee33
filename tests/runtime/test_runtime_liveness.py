"""Two and three watches in one process, over socket pairs."""

import contextlib
import queue
import socket

import pytest

from progguide_jax.runtime import liveness


class Ended(Exception):
    """Ends the thread that would end its process."""


class Company:
    """Host 0 and `others` of them; `ends` gets (host, exit code)."""

    def __init__(self, monkeypatch, others):
        monkeypatch.setattr(liveness, "BEAT", 0.01)
        monkeypatch.setattr(liveness, "GRACE", 0.1)
        monkeypatch.setattr(liveness.jax, "process_index", lambda: self.speaker)
        monkeypatch.setattr(liveness.threading, "excepthook", lambda _: None)
        self.speaker, self.ends, self.dead = 0, queue.Queue(), set()
        pairs = {host: socket.socketpair() for host in range(1, others + 1)}
        self.links = [{h: a for h, (a, _) in pairs.items()}]
        self.links += [{0: b} for _, b in pairs.values()]
        for link in [x for links in self.links for x in links.values()]:
            link.settimeout(1)
        self.watches = [
            liveness.Watch(links, self._ender(host))
            for host, links in enumerate(self.links)
        ]

    def _ender(self, host):
        def end(code):
            if host not in self.dead:
                self.ends.put((host, code))
            self.cut(host)
            raise Ended

        return end

    def cut(self, host):
        """What the system does for a process that is killed."""
        self.dead.add(host)
        self.watches[host]._first_to_end.acquire(blocking=False)  # it says nothing more
        for link in self.links[host].values():
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def leave(self, host, failed):
        self.speaker = host
        self.watches[host].leave(failed)

    def ended(self, count):
        return sorted(self.ends.get(timeout=5) for _ in range(count))


@pytest.fixture
def company(monkeypatch):
    made = []

    def make(others):
        made.append(Company(monkeypatch, others))
        return made[0]

    yield make
    for host in range(len(made[0].links)):
        made[0].cut(host)


def test_a_host_that_is_killed_ends_the_others_with_a_line(company, capfd):
    hosts = company(2)
    hosts.cut(2)
    assert hosts.ended(2) == [(0, 75), (1, 75)]
    said = capfd.readouterr().err
    assert said.count("error: host 2 is gone") == 2, said


def test_host_0_is_missed_too(company, capfd):
    hosts = company(1)
    hosts.cut(0)
    assert hosts.ended(1) == [(1, 75)]
    assert "error: host 0 is gone" in capfd.readouterr().err


def test_a_goodbye_is_no_accident(company):
    hosts = company(1)
    for host in (0, 1):
        hosts.leave(host, failed=False)
    with pytest.raises(queue.Empty):
        for host in (1, 0):
            hosts.cut(host)
        hosts.ends.get(timeout=0.2)


def test_an_error_of_one_host_ends_the_others_which_say_whose_it_was(company, capfd):
    hosts = company(2)
    hosts.leave(1, failed=True)
    hosts.cut(1)
    assert hosts.ended(2) == [(0, 1), (2, 1)]
    words = capfd.readouterr().err
    assert words.count("error: host 1 stopped with an error") >= 2
    assert "host 1 is gone" not in words


def test_what_follows_from_anothers_error_is_not_what_is_said(company, capsys):
    hosts = company(1)
    hosts.leave(1, failed=True)
    hosts.speaker = 0
    with pytest.raises(Ended):
        hosts.watches[0].fail(
            "error: Gloo AllGather failed: closed by peer", 1, met=True
        )
    said = capsys.readouterr().err
    assert "host 1 stopped with an error" in said and "Gloo" not in said


def test_a_host_that_ends_for_anothers_error_is_not_taken_for_killed(company, capfd):
    """Host 0 has met an error too, and waits for host 2, which has not."""
    hosts = company(2)
    hosts.leave(1, failed=True)
    hosts.cut(1)
    hosts.leave(0, failed=True)
    assert hosts.ended(1) == [(2, 1)]
    with pytest.raises(queue.Empty):
        hosts.ends.get(timeout=0.1)
    assert "is gone" not in capfd.readouterr().err


def test_a_stranger_at_the_door_is_no_host():
    class Stranger:
        def recv(self, count):
            raise ConnectionResetError

        settimeout = close = lambda self, *given: None

    class Server:
        settimeout = Stranger.settimeout

        def accept(self):
            return visitors.pop(0), None

    ours, theirs = socket.socketpair()
    theirs.sendall(b"word 1\n")
    visitors = [Stranger(), ours]
    assert liveness._accept(Server(), "word", 2) == {1: ours}
    assert theirs.recv(1) == b"+"
