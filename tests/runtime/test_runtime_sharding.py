"""The mesh and its edges; numpy is the oracle for every value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.runtime import sharding


def test_the_mesh_holds_every_device_once_under_auto_axes():
    mesh = sharding.mesh()
    assert mesh.axis_names == ("data",)
    assert set(mesh.devices.flat) == set(jax.devices()) and mesh.size == 8
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,)


@pytest.mark.parametrize("axis", [0, 1])
def test_batch_splits_one_axis_and_replicated_none(axis):
    mesh = sharding.mesh()
    x = np.arange(8 * 16.0, dtype=np.float32).reshape(8, 16)
    split = jax.device_put(x, sharding.batch(mesh, axis))
    shape = [8, 16]
    shape[axis] //= 8
    assert {s.data.shape for s in split.addressable_shards} == {tuple(shape)}
    whole = jax.device_put(x, sharding.replicated(mesh))
    assert {s.data.shape for s in whole.addressable_shards} == {(8, 16)}


def test_put_and_to_host_are_inverse_and_keep_the_row_order():
    mesh = sharding.mesh()
    tree = {
        "image": np.random.default_rng(0).standard_normal((24, 3, 2)),
        "label": np.arange(24, dtype=np.int32),
    }
    tree["image"] = tree["image"].astype(np.float32)
    there = sharding.put(mesh, tree)
    assert there["label"].sharding == sharding.batch(mesh)
    shards = sorted(there["label"].addressable_shards, key=lambda s: s.device.id)
    np.testing.assert_array_equal(shards[1].data, [3, 4, 5])
    back = sharding.to_host(there)
    assert isinstance(back["image"], np.ndarray)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_a_mean_over_a_split_batch_is_the_global_mean():
    mesh = sharding.mesh()
    x = np.random.default_rng(1).standard_normal((32, 5)).astype(np.float32)
    mean = jax.jit(
        lambda v: v.mean(0),
        in_shardings=sharding.batch(mesh),
        out_shardings=sharding.replicated(mesh),
    )(sharding.put(mesh, x))
    np.testing.assert_allclose(sharding.to_host(mean), x.mean(0), atol=1e-6)


def test_check_batch_names_the_sizes_that_work():
    mesh = sharding.mesh()
    sharding.check_batch(96, mesh)
    with pytest.raises(ValueError) as error:
        sharding.check_batch(100, mesh)
    assert str(error.value) == (
        "batch_size 100 is not divisible by the 8 devices: use 96 or 104"
    )
    with pytest.raises(ValueError, match=r"^probe.batch_size 3 .*: use 8$"):
        sharding.check_batch(3, mesh, "probe.batch_size")


def test_one_host_makes_every_row():
    assert sharding.host_rows(24) == slice(0, 24)


def test_host_rows_of_several_hosts_are_a_partition(monkeypatch):
    class Device:
        def __init__(self, process_index):
            self.process_index = process_index

    devices = [Device(i) for i in (0, 1, 2, 0, 1, 2)]  # interleaved, two a host
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    rows = []
    for host in range(3):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        rows.extend(np.arange(12)[sharding.host_rows(12)])
    assert rows == list(range(12))


def test_to_host_takes_numbers_and_bfloat16():
    value = sharding.to_host((jnp.bfloat16(1.5), 2.0))
    assert value[0] == 1.5 and value[1] == 2.0


@pytest.mark.parametrize("parts", [1, 2])
def test_the_gradient_of_a_shared_batch_is_that_of_the_whole_in_one_meeting(parts):
    """Of the mean of (a x + b - y)^2, by hand."""
    mesh, generator = sharding.mesh(), np.random.default_rng(2)
    x, y = generator.standard_normal((2, 32))
    params = {"a": np.float32(0.5), "b": np.float32(-1.0)}

    def loss(params, x, y):
        return jnp.mean(jnp.square(params["a"] * x + params["b"] - y))

    rows = sharding.put(mesh, (x.astype(np.float32), y.astype(np.float32)))
    shared = jax.jit(sharding.value_and_grad(loss, mesh, parts))
    value, grads = shared(params, *rows)
    error = 0.5 * x - 1 - y
    assert float(value) == pytest.approx(np.mean(error**2), rel=1e-5)
    assert float(grads["a"]) == pytest.approx(np.mean(2 * error * x), rel=1e-5)
    assert float(grads["b"]) == pytest.approx(np.mean(2 * error), rel=1e-5)
    program = shared.lower(params, *rows).compile().as_text()
    assert program.count(" all-reduce(") == 1 and "f32[3]{0} all-reduce(" in program
