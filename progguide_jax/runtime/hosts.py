"""The other hosts of a run: how they are found, and that all of them do the same.

A host is one process of several that run one command together: a worker of a TPU pod, a
task of SLURM or Open MPI, or a machine that is told so.
"""

import contextlib
import glob
import hashlib
import importlib.util
import json
import os
import pathlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# config.hosts where nobody names any
UNNAMED = {
    "coordinator_address": "",
    "num_processes": 0,
    "process_id": -1,
    "local_device_ids": (),
    "timeout": 300,
}
# key of config.hosts: the variable that stands for it, and its type
_SETTINGS = {
    "coordinator_address": ("JAX_COORDINATOR_ADDRESS", str),
    "num_processes": ("JAX_NUM_PROCESSES", int),
    "process_id": ("JAX_PROCESS_ID", int),
}
# what jax reads of SLURM; outside of srun some of them are not there
_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
_TPU_WORKERS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


def join(config: Any) -> bool:
    """Join the other hosts, if there are any, and say so; before any device is used.

    Who they are is said by config.hosts, or by JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES, JAX_PROCESS_ID and JAX_LOCAL_DEVICE_IDS, or found out by jax from
    SLURM, Open MPI or a TPU pod. config.distributed: there must be others. ValueError
    where a setting lacks. Ends the process with a line and code 1 if the others do not
    come within config.hosts.timeout.
    """
    how = arguments(config, os.environ)
    if how is None:
        return False
    seconds = int(config.hosts.timeout)
    late = threading.Timer(seconds, _give_up, [seconds])
    late.daemon = True
    late.start()
    try:
        # jax ends the process itself, by a signal, when its own time is over
        jax.distributed.initialize(**how, initialization_timeout=seconds + 60)
    except (RuntimeError, ValueError) as error:
        if "coordinator_address" in str(error) and not config.distributed:
            return False  # a TPU that is no pod
        raise ValueError(
            f"jax.distributed: {str(error).strip().splitlines()[0]} (name "
            "hosts.coordinator_address, num_processes and process_id, or leave out "
            "distributed where there is one host)"
        ) from error
    finally:
        late.cancel()
    if sees_every_gpu(os.environ) and "local_device_ids" not in how:
        for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(name, "all")
    return True


def arguments(config: Any, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Those of jax.distributed.initialize; None where there is one process.

    ValueError if config.hosts and the variables say some of what is needed, not all.
    """
    given, names = {}, {}
    for key, (variable, kind) in _SETTINGS.items():
        value, names[key] = config.hosts[key], f"hosts.{key} (or {variable})"
        if value == UNNAMED[key] and variable in environ:
            value = _read(variable, environ[variable], kind)
        if value != UNNAMED[key]:
            given[key] = value
    local = {}
    if config.hosts.local_device_ids:
        local = {"local_device_ids": list(config.hosts.local_device_ids)}
    if given.get("num_processes") == 1 and not config.distributed:
        return None
    if len(given) == len(_SETTINGS):
        _check_number(given["process_id"], given["num_processes"])
        check_address(given["coordinator_address"])
        return {**given, **local, "cluster_detection_method": "deactivate"}
    if config.distributed or _cluster(environ):
        return {**given, **local}
    if given:
        lacking = [names[key] for key in _SETTINGS if key not in given]
        raise ValueError(
            f"{' and '.join(names[k] for k in given)} without {' and '.join(lacking)}: "
            "several hosts need all three"
        )
    return None


def sees_every_gpu(environ: Mapping[str, str]) -> bool:
    """Whether a task of SLURM is to use all GPUs that it sees, where jax would take one
    by the task's number: the only task of its node, or one that is given its own."""
    if not all(name in environ for name in _SLURM):
        return False
    tasks = int(environ["SLURM_NTASKS"])
    nodes = int(environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES", "1")))
    own = environ.get("CUDA_VISIBLE_DEVICES", environ.get("ROCR_VISIBLE_DEVICES", ""))
    return tasks <= nodes or len([name for name in own.split(",") if name]) == 1


def agree(mine: Mapping[str, Any]) -> None:
    """ValueError on every host, with the first difference, unless all have the same.

    mine: name -> what prints alike where it is alike. All hosts must call this.
    """
    if jax.process_count() == 1:
        return
    texts = gathered(json.dumps({k: str(v) for k, v in mine.items()}, sort_keys=True))
    first = json.loads(texts[0])
    for host, other in enumerate(map(json.loads, texts)):
        for name in sorted(first.keys() | other.keys()):
            if other.get(name) != first.get(name):
                raise ValueError(
                    f"host {host} has another {name} than host 0 "
                    f"({other.get(name, 'none')}, not {first.get(name, 'none')}): run "
                    "the same command with the same code and data on every host"
                )


def code_digest() -> str:
    """16 hex digits of this package's source files."""
    found, package = hashlib.sha256(), pathlib.Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def named_address(config: Any, environ: Mapping[str, str]) -> str:
    """The address of host 0 without its port, where the user names it; else ""."""
    variable, _ = _SETTINGS["coordinator_address"]
    address = config.hosts.coordinator_address or environ.get(variable, "")
    return address.rpartition(":")[0].strip("[]")


def own_addresses() -> list[str]:
    """Those under which other machines may reach this one, the likeliest first."""
    found = []
    with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent: it shows the way out
        found.append(probe.getsockname()[0])
    found.append(socket.gethostname())
    with contextlib.suppress(OSError):
        found += [entry[4][0] for entry in socket.getaddrinfo(found[-1], None)]
    return list(dict.fromkeys(map(str, found)))


def check(settings: Any) -> None:
    """ValueError at a value of config.hosts that cannot be meant."""
    if settings.coordinator_address:
        check_address(settings.coordinator_address)
    if not all(type(i) is int and i >= 0 for i in settings.local_device_ids):
        raise ValueError(
            f"hosts.local_device_ids is {settings.local_device_ids}: give the numbers "
            "of GPUs, from 0"
        )


def check_address(address: str) -> None:
    """ValueError unless it is HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(
            f"hosts.coordinator_address is {address!r}: give HOST:PORT of the host "
            "with process_id 0"
        )


def _cluster(environ: Mapping[str, str]) -> bool:
    """Whether something that jax can ask says that there are several processes."""
    if all(name in environ for name in _SLURM):
        tasks = environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"])
        return int(tasks) > 1
    if int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    if any("," in environ.get(name, "") for name in _TPU_WORKERS):
        return True
    if environ.get("JAX_PLATFORMS", "tpu").find("tpu") < 0:
        return False
    # a TPU machine of Google's cloud: only its metadata says whether it is one of many
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _read(variable: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}: give a number") from None


def _check_number(process_id: int, num_processes: int) -> None:
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"hosts.process_id is {process_id}, hosts.num_processes {num_processes}: "
            "the hosts are numbered from 0"
        )


def _give_up(seconds: int) -> None:
    words = (
        f"error: the other hosts did not come within {seconds} s (hosts.timeout): "
        "start the same command on all, and see that they reach the port of host 0"
    )
    os.write(2, f"{words}\n".encode())
    os._exit(1)


def gathered(text: str) -> list[str]:
    """The text of each host. All hosts must call this."""
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(mine), np.int32))
    padded = np.zeros(int(np.max(lengths)), np.uint8)
    padded[: len(mine)] = mine
    rows = np.asarray(multihost_utils.process_allgather(padded))
    lengths = np.ravel(lengths)
    return [bytes(r[:n]).decode() for r, n in zip(rows, lengths, strict=True)]
