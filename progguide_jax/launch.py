"""Several hosts on one machine, to try out what a pod does.

    python -m progguide_jax.launch --processes=2 --devices=4 train.py --config=... ...

Each process is a host with CPU devices of its own; they meet over loopback. Their lines
are printed behind their numbers. Ctrl-C and SIGTERM go to all. The exit code is 0, or
the first other one.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m progguide_jax.launch", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--processes", type=_count, default=2, help="hosts (2)")
    parser.add_argument(
        "--devices", type=_count, default=1, help="CPU devices each (1)"
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="train.py --config=..."
    )
    given = parser.parse_args(argv)
    if not given.command:
        parser.error(
            "no command: name train.py, probe.py, sample.py, ... with its flags"
        )
    found: list[subprocess.Popen] = []

    def forward(signum, frame):
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signum)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    for variables in environments(given.processes, given.devices, free_port()):
        process = subprocess.Popen(
            [sys.executable, *given.command],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C comes once, from here
        )
        found.append(process)
    readers = [
        threading.Thread(target=_print_lines, args=(index, stream, number))
        for index, process in enumerate(found)
        for number, stream in ((1, process.stdout), (2, process.stderr))
    ]
    for reader in readers:
        reader.start()
    codes = [process.wait() for process in found]
    for reader in readers:
        reader.join()
    return next((code for code in codes if code), 0)


def environments(processes: int, devices: int, port: int) -> list[dict[str, str]]:
    """The variables of each process, as `runtime.hosts` and jax read them."""
    return [
        {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(index),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
        }
        for index in range(processes)
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _print_lines(index: int, stream, to: int) -> None:
    """Every line with its host; a bar that is drawn again is one line each time."""
    rest = b""
    while chunk := stream.read1():
        *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
        for line in filter(None, lines):
            os.write(to, b"[%d] %s\n" % (index, line))
    if rest:
        os.write(to, b"[%d] %s\n" % (index, rest))


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
