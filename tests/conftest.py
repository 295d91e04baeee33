"""Every test sees eight CPU devices and strict broadcasting, as a pod would be used."""

import atexit
import fcntl
import gc
import os
import pathlib
import shutil
import tempfile

import jax
import jaxlib.version
import pytest

from configs import base
from progguide_jax.engine import probing, sampling, training

# Before any device is touched. The tests are about numbers, not about a machine: they
# run on the CPU unless JAX_PLATFORMS asks for another backend.
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the time goes into compiling small programs. They run for a moment, so they
# are compiled without optimisation, and kept for this run: for the other workers of
# pytest-xdist and for the processes that the tests start. Two may write one entry at
# once: a reader that finds half of it fails its checksum, warns, and compiles.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    if jaxlib.version.__version_info__ < (0, 11):
        # The first saves a third of the compile time. The second makes a program in
        # one part, where XLA makes 32 for as many cores: three tenths of what is left.
        # XLA dies of a flag that it does not know.
        flags.append("--xla_cpu_use_fusion_emitters=false")
        flags.append("--xla_cpu_parallel_codegen_split_count=1")
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="progguide_jax_tests_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    jax.config.update("jax_compilation_cache_dir", _cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


# Tracing leaves much behind that lives: looking through it often finds nothing.
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def no_power_cut():
    """Waiting for the disk at every file is a twentieth of the time of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """Workers of `pytest`: one a usable core, up to eight. Tests that are named on the
    command line run in its own process (`-n 2` overrides either)."""
    if config.args != config.getini("testpaths"):
        return 0
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return min(cores, 8)


_MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """A compiled program holds memory maps, of which Linux gives a process 65,530: XLA
    crashes beyond. Those of earlier tests are let go before they are that many."""
    yield
    if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > 35_000:
        jax.clear_caches()


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
    unet = c.model.unet
    unet.base_channels, unet.channel_mult, unet.num_res_blocks = 8, (1,), 1
    unet.attention_resolutions, c.model.label_dim = (), 16
    c.train.num_steps, c.train.batch_size = 6, 16
    c.train.learning_rate, c.train.warmup_steps = 1e-2, 4
    c.train.log_every, c.train.checkpoint_every, c.train.sample_every = 1, 2, 0
    c.train.sample_steps = 4
    c.probe.num_examples, c.probe.batch_size, c.probe.checkpoint_every = 960, 96, 2
    c.guidance.scale = 1.0
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
def make_once(tmp_path_factory):
    """(name, make) -> a folder that make(folder) has filled, once for all workers."""

    def made(name, make) -> str:
        root = pathlib.Path(tmp_path_factory.getbasetemp())
        if "PYTEST_XDIST_WORKER" in os.environ:
            root = root.parent  # the folder of the run: each worker has one in it
        folder, done = root / name, root / f"{name}.made"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                make(str(folder))
                done.touch()
        return str(folder)

    return made


@pytest.fixture(scope="session")
def trained(make_once) -> str:
    """A workdir in which `tiny` was trained. Do not write to it: copy it."""
    return make_once("trained", lambda folder: training.train(_tiny(), folder))


@pytest.fixture(scope="session")
def probed(trained, make_once) -> str:
    """The same with its curve. Do not write to it: copy it."""

    def make(folder):
        shutil.copytree(trained, folder)
        probing.probe(_tiny(), folder)

    return make_once("probed", make)


@pytest.fixture(scope="session")
def sampled(trained, make_once) -> str:
    """A workdir with the 40 images of `tiny`, made without a stop. Copy it to write."""

    def make(folder):
        shutil.copytree(trained, folder)
        sampling.generate(_tiny(), folder)

    return make_once("sampled", make)


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
