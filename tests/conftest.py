"""Every test sees eight CPU devices and strict broadcasting, as a pod would be used."""

import atexit
import os
import shutil
import tempfile

import jax
import pytest

from configs import base
from progguide_jax import generation, probing, training

# Before any device is touched. The tests are about numbers, not about a machine: they
# run on the CPU unless JAX_PLATFORMS asks for another backend.
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the time goes into compiling the same small programs: keep them for this run,
# for the processes that it starts too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="progguide_jax_tests_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    jax.config.update("jax_compilation_cache_dir", _cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def x64():
    """Float64 on the device for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def _tiny():
    """The smallest U-Net run: 8x8 images, 3 classes, T = 20; commands take seconds."""
    c = base.get_config()
    c.data.name, c.data.image_size, c.data.channels = "synthetic", 8, 3
    c.data.num_classes, c.data.num_examples = 3, 96
    c.noise.num_timesteps = 20
    c.model.base_channels, c.model.channel_mult, c.model.num_res_blocks = 8, (1,), 1
    c.model.attention_resolutions, c.model.label_dim = (), 16
    c.train.num_steps, c.train.batch_size = 6, 16
    c.train.learning_rate, c.train.warmup_steps = 1e-2, 4
    c.train.log_every, c.train.checkpoint_every, c.train.sample_every = 1, 2, 0
    c.train.sample_steps = 4
    c.probe.num_examples, c.probe.batch_size, c.probe.checkpoint_every = 960, 96, 2
    c.guidance.scale, c.guidance.t_max = 1.0, 19
    c.sample.num_images, c.sample.batch_size, c.sample.num_steps = 40, 16, 4
    return c


@pytest.fixture
def tiny():
    """A fresh tiny config."""
    return _tiny()


@pytest.fixture(scope="session")
def make_tiny():
    """() -> a fresh tiny config, for fixtures that live longer than a test."""
    return _tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> str:
    """A workdir in which `tiny` was trained. Do not write to it: copy it."""
    workdir = str(tmp_path_factory.mktemp("trained"))
    training.train(_tiny(), workdir)
    return workdir


@pytest.fixture(scope="session")
def probed(trained, tmp_path_factory) -> str:
    """The same with its curve. Do not write to it: copy it."""
    workdir = str(tmp_path_factory.mktemp("probed") / "run")
    shutil.copytree(trained, workdir)
    probing.probe(_tiny(), workdir)
    return workdir


@pytest.fixture(scope="session")
def sampled(trained, tmp_path_factory) -> str:
    """A workdir with the 40 images of `tiny`, made without a stop. Copy it to write."""
    workdir = str(tmp_path_factory.mktemp("sampled") / "run")
    shutil.copytree(trained, workdir)
    generation.generate(_tiny(), workdir)
    return workdir


@pytest.fixture
def workdir_copy(tmp_path):
    """workdir -> a copy of it to write to."""
    return lambda workdir: str(shutil.copytree(workdir, tmp_path / "copy"))


@pytest.fixture
def one_device(monkeypatch):
    """The package sees the first device only."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    monkeypatch.setattr(jax, "local_device_count", lambda *args: 1)
