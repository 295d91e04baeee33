"""What every system owes: networks of the registry by each prediction, exact models.

A network is covered by its line in DENOISERS.
"""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax import networks
from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import noise, prediction, process, system
from progguide_jax.guidance import references
from progguide_jax.runtime import checkpoints, digests, sharding
from progguide_jax.systems import build, drawing, specs, trained

INDEX = np.arange(8)
LABELS = INDEX % 2
EVERY = [(name, kind) for name in networks.DENOISERS for kind in process.PREDICTIONS]
EXACT = "two_gaussians"
WORLDS = [*EVERY, (EXACT, "eps")]
# every network is here, and every prediction by the one that compiles fastest
QUICK = [w for w in WORLDS if w[0] == "pix_film" or w[1] == "eps"]


class World(NamedTuple):
    """config: of the specs; make() gives the system, each time anew; state: what was
    trained, or None."""

    config: Any
    make: Callable[[], system.System]
    state: build.TrainState | None


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Programs for one compile faster; tests/engine samples on eight."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *args: first)
        patch.setattr(jax, "local_device_count", lambda *args: 1)
        yield


@pytest.fixture(scope="module")
def fresh(make_tiny):
    """name -> (config, state): fresh parameters, all of them moved, since many start
    at 0, where labels do nothing."""

    @functools.cache
    def make(name):
        config = make_tiny()
        config.model.name = name
        state = jax.jit(lambda: build.create(config, build.network(config)))()
        leaves, tree = jax.tree.flatten(state.params)
        draws = np.random.default_rng(5)
        moved = [x + 0.1 * draws.normal(size=x.shape).astype(x.dtype) for x in leaves]
        return config, state.replace(ema_params=jax.tree.unflatten(tree, moved))

    return make


def network(fresh, name, kind) -> World:
    config, state = fresh(name)
    config = config.copy_and_resolve_references()
    config.train.predicts = kind
    checkpoint = {"step": 3, "digest": digests.digest(state.ema_params)}
    return World(
        config, lambda: trained.of(config, state.ema_params, checkpoint), state
    )


def exact(config) -> World:
    model = gaussians.TwoGaussians(0.5, 0.25, (4, 3, 1))
    return World(config, lambda: model.system(build.noise_schedule(config)), None)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(w, marks=[] if w in QUICK else pytest.mark.slow) for w in WORLDS
    ],
    ids="-".join,
)
def world(request, make_tiny, fresh) -> World:
    name, kind = request.param
    return exact(make_tiny()) if name == EXACT else network(fresh, name, kind)


def spec_of(world, seed=0):
    config = world.config.copy_and_resolve_references()
    config.sample.seed = seed
    return specs.of(config, {"null": np.array([0, 2, 1, 0.5], np.float32)})


def draw(model, spec, index, labels):
    return drawing.draw(model, spec, index, labels, sharding.mesh())


def test_its_origin_is_json_and_its_digest_stable(world):
    origin = world.make().origin
    assert origin and json.loads(json.dumps(origin)) == origin
    assert digests.json_digest(world.make().origin) == digests.json_digest(origin)


def test_a_label_that_is_no_class_is_refused_at_every_door(world):
    """As the embedding would not: JAX clips an index that is out of range."""
    model, spec = world.make(), spec_of(world)
    classes = world.config.data.num_classes if world.state else 2
    doors = (
        model.branch,
        model.condition,
        lambda labels: references.branches(model, labels, {"null": {}}),
        lambda labels: draw(model, spec, INDEX, labels),
    )
    for wrong in (-1, classes + 1):
        for door in doors:
            with pytest.raises(
                ValueError, match=f"label {wrong}: use 0 ... {classes - 1} "
            ):
                door(np.array([0, 1, wrong, 0, 1, 0, 1, 0]))
    model.branch(np.array([0, classes - 1, classes]))  # that of none is fine


def test_two_systems_have_two_origins(make_tiny, fresh):
    found = [network(fresh, name, kind).make().origin for name, kind in EVERY]
    found.append(exact(make_tiny()).make().origin)
    assert len({digests.json_digest(origin) for origin in found}) == len(EVERY) + 1


