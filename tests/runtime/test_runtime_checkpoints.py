"""Saved is what was there at save time, and damage never passes for a checkpoint."""

import collections
import errno
import json
import os
import shutil
import signal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from progguide_jax.runtime import checkpoints, sharding

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: tuple


def make_state(step: int, width: int = 64) -> State:
    # random bits do not compress, so that a changed byte in a file is one in an array
    bits = np.random.default_rng(step).integers(0, 2**31, (2, width, 64))
    params = {
        "conv": {"kernel": jnp.asarray(bits[0], jnp.int32).astype(jnp.float32)},
        "half": jnp.full((3,), step, jnp.bfloat16),
    }
    ema = {
        "conv": {"kernel": jnp.asarray(bits[1] / 7, jnp.float32)},
        "half": jnp.full((3,), -step, jnp.bfloat16),  # never the same buffer twice
    }
    state = State(jnp.int32(step), params, ema, OPTIMIZER.init(params))
    return jax.device_put(state, sharding.replicated(sharding.mesh()))


def abstract(state: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three checkpoints, read-only: copy before damaging one."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    with checkpoints.Checkpoints(str(directory), keep=3) as run:
        for step in (10, 20, 30):
            assert run.save(step, make_state(step), {"config_digest": f"c{step}"})
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def largest_file(folder) -> str:
    files = [os.path.join(d, f) for d, _, names in os.walk(folder) for f in names]
    return max(files, key=os.path.getsize)


def flip_a_byte(folder) -> None:
    path = largest_file(folder)
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_round_trip_of_the_newest_and_of_a_chosen_step(saved):
    with checkpoints.Checkpoints(str(saved)) as run:
        assert run.latest_step() == 30
        state, metadata = run.restore(abstract(make_state(0)))
        assert_same(state, make_state(30))
        assert metadata == {"config_digest": "c30"}
        state, metadata = run.restore(abstract(make_state(0)), step=10)
        assert_same(state, make_state(10))
        assert metadata == {"config_digest": "c10"}


def test_the_ema_alone_can_be_read(saved, tmp_path):
    only_ema = tmp_path / "checkpoints"
    shutil.copytree(saved, only_ema, ignore=shutil.ignore_patterns("state"))
    with checkpoints.Checkpoints(str(only_ema)) as run:
        target = abstract(make_state(0)).ema_params
        ema, step, metadata = run.restore_ema(target)
    assert step == 30 and metadata == {"config_digest": "c30"}
    assert_same(ema, make_state(30).ema_params)


def test_the_ema_is_stored_once(saved):
    meta = json.loads((saved / "30" / "meta" / "metadata").read_text())
    names = set(meta["leaves"]["state"])
    assert "step" in names and "params/conv/kernel" in names
    assert not any("ema" in name for name in names)
    assert set(meta["leaves"]["ema"]) == {"conv/kernel", "half"}


def test_any_number_of_devices_reads_what_eight_wrote(saved):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[5])
    split = sharding.batch(sharding.mesh())
    with checkpoints.Checkpoints(str(saved)) as run:
        for chosen, spec in ((one, None), (None, None), (split, "data")):
            target = jax.tree.map(
                lambda x, chosen=chosen: jax.ShapeDtypeStruct(
                    x.shape, x.dtype, sharding=chosen if x.ndim == 2 else None
                ),
                make_state(0),
            )
            state, _ = run.restore(target)
            assert_same(state, make_state(30))
            kernel = state.params["conv"]["kernel"]
            assert len(kernel.sharding.device_set) == (1 if chosen is one else 8)
            if spec:
                assert kernel.sharding.spec == jax.sharding.PartitionSpec(spec)


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    state = make_state(1, width=8_000)  # 2 MB a leaf
    expected = jax.device_get(state)
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with checkpoints.Checkpoints(str(tmp_path / "c")) as run:
        run.save(1, state, {})
        for _ in range(5):
            state = spoil(state)
        jax.block_until_ready(state)
    with checkpoints.Checkpoints(str(tmp_path / "c")) as run:
        restored, _ = run.restore(abstract(state))
    assert_same(restored, expected)


