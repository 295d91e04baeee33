"""Images that are not finite are never handed on: the step and the branch are named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import two_gaussians
from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import prediction
from progguide_jax.guidance import rules
from progguide_jax.runtime import sharding
from progguide_jax.systems import build, drawing, specs

INDEX = np.arange(8)


@pytest.fixture
def config():
    config = two_gaussians.get_config("twin")
    config.sample.num_steps = 10
    return config


def system(config, broken=lambda level, label: False):
    """The exact model, nan wherever `broken` says so."""
    made = gaussians.TwoGaussians(mean=0.5, std=0.25, shape=(8, 8, 1))
    made = made.system(build.noise_schedule(config))
    fn = made.branch(jnp.zeros(1, int)).fn

    def raw(x, level, label):
        lost = jnp.broadcast_to(broken(level, label), label.shape)
        return jnp.where(lost[:, None, None, None], jnp.nan, fn(x, level, label))

    broken_fn = jax.tree_util.Partial(raw)
    return made._replace(branch=lambda label: prediction.Branch(broken_fn, label))


def draw(config, model, **changes):
    spec = specs.of(config, {"null": np.ones(10, np.float32)})
    spec = dataclasses.replace(spec, **changes)
    return drawing.draw(model, spec, INDEX, INDEX % 2, sharding.mesh())


def test_finite_images_come_through(config):
    assert np.isfinite(draw(config, system(config))).all()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (
            lambda level, label: (label == 2) & (level.t < 350),
            r"image 0 .* evaluation 7 of 10 \(t = 300\): .* branch 'null' is not fin",
        ),
        (
            lambda level, label: (label == 1) & (level.t < 50),
            r"image 1 .* evaluation 10 of 10 \(t = 0\): .* branch 'cond' is not",
        ),
    ],
)
def test_the_step_and_the_branch_are_named(config, broken, words):
    """leading, 10 steps: t = 900, 800, ... 0."""
    with pytest.raises(FloatingPointError, match=words):
        draw(config, system(config, broken))


def test_a_rule_that_overflows_is_no_fault_of_the_network(config):
    def rule(evaluate, step, carry):
        (c,) = evaluate("cond")
        return step.from_eps(c.eps / (step.t > 450)), carry

    with pytest.raises(
        FloatingPointError, match=r"6 of 10 \(t = 400\): all predictions are finite"
    ):
        draw(config, system(config), rule=rules.of(rule))


@pytest.mark.slow
def test_particles_name_the_step_and_the_branch(config):
    """Of two an image; leading, 10 steps: t = 900, 800, ... 0."""
    config.sample.tilted, config.sample.fkc.particles = "fkc", 2
    model = system(config, lambda level, label: (label == 1) & (level.t < 350))
    with pytest.raises(
        FloatingPointError,
        match=r"^image 1 .* evaluation 7 of 10 \(t = 300\): .* branch 'cond' is not",
    ):
        draw(config, model)
