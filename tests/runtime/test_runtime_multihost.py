"""Two processes with two devices each are one machine of four (gloo on loopback)."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.multihost]

HEAD = """
import os, sys
import flax.struct, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
port, index, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(
    f"127.0.0.1:{port}", 2, index, heartbeat_timeout_seconds=20
)
from progguide_jax.runtime import checkpoints, sharding, writers

@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: tuple

mesh = sharding.mesh()
assert mesh.size == 4 and jax.local_device_count() == 2

def make(step):
    w = jnp.arange(12.0).reshape(3, 4) + step
    return State(jnp.int32(step), {"w": w}, {"w": -w}, (2 * w,))

create = jax.jit(make, static_argnums=0, out_shardings=sharding.replicated(mesh))
target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make(0))
"""

WORK = """
checkpoints.check_shared(folder)
whole = np.arange(40, dtype=np.float32).reshape(8, 5)
rows = sharding.host_rows(8)
assert rows == slice(4 * index, 4 * index + 4)
assert sharding.from_host_0(np.full(3, 5 + index)).tolist() == [5, 5, 5]
x = sharding.put(mesh, {"x": whole[rows]})["x"]
assert x.shape == (8, 5) and not x.is_fully_addressable
np.testing.assert_array_equal(sharding.to_host(x), whole)
mean = jax.jit(lambda v: v.mean(0), out_shardings=sharding.replicated(mesh))(x)
np.testing.assert_allclose(sharding.to_host(mean), whole.mean(0))

ck = folder + "/checkpoints"
with checkpoints.Checkpoints(ck, keep=2) as run:
    for step in (1, 2, 3):
        assert run.save(step, create(step), {"step": step})
    assert not run.should_stop()
if index == 0:
    data = os.path.join(ck, "3", "meta", "metadata")
    open(data, "w").write("{")
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("damaged")
with checkpoints.Checkpoints(ck, keep=2) as run:
    assert not run.is_whole(3, target) and run.is_whole(2, target)
    try:
        run.restore_ema(target.ema_params)
    except ValueError as error:
        assert "damaged checkpoint" in str(error), error
    state, metadata = run.restore(target)
    assert metadata == {"step": 2}
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(make(2)), strict=True):
        assert len(a.sharding.device_set) == 4
        np.testing.assert_array_equal(sharding.to_host(a), b)
    assert run.save(3, state, {"step": 3})
with writers.MetricWriter(folder) as writer:
    writer.scalars(1, {"loss": 1.0})
print("done", index)
"""

UNSHARED = """
try:
    checkpoints.check_shared(f"{folder}/{index}", timeout=1.0)
except ValueError as error:
    assert "is not shared: host 1 does not see" in str(error), error
    print("refused", index)
"""


def two_processes(code: str, folder: pathlib.Path) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = folder / "program.py"
    program.write_text(HEAD + code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    logs = [folder / f"log{i}" for i in (0, 1)]
    processes = []
    try:
        for i, log in enumerate(logs):
            with log.open("w") as out:
                command = [sys.executable, program, str(port), str(i), folder]
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=out, stderr=out)
                )
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    return [log.read_text() for log in logs]


def test_two_hosts_share_batches_checkpoints_and_one_metrics_file(tmp_path):
    logs = two_processes(WORK, tmp_path)
    assert "done 0" in logs[0] and "done 1" in logs[1]
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["2", "3", "3.damaged"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_folder_that_is_not_shared_is_refused_by_all(tmp_path):
    logs = two_processes(UNSHARED, tmp_path)
    assert "refused 0" in logs[0] and "refused 1" in logs[1]