def test_an_error_in_the_loop_waits_for_the_pending_save(tmp_path):
    directory = tmp_path / "c"
    with pytest.raises(KeyError), checkpoints.Checkpoints(str(directory)) as run:
        run.save(7, make_state(7, width=40_000), {})
        raise KeyError
    assert (directory / "7").is_dir()


def test_saving_a_step_twice_does_nothing_and_old_ones_go(tmp_path):
    with checkpoints.Checkpoints(str(tmp_path / "c"), keep=2) as run:
        assert run.save(1, make_state(1), {})
        assert not run.save(1, make_state(2), {})
        run.save(2, make_state(2), {})
        run.save(3, make_state(3), {})
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"]


def test_without_a_checkpoint_the_error_says_so(tmp_path, saved):
    with checkpoints.Checkpoints(str(tmp_path / "c")) as run:
        assert run.latest_step() is None
        with pytest.raises(FileNotFoundError, match="no checkpoint in .*: train first"):
            run.restore_ema({})
    with checkpoints.Checkpoints(str(saved)) as run:
        with pytest.raises(FileNotFoundError, match=r"step 15 .* \[30, 20, 10\]"):
            run.restore(abstract(make_state(0)), step=15)


@pytest.mark.parametrize("damage", ["byte", "metadata", "checksum", "gone"])
def test_a_damaged_newest_checkpoint_falls_back(copy, damage, caplog):
    newest = copy / "30"
    meta = newest / "meta" / "metadata"
    if damage == "byte":
        flip_a_byte(newest / "state")
    elif damage == "metadata":
        meta.write_text(meta.read_text()[:100])
    elif damage == "checksum":  # of the metadata itself
        meta.write_text(meta.read_text().replace("c30", "c31"))
    else:
        shutil.rmtree(newest / "ema")
    with checkpoints.Checkpoints(str(copy)) as run:
        state, metadata = run.restore(abstract(make_state(0)))
        assert_same(state, make_state(20))
        assert metadata == {"config_digest": "c20"}
        warnings = [r.getMessage() for r in caplog.records if r.name == "root"]
        assert len(warnings) == 1 and "going back to step 20: step 30" in warnings[0]
        if damage == "byte":
            assert "checksum" in warnings[0]
        # training comes to step 30 again, and saves it
        assert run.save(25, state, {}) and run.save(30, make_state(30), {})
    with checkpoints.Checkpoints(str(copy)) as run:
        assert_same(run.restore(abstract(make_state(0)))[0], make_state(30))
    assert (copy / "30.damaged").is_dir()


def test_the_ema_of_another_step_is_never_read(copy):
    """Images would come from an older network than the one that was trained."""
    flip_a_byte(copy / "30" / "ema")
    target = abstract(make_state(0)).ema_params
    words = r"damaged checkpoint in .*step 30: the checksum of .*\[30, 20, 10\]"
    with checkpoints.Checkpoints(str(copy)) as run:
        with pytest.raises(ValueError, match=words) as error:
            run.restore_ema(target)
        ema, step, _ = run.restore_ema(target, step=20)
    assert step == 20 and "run train.py" in str(error.value)
    assert "\n" not in str(error.value)
    assert_same(ema, make_state(20).ema_params)
    assert sorted(p.name for p in copy.iterdir()) == ["10", "20", "30"]


def test_when_all_are_damaged_nothing_is_returned_or_moved(copy):
    for step in (10, 20, 30):
        flip_a_byte(copy / str(step) / "state")
    with checkpoints.Checkpoints(str(copy)) as run:
        with pytest.raises(ValueError, match="^no undamaged checkpoint in ") as error:
            run.restore(abstract(make_state(0)))
        with pytest.raises(ValueError, match="set --config.checkpoint.step to another"):
            run.restore(abstract(make_state(0)), step=20)
    assert len(str(error.value).splitlines()) == 1
    assert sorted(p.name for p in copy.iterdir()) == ["10", "20", "30"]


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda s: abstract(make_state(0, width=32)),
            r"params/conv/kernel is float32\[64,64\] there and float32\[32,64\] here",
        ),
        (
            lambda s: s.replace(params={"conv": s.params["conv"]}),
            r"params/half is bfloat16\[3\] there and missing here",
        ),
        (
            lambda s: s.replace(params={**s.params, "new": s.step}),
            r"params/new is missing there and int32\[\] here",
        ),
        (
            lambda s: s.replace(
                params={
                    **s.params,
                    "half": jax.ShapeDtypeStruct((3,), jnp.float32),
                }
            ),
            r"params/half is bfloat16\[3\] there and float32\[3\] here",
        ),
    ],
)
def test_a_checkpoint_of_another_config_is_refused_by_name(saved, change, words):
    with checkpoints.Checkpoints(str(saved)) as run:
        with pytest.raises(ValueError, match=words) as error:
            run.restore(change(abstract(make_state(0))))
    message = str(error.value)
    assert len(message.splitlines()) == 1 and "the config differs" in message


