"""Trained networks disturbed inside: as systems, as configs, and their early exits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar10
from progguide_jax.diffusion import noise
from progguide_jax.guidance import references
from progguide_jax.systems import build, guidance_checks, trained, unet_checks

LABELS = np.array([0, 1, 2, 0])
X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def unet(make_tiny):
    """(config, System) of a U-Net with an exit, no parameter of it 0."""
    config = make_tiny()
    config.model.unet.update(
        channel_mult=(1, 2), attention_resolutions=(4,), exit=4, sigma_skip=True
    )
    network, draws = build.network(config), np.random.default_rng(1)
    init = functools.partial(build.init_params, network, (8, 8, 3))
    fresh = jax.jit(init)(jax.random.key(0))
    moved = jax.tree.map(lambda x: x + 0.3 * draws.normal(size=x.shape), fresh)
    moved = jax.tree.map(lambda x: x.astype(np.float32), moved)
    return config, trained.of(config, moved, {"step": 1, "digest": ""})


def said(system, branch, seed=0):
    level = system.noise_schedule.level(np.array([3, 8, 15, 19]))
    keys = noise.image_keys(jax.random.key(seed), jnp.arange(4))
    extra = {"keys": keys} if branch.random else {}
    return np.asarray(jax.jit(branch.fn)(X, level, branch.cond, **extra))


def test_every_way_is_another_answer_and_its_neutral_setting_none(unet):
    """Those of PAG and of the exit are held against NumPy in tests/networks."""
    _, system = unet
    plain = said(system, system.branch(LABELS))
    found = {
        "identity_attention": said(
            system, system.perturbed(LABELS, "identity_attention")
        ),
        "exit": said(system, system.perturbed(LABELS, "exit")),
    }
    for way, setting, value in (
        ("blurred_queries", "sigma", 1.0),
        ("dropped_blocks", "rate", 0.3),
    ):
        off = system.perturbed(LABELS, way, **{setting: 0.0})
        np.testing.assert_array_equal(said(system, off), plain)
        on = system.perturbed(LABELS, way, **{setting: value})
        found[way] = said(system, on)
        assert on.random == (way == "dropped_blocks")
        assert np.array_equal(said(system, on, seed=1), found[way]) != on.random
    for way, answer in found.items():
        assert np.abs(answer - plain).reshape(4, -1).max(1).min() > 1e-3, way


def test_layers_are_chosen(unet):
    _, system = unet
    way = "identity_attention"
    answers = [
        said(system, system.perturbed(LABELS, way, layers=layers))
        for layers in (("all",), ("4",), ("middle",), ("up1",))
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert len({a.tobytes() for a in answers}) == 3


def test_numbers_are_arguments_of_one_program(unet):
    """As the branch of the next batch is, which has another function object."""
    _, system = unet
    traces = []

    @jax.jit
    def run(branch):
        traces.append(1)
        level = system.noise_schedule.level(np.array([3, 8, 15, 19]))
        return branch.fn(X, level, branch.cond)

    for sigma in (0.5, 1.0, np.inf):
        run(system.perturbed(LABELS, "blurred_queries", sigma=sigma))
    assert len(traces) == 1


def test_a_network_without_an_exit_has_the_origin_that_it_had(make_tiny):
    config = make_tiny()
    network = trained.of(config, {}, {}).origin["network"]
    assert "exit" not in network
    config.model.unet.channel_mult, config.model.unet.exit = (1, 1), 4
    assert trained.of(config, {}, {}).origin["network"]["exit"] == 4


def smoke(**changes):
    config = cifar10.get_config("smoke")
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"guidance.references": ("null", "pag"), "guidance.pag.layers": ("midle",)},
         "^guidance.pag: unknown layer 'midle': use one of all, 4, down1_0_attention"),
        ({"guidance.references": ("null", "seg"), "guidance.seg.sigma": -1.0},
         "^guidance.seg: sigma is -1.0: use 0 ... inf"),
        ({"guidance.references": ("s2",), "guidance.s2.layers": ("16",)},
         "^guidance.s2: unknown layer '16': use one of all, 4, 8, down0_0, "),
        ({"guidance.references": ("sag",)},
         "references holds sag, which uses null: add it, as in null,sag"),
        ({"guidance.references": ("null", "sag"), "guidance.sag.layer": "32"},
         "^guidance.sag: unknown layer '32'"),
        ({"guidance.references": ("internal",)},
         "^guidance.internal: the network has no early exit: train one with "
         "model.unet.exit"),
        ({"guidance.references": ("swg",), "guidance.swg.size": 5},
         "^guidance.swg: the network does not take windows of 5 x 5 pixels: use a s"),
        ({"guidance.references": ("swg",), "guidance.swg.size": 8},
         "^guidance.swg: size is 8: use less than the side, 8 pixels"),
        ({"guidance.references": ("swg",), "guidance.swg.size": 4},
         "^guidance.swg: 2 x 2 windows of 4 pixels in 8 x 8 do not overlap: use a lar"),
        ({"guidance.references": ("swg",), "guidance.swg.windows": 1},
         "^guidance.swg: windows is 1: use 2 or more a side"),
        ({"guidance.references": ("pag",), "model.name": "pix_film"},
         "^guidance.pag: the network PixFiLM has no layer to disturb: use a U-Net"),
    ],
)  # fmt: skip
def test_configs_that_a_network_cannot_serve(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        guidance_checks.check(smoke(**changes))
    assert "\n" not in str(error.value)


def test_configs_that_it_can():
    names = [name for name, e in references.REFERENCES.items() if e.inside]
    config = smoke(**{"guidance.references": ("null", *names)})
    config.model.unet.exit, config.guidance.s2.layers = 4, ("8", "middle")
    guidance_checks.check(config)


@pytest.mark.parametrize("width", [8, 2, -4])
def test_an_exit_is_at_a_width_of_the_decoder(width):
    with pytest.raises(ValueError, match=f"exit is {width}: use 0, or a .* last: 4"):
        unet_checks.check(smoke(**{"model.unet.exit": width}))
    unet_checks.check(smoke(**{"model.unet.exit": 4}))
