"""Samplers of the tilted density, chosen by a config."""

import jax
import numpy as np
import pytest

from configs import two_gaussians
from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import noise, particles, tilted
from progguide_jax.guidance import references
from progguide_jax.runtime import sharding
from progguide_jax.systems import build, drawing, specs, validation

MODEL = gaussians.TwoGaussians(0.5, 0.25, (1,))
OMEGA = 1.5
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def config():
    config = two_gaussians.get_config("twin")
    config.sample.num_steps = 6
    return config


def changed(config, **values):
    config.update_from_flattened_dict(
        {k.replace("__", "."): v for k, v in values.items()}
    )
    return config


def spec_of(config, omega):
    steps = config.sample.num_steps
    omega = np.broadcast_to(omega, (*np.shape(omega)[:-1], steps))
    return specs.of(config, {"null": omega.astype(np.float32)})


def draw(config, index, omega=OMEGA, labels=None):
    system = MODEL.system(build.noise_schedule(config))
    labels = index % 2 if labels is None else labels
    return drawing.draw(system, spec_of(config, omega), index, labels, sharding.mesh())


def by_hand(config, name, index, **settings):
    """The sampler of the table, called with the noise of `drawing`."""
    ns = build.noise_schedule(config)
    keys = noise.image_keys(jax.random.key(config.sample.seed), index)
    branches = references.branches(MODEL.system(ns), index % 2, {"null": {}})
    return tilted.sample(
        name, branches, noise.initial_noise(noise.fold_in(keys, 0), (1,)),
        specs.grid(config), key=noise.fold_in(keys, 1), **settings,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name, settings",
    [
        ("gibbs", {"sigma": 2.0, "repeats": 3, "draft": 0.5}),
        ("pcg", {"corrections": 2, "size": 0.5}),
        ("pcg", {"corrections": 0}),
    ],
)
def test_it_is_the_sampler_of_the_table_with_omega_of_the_grid(config, name, settings):
    config.sample.tilted = name
    changed(config, **{f"sample__{name}__{k}": v for k, v in settings.items()})
    validation.check_command(config)
    index, omega = np.arange(8), np.linspace(0.5, 3, 6)
    if name == "gibbs":  # Python takes omega at the levels of a repeat
        r = specs.grid(config).r[:-1]
        own = omega[r <= settings.get("sigma", 1.0)]
    else:
        own = omega
    ours = draw(config, index, omega)
    theirs = by_hand(config, name, index, omega=own, **settings)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_curve_for_each_class(config):
    config.sample.tilted = "gibbs"
    rows = np.stack([np.linspace(0, 3, 6), np.linspace(2, 1, 6)])
    spec, alone = spec_of(config, rows), spec_of(config, rows[1])
    assert spec.per_class and not alone.per_class
    np.testing.assert_array_equal(spec.omega["null"][1], alone.omega["null"])
    own = specs.grid(config).r[:-1] <= 1.0
    expected = np.append(0, rows[0][own])
    np.testing.assert_allclose(spec.omega["null"][0], expected, rtol=1e-6)


def tilt_of(label, omega):
    """Mean and variance of p_c^(1 + omega) p^(-omega) on a line, by quadrature."""
    x = np.linspace(-4, 4, 20_001)
    normal = [np.exp(-((x - m) ** 2) / (2 * 0.25**2)) for m in (-0.5, 0.5)]
    density = normal[label] ** (1 + omega) * (sum(normal) / 2) ** -omega
    density /= density.sum()
    mean = (density * x).sum()
    return mean, (density * (x - mean) ** 2).sum()


def test_one_particle_of_each_image_has_the_law_of_the_tilt(config):
    """Classes that overlap. CFG's SDE would have the mean 0.60."""
    config.sample.spacing, config.sample.num_steps = "log_snr", 40
    changed(config, sample__tilted="fkc", sample__fkc__particles=128)
    validation.check_command(config)
    count, omega = 400, 1.0
    x = draw(config, np.arange(count), omega, np.ones(count, int))
    mean, variance = tilt_of(1, omega)
    assert abs(x.mean() - mean) < 3 * x.std() / np.sqrt(count) < 0.04
    assert x.var() == pytest.approx(variance, rel=0.25)