def test_a_full_disk_is_one_line_and_keeps_what_is_there(tmp_path, monkeypatch):
    directory = tmp_path / "c"
    usage = collections.namedtuple("usage", "total used free")
    with pytest.raises(OSError, match="no space left .* MiB needed, 0 free") as error:
        with checkpoints.Checkpoints(str(directory)) as run:
            run.save(1, make_state(1), {"good": True})
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1))
            run.save(2, make_state(2), {})
    assert error.value.errno == errno.ENOSPC
    assert str(directory) in str(error.value) and "\n" not in str(error.value)
    monkeypatch.undo()  # space is made
    with checkpoints.Checkpoints(str(directory)) as run:
        state, metadata = run.restore(abstract(make_state(0)))
        assert metadata == {"good": True}
        assert_same(state, make_state(1))
        assert run.save(2, make_state(2), {})
    with checkpoints.Checkpoints(str(directory)) as run:
        assert_same(run.restore(abstract(make_state(0)))[0], make_state(2))


def test_a_disk_that_fills_up_while_writing_is_the_same_error(tmp_path, monkeypatch):
    words = 'RESOURCE_EXHAUSTED: Error writing "w/0"\n No space left on device'

    def fail():
        raise ValueError(words)  # tensorstore's own

    with pytest.raises(OSError, match="No space left on device.*: make some") as error:
        with checkpoints.Checkpoints(str(tmp_path / "c")) as run:
            monkeypatch.setattr(run._manager, "wait_until_finished", fail)
    assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)


def test_an_error_of_the_loop_is_not_hidden_by_one_of_the_save(tmp_path, monkeypatch):
    def fail():
        raise ValueError("No space left on device")

    with pytest.raises(FloatingPointError):
        with checkpoints.Checkpoints(str(tmp_path / "c")) as run:
            monkeypatch.setattr(run._manager, "wait_until_finished", fail)
            raise FloatingPointError


def test_a_step_may_be_damaged_twice(copy):
    for _ in range(2):
        flip_a_byte(copy / "30" / "state")
        with checkpoints.Checkpoints(str(copy)) as run:
            assert run.restore(abstract(make_state(0)))[0].step == 20
            run.save(30, make_state(30), {})
    assert sorted(p.name for p in copy.iterdir()) == ["10", "20", "30", "30.damaged"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_once_and_is_given_back(tmp_path, number):
    before = signal.getsignal(number)
    with checkpoints.Checkpoints(str(tmp_path / "c")) as run:
        assert signal.getsignal(number) == before  # until somebody asks
        assert not run.should_stop()
        os.kill(os.getpid(), number)
        assert run.should_stop() and run.should_stop()
        assert signal.getsignal(number) == before  # a second one ends it
    with checkpoints.Checkpoints(str(tmp_path / "c")) as run:
        assert not run.should_stop()
    assert signal.getsignal(number) == before


def test_one_host_shares_its_directory_with_itself(tmp_path):
    checkpoints.check_shared(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_saves_that_were_killed_are_cleared_by_the_one_who_trains(copy):
    left = copy / "35.orbax-checkpoint-tmp"  # a step that is never saved again
    shutil.copytree(copy / "30" / "state", left / "state")
    with checkpoints.Checkpoints(str(copy)):
        pass
    assert left.exists()  # it may be a save of now
    with checkpoints.Checkpoints(str(copy), clear=True) as run:
        assert run.save(40, make_state(40), {})
    assert sorted(p.name for p in copy.iterdir()) == ["20", "30", "40"]
