"""Hosts that notice within seconds that another one is gone.

jax notices after 100 s, by ending the process with a stack of C++. Here every host
keeps a connection to host 0, which tells the others: one that is closed before its host
said goodbye, or silent for 30 s, ends this process with one line.
"""

import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from progguide_jax.runtime import hosts

BEAT, SILENCE, GRACE = 2.0, 30.0, 10.0  # seconds
_FAILED = "host {} stopped with an error, which it prints: see its output"
AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on from what is saved


class Watch:
    """The connections of this host to the others; `start` makes it."""

    def __init__(self, links: dict[int, socket.socket], end: Callable[[int], NoReturn]):
        self._links, self._end = links, end
        self._gone: set[int] = set()  # hosts that said how they end
        self._failed: set[int] = set()  # those that ended with an error
        self._news, self._first_to_end = threading.Condition(), threading.Lock()
        self._leaving = False
        threading.Thread(target=self._beat, daemon=True).start()
        for host, link in links.items():
            threading.Thread(
                target=self._listen, args=(host, link), daemon=True
            ).start()

    def leave(self, failed: bool) -> None:
        """Say goodbye. failed: this host ends alone, and the others are to end as well;
        host 0, whose end jax takes for an accident, first lets them."""
        self._leaving = True
        self._tell(f"{'failed' if failed else 'done'} {jax.process_index()}")
        if failed and 0 not in self._links:
            with self._news:
                others = self._links.keys()
                self._news.wait_for(lambda: self._gone >= others, GRACE + BEAT)

    def fail(self, words: str, code: int, met: bool = False) -> NoReturn:
        """Print the words and end, and let the others end. met: this host may only have
        met the end of another, which is then what is said."""
        if met:
            time.sleep(BEAT)
        if met and self._failed:
            words = f"error: {_FAILED.format(min(self._failed))}"
        print(words, file=sys.stderr)
        self.leave(failed=True)
        self._end(code)

    def _lost(self, host: int) -> None:
        """End this process, since `host` is gone."""
        self._tell(f"lost {host}")
        self._finish(
            f"error: host {host} is gone (killed, or cut off from the others): run the "
            "same command again on every host, it goes on from what is saved",
            AGAIN,
        )

    def _has_failed(self, host: int) -> None:
        """`host` ended with an error; this one may be about to meet the same."""
        self._failed.add(host)
        self._tell(f"failed {host}")
        time.sleep(GRACE)
        if not self._leaving:
            self._tell("done")  # or this end would be taken for an accident
            self._finish(f"error: {_FAILED.format(host)}", 1)

    def _finish(self, words: str, code: int) -> None:
        if not self._first_to_end.acquire(blocking=False):
            return  # several ways to notice are one end
        os.write(2, f"\n{words}\n".encode())  # at once: print may wait for a lock
        if 0 not in self._links:
            time.sleep(BEAT)  # for the others to read why
        self._end(code)

    def _beat(self) -> None:
        while True:
            self._tell("alive")
            time.sleep(BEAT)

    def _tell(self, words: str) -> None:
        for link in self._links.values():
            with contextlib.suppress(OSError):  # the listener finds out
                link.sendall(f"{words}\n".encode())

    def _listen(self, host: int, link: socket.socket) -> None:
        with contextlib.suppress(OSError), link.makefile() as lines:
            for line in lines:
                word, _, who = line.strip().partition(" ")
                if word == "lost":
                    return self._lost(int(who))
                if word in ("done", "failed"):
                    with self._news:
                        self._gone.add(host)
                        self._news.notify_all()
                if word == "failed":
                    return self._has_failed(int(who))
        if host not in self._gone:
            self._lost(host)
        return None


def start(address: str = "") -> Watch | None:
    """Watch the other hosts; None, with a warning, where host 0 cannot be reached.

    address: that of host 0, without a port, if it is known; host 0 names others. All
    hosts must call this.
    """
    host, count = jax.process_index(), jax.process_count()
    links: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        words = ""
        if host == 0:
            server = stack.enter_context(_server())
            token, port = secrets.token_hex(8), server.getsockname()[1]
            words = " ".join([token, str(port), *hosts.own_addresses()])
        token, port, *others = hosts.gathered(words)[0].split()
        with contextlib.suppress(OSError):
            if host == 0:
                links = _accept(server, token, count)
            else:
                addresses = filter(None, [address, *others])
                links = {0: _connect(addresses, int(port), f"{token} {host}\n")}
    wanted = count - 1 if host == 0 else 1
    if not _all(len(links) == wanted):
        for link in links.values():
            link.close()
        if host == 0:
            logging.warning(
                "not every host reaches host 0 by a port of its own (firewall?): one "
                "that is gone is noticed after minutes"
            )
        return None
    for link in links.values():
        link.settimeout(SILENCE)
    return Watch(links, _end)


def _server() -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", 0), family=family, dualstack_ipv6=dual)


def _connect(addresses: Iterable[str], port: int, hello: str) -> socket.socket:
    """A connection to the first address at which host 0 answers; OSError if at none."""
    for address in addresses:
        with contextlib.suppress(OSError):
            link = socket.create_connection((address, port), timeout=3)
            link.sendall(hello.encode())
            if link.recv(1) == b"+":
                return link
    raise OSError("host 0 does not answer")


def _accept(server: socket.socket, token: str, count: int) -> dict[int, socket.socket]:
    """The connections of the other hosts, those that come within some seconds."""
    links: dict[int, socket.socket] = {}
    until = time.monotonic() + 10
    while len(links) < count - 1:
        server.settimeout(max(until - time.monotonic(), 0.01))
        link, _ = server.accept()
        said = _greeting(link)
        if len(said) == 2 and said[0] == token and said[1].isdigit():
            link.sendall(b"+")
            links[int(said[1])] = link
        else:
            link.close()  # somebody else's
    return links


def _greeting(link: socket.socket) -> list[str]:
    """The words of its first line; none if it does not come within two seconds."""
    words = b""
    link.settimeout(2)
    with contextlib.suppress(OSError):
        while not words.endswith(b"\n") and len(words) < 40:
            words += link.recv(1) or b"\n"
    return words.decode("ascii", "replace").split()


def _all(mine: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.array(mine))))


def _end(code: int) -> NoReturn:
    """End without waiting for the other hosts, as the interpreter would."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