def test_the_particle_that_is_kept_is_drawn():
    """Each of a group as often as the next: chi-square of 3 degrees of freedom."""
    keys = noise.image_keys(jax.random.key(0), np.arange(4000))
    x = np.tile(np.arange(4.0), 4000)[:, None]
    found = np.asarray(particles.one_of(jax.numpy.asarray(x), keys, 4)).ravel()
    counts = np.bincount(found.astype(int), minlength=4)
    assert np.sum((counts - 1000.0) ** 2 / 1000) < 16  # one in a thousand


def test_image_i_depends_on_nothing_but_its_index(config):
    changed(config, sample__tilted="fkc", sample__fkc__particles=4)
    whole, order = draw(config, np.arange(8)), np.array([3, 12, 5, 0, 7, 9, 15, 6])
    mixed, here = draw(config, order), order < 8
    np.testing.assert_allclose(mixed[here], whole[order[here]], atol=1e-6)
    assert len(np.unique(np.concatenate([whole, mixed[~here]]))) == 11


def test_provenance_has_it_only_where_it_is_chosen(config):
    plain = spec_of(config, OMEGA).about
    assert "tilted" not in plain
    config.sample.tilted = "pcg"
    about = spec_of(config, OMEGA).about
    assert about.pop("tilted") == {"name": "pcg", "corrections": 1, "size": 1.0}
    assert about == plain


def test_particles_have_no_path(config):
    config.sample.tilted = "fkc"
    system, index = MODEL.system(build.noise_schedule(config)), np.arange(8)
    spec = spec_of(config, OMEGA)
    with pytest.raises(ValueError, match="no image has a path: set sample.tilted=none"):
        drawing.trace(system, spec, index, index % 2, sharding.mesh())


FKC = {"sample.tilted": "fkc"}


@pytest.mark.parametrize(
    "values, words",
    [
        ({"sample.fkc.particles": 8}, "sample.fkc.particles is set and sample.tilted "
         "is 'none': leave it out, or set sample.tilted=fkc"),
        (FKC | {"guidance.schedule": "linear"}, "guidance.schedule is 'linear' and "
         "sample.tilted is 'fkc': fkc is exact for one omega, set "
         "guidance.schedule=static"),
        (FKC | {"guidance.rule": "apg"}, "set guidance.rule=cfg"),
        (FKC | {"guidance.projection": "clip"}, "set guidance.projection=none"),
        (FKC | {"sample.trace": True}, "set sample.trace=False"),
        (FKC | {"sample.double_batch": True}, "set sample.double_batch=False"),
        (FKC | {"sample.solver": "heun"}, "fkc has its own steps, set sample.solver"),
        (FKC | {"sample.ddim.eta": 1.0}, "sample.ddim.eta is set and sample.tilted is"),
        (FKC | {"sample.fkc.particles": 0}, "sample.fkc: particles must be at least 1"),
        (FKC | {"sample.fkc.threshold": 2.0}, "sample.fkc: threshold must lie in"),
        (FKC | {"guidance.references": ("null", "icg")}, "name one reference"),
        (FKC | {"noise.zero_terminal_snr": True, "train.predicts": "v",
                "sample.spacing": "trailing"}, "sample.fkc: the first level is pure"),
        ({"sample.tilted": "gibbs", "sample.gibbs.sigma": 1e-4},
         "sample.gibbs: no level is at most sigma = 0.0001 noisy"),
        ({"sample.tilted": "gibbs", "sample.solver": "unipc",
          "sample.unipc.restart": True}, "sample.unipc.restart is set"),
        ({"sample.tilted": "pcg", "sample.pcg.size": 9.0}, "sample.pcg: corrections"),
        ({"sample.tilted": "pcg", "sample.solver": "ddpm"}, "set sample.solver=ddim"),
        ({"sample.tilted": "pcg", "guidance.rule": "cfgpp", "guidance.scale": -0.5},
         "sample.tilted 'pcg': this rule denoises with one prediction"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(config, values, words):
    config.update_from_flattened_dict(values)
    with pytest.raises(ValueError) as error:
        validation.check_command(config)
    assert words in str(error.value) and "\n" not in str(error.value)