def test_a_branch_predicts_both_faces_of_x(world):
    """x = alpha x0 + sigma eps, one of the three kinds being the raw answer; the null
    condition and the other label say something else."""
    model, ns = world.make(), world.make().noise_schedule
    cond = model.condition(LABELS)
    x = np.random.default_rng(0).normal(size=(8, *model.shape)).astype(np.float32)
    t = 2 * np.arange(8) + 3
    level = ns.level(t)
    ask, raws = jax.jit(lambda branch: branch.fn(x, level, branch.cond)), []
    for asked in (
        cond,
        system.null_like(model.null, cond),
        model.condition(1 - LABELS),
    ):
        branch = model.branch(asked)
        raw = ask(branch)
        assert raw.shape == x.shape and raw.dtype == x.dtype
        assert np.isfinite(raw).all()
        raws.append(np.asarray(raw, np.float64))
        faces = prediction.of_raw(raw, x, *level[1:], branch.predicts)
        x0, eps = (np.asarray(face, np.float64) for face in faces)
        alpha, sigma = (
            v[t].reshape(-1, *[1] * len(model.shape)) for v in (ns.alpha, ns.sigma)
        )
        scale = np.abs(x0).max() + np.abs(eps).max()
        np.testing.assert_allclose(alpha * x0 + sigma * eps, x, atol=1e-6 * scale)
        kinds = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}
        np.testing.assert_allclose(kinds[branch.predicts], raws[-1], atol=1e-5 * scale)
    assert all(np.abs(raw - raws[0]).max() > 1e-2 for raw in raws[1:])


def test_an_embedding_is_a_condition(world):
    """Of the labels and of the null condition."""
    model = world.make()
    x = np.random.default_rng(0).normal(size=(8, *model.shape)).astype(np.float32)
    level = model.noise_schedule.level(2 * np.arange(8) + 3)
    ask = jax.jit(lambda branch: branch.fn(x, level, branch.cond))
    cond = model.condition(LABELS)
    for asked in (cond, system.null_like(model.null, cond)):
        branch = model.branch_of_embedding(model.embed(asked))
        assert branch.predicts == model.branch(asked).predicts
        wanted = ask(model.branch(asked))
        np.testing.assert_allclose(ask(branch), wanted, rtol=1e-5, atol=1e-5)


def test_another_condition_is_another_class(world):
    model = world.make()
    keys = noise.image_keys(jax.random.key(0), INDEX)
    other = np.asarray(model.other(keys, model.condition(LABELS)))
    assert np.all(other != LABELS) and np.all((other >= 0) & (other < model.null))


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(w, marks=[] if w[0] == "pix_film" else pytest.mark.slow)
        for w in WORLDS
        if w[1] == "eps"
    ],
    indirect=True,
    ids="-".join,
)
@pytest.mark.parametrize("name", ["cads", "icg", "sigma_scale", "self_guidance", "tsg"])
def test_references_that_ask_a_system_for_more(world, name):
    """As one draws. That the kind of prediction does not matter is tested elsewhere."""
    config = world.config.copy_and_resolve_references()
    config.guidance.references = (name, "null") if name == "cads" else (name,)
    against = references.REFERENCES[config.guidance.references[-1]].branch
    spec = specs.of(config, {against: np.ones(4, np.float32)})
    images = draw(world.make(), spec, INDEX, LABELS)
    assert np.isfinite(images).all()
    plain = draw(world.make(), spec_of(world), INDEX, LABELS)
    assert np.abs(images - plain).max() > 1e-3
    alone = draw(world.make(), spec, np.full(8, 5), np.full(8, LABELS[5]))
    np.testing.assert_allclose(alone, np.stack([images[5]] * 8), atol=2e-5)


def test_images_are_a_function_of_spec_index_and_label(world):
    model, spec = world.make(), spec_of(world)
    images = draw(model, spec, INDEX, LABELS)
    assert images.shape == (8, *model.shape) and images.dtype == np.float32
    again = draw(world.make(), spec_of(world), INDEX, LABELS)
    assert again.tobytes() == images.tobytes()
    alone = draw(model, spec, np.full(8, 5), np.full(8, LABELS[5]))  # no neighbours
    np.testing.assert_allclose(alone, np.stack([images[5]] * 8), atol=1e-5)
    assert np.abs(images[5] - images[7]).max() > 1e-2  # of the same label
    other = draw(model, spec_of(world, seed=1), INDEX, LABELS)
    assert np.abs(other - images).reshape(8, -1).max(1).min() > 1e-2


def test_images_are_decoded(make_tiny):
    """A system of latents: its images are larger than its x, and their bits those of
    x."""
    world = exact(make_tiny())
    model, spec = world.make(), spec_of(world)
    x_0 = draw(model, spec, INDEX, LABELS)
    twice = model._replace(decode=lambda x: jnp.repeat(1 - x, 2, axis=1))
    found = draw(twice, spec, INDEX, LABELS)
    np.testing.assert_array_equal(found, np.repeat(1 - x_0, 2, axis=1))


def test_a_network_comes_back_from_its_checkpoint(world, tmp_path):
    if world.state is None:
        return
    with checkpoints.Checkpoints(build.checkpoint_dir(str(tmp_path))) as saved:
        saved.save(3, world.state, {})
    loaded = trained.load(world.config, str(tmp_path), sharding.mesh())
    assert loaded.origin == world.make().origin
