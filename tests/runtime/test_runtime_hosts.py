"""Who the other hosts are, from settings, variables and clusters."""

import json

import numpy as np
import pytest

from configs import base
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import hosts

ADDRESS = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:4000",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
# of `srun --nodes=2 --ntasks=2`, one task a node
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def config(**changes):
    c = base.get_config()
    with c.unlocked():
        c.distributed = changes.pop("distributed", False)
        c.hosts.update(changes)
    return c


WHOLE = {
    "coordinator_address": "10.0.0.1:4000",
    "num_processes": 2,
    "process_id": 1,
    "cluster_detection_method": "deactivate",
}


@pytest.mark.parametrize(
    "changes, environ, expected",
    [
        ({}, {}, None),
        ({}, ADDRESS, WHOLE),
        (
            {
                "coordinator_address": "10.0.0.1:4000",
                "num_processes": 2,
                "process_id": 1,
            },
            {},
            WHOLE,
        ),
        (
            {"process_id": 5, "num_processes": 9},
            ADDRESS,
            WHOLE | {"process_id": 5, "num_processes": 9},
        ),  # keys come first
        ({"local_device_ids": (2, 3)}, ADDRESS, WHOLE | {"local_device_ids": [2, 3]}),
        ({"num_processes": 1}, SLURM, None),  # alone, inside of a cluster
        ({}, SLURM, {}),  # jax reads the rest itself
        ({}, SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # the batch script itself
        ({}, {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, None),  # salloc
        ({}, {"OMPI_COMM_WORLD_SIZE": "4"}, {}),
        ({}, {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"distributed": True}, {}, {}),
    ],
)
def test_what_jax_is_told(changes, environ, expected):
    environ = {"JAX_PLATFORMS": "cpu"} | environ
    assert hosts.arguments(config(**changes), environ) == expected


@pytest.mark.parametrize(
    "changes, environ, words",
    [
        ({"num_processes": 2}, {}, "hosts.process_id (or JAX_PROCESS_ID)"),
        ({"process_id": 0}, {}, "hosts.coordinator_address (or JAX_COORDINATOR_ADDR"),
        ({}, ADDRESS | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID is 'one'"),
        ({"process_id": 2}, ADDRESS, "numbered from 0"),
        ({"coordinator_address": "10.0.0.1"}, ADDRESS, "give HOST:PORT"),
    ],
)
def test_what_is_lacking_is_said_at_once(changes, environ, words):
    with pytest.raises(ValueError) as error:
        hosts.arguments(config(**changes), {"JAX_PLATFORMS": "cpu"} | environ)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes, every",
    [
        ({}, True),  # one task a node: all of the node's GPUs
        ({"SLURM_NTASKS": "16"}, False),  # one GPU a task, as jax does
        ({"SLURM_NTASKS": "16", "CUDA_VISIBLE_DEVICES": "3"}, True),  # --gpus-per-task
        ({"SLURM_NTASKS": "16", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, False),
    ],
)
def test_a_task_of_slurm_sees_the_gpus_that_are_its_own(changes, every):
    assert hosts.sees_every_gpu(SLURM | changes) == every
    assert not hosts.sees_every_gpu(changes)  # outside of SLURM jax takes all


def test_joining_waits_as_long_as_it_is_told(monkeypatch):
    seen, waited = {}, []

    class Timer:
        def __init__(self, seconds, function, arguments):
            waited.append((seconds, arguments))

        start = cancel = lambda self: None

    monkeypatch.setattr(hosts.threading, "Timer", Timer)
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda **k: seen.update(k))
    for name, value in ADDRESS.items():
        monkeypatch.setenv(name, value)
    assert hosts.join(config(timeout=7))
    # jax's own end, a signal, comes later than the line
    assert seen == WHOLE | {"initialization_timeout": 67} and waited == [(7, [7])]


@pytest.mark.parametrize("distributed", [False, True])
def test_a_machine_that_is_no_pod_is_one_host_unless_the_user_insists(
    monkeypatch, distributed
):
    def initialize(**arguments):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts.jax.distributed, "initialize", initialize)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    if distributed:
        with pytest.raises(ValueError, match="name hosts.coordinator_address"):
            hosts.join(config(distributed=True))
    else:
        assert not hosts.join(config())


def test_hosts_that_differ_are_told_in_what(monkeypatch):
    """Two hosts, of which the second has a learning rate of its own."""
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    answers = []

    def gather(x):
        return np.stack([np.resize(a, np.shape(x)) for a in answers.pop(0)])

    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", gather)
    texts = [json.dumps({"a": "1", "train.learning_rate": r}) for r in ("0.1", "0.2")]
    rows = [np.frombuffer(t.encode(), np.uint8) for t in texts]
    for other in (rows[1], rows[0]):
        answers[:] = [[len(rows[0]), len(other)], [rows[0], other]]
        if other is rows[0]:
            hosts.agree({"a": 1, "train.learning_rate": 0.1})
            continue
        with pytest.raises(ValueError, match="host 1 has another train.learning_rate "):
            hosts.agree({"a": 1, "train.learning_rate": 0.1})


def test_who_the_hosts_are_is_not_kept_with_a_run():
    mine, alone = config(distributed=True, process_id=3, num_processes=4), config()
    assert config_lib.digest(mine) == config_lib.digest(alone)
    kept = config_lib.from_json(config_lib.to_json(mine))
    assert kept.to_dict() == config_lib.from_json(config_lib.to_json(alone)).to_dict()
    assert kept.hosts.to_dict() == alone.hosts.to_dict() and not kept.distributed
