"""Entries beside the public code of their authors, where it is a function of arrays."""

import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clones import theirs

from progguide_jax.diffusion import levels, noise, prediction, process, system
from progguide_jax.guidance import references, rules, schedules
from progguide_jax.guidance.references import other_conditions
from progguide_jax.guidance.rules import spaces

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def step_of(x, alpha, sigma, omega, predicts="x0"):
    return prediction.Step(
        x=jnp.asarray(x), t=500.0, alpha=alpha, sigma=sigma, alpha_next=1.0,
        sigma_next=0.0, weights={"null": jnp.asarray(omega)}, index=0, keys=None,
        predicts=predicts,
    )  # fmt: skip


@pytest.mark.parametrize("num_steps", [20, 64])
def test_feedback(num_steps, x64):
    """github.com/FelixKoulischer/FBG_using_edm2: tau and delta of a grid, and the
    weight as it changes with what was seen."""
    file, pi = "FBG_using_edm2/generate_images_FBG.py", 0.95
    variance = theirs(file, "get_sigma_square_tilde")(num_steps, 7, 0.002, 80)
    delta = theirs(file, "delta_from_t0", verbose=False)(num_steps, pi, 0.5, None)
    tau = theirs(file, "Temp_from_t1", verbose=False)(num_steps, delta, 0.4, variance)
    grid = levels.karras(None, num_steps, 0.002, 80.0)
    found = rules.feedback_settings(grid, pi)
    assert found["delta"] == pytest.approx(delta, abs=6e-5)  # theirs are rounded
    assert found["tau"] == pytest.approx(tau, abs=2e-4)
    update = theirs(
        file, "update_log_posterior", temp=tau, offset=delta,
        minimal_log_posterior=np.log((1 - pi) * 10 / 9),
    )  # fmt: skip
    rule = rules.feedback(pi=pi, tau=tau, delta=delta)
    rule = rule.on(types.SimpleNamespace(levels=grid))
    draws = np.random.default_rng(0).normal(size=(num_steps, 3, 4, 4, 3, 2))
    x, carry, seen = grid.r[0] * draws[0, 0], None, []
    log_posterior, carry = torch.zeros(4), rule.init(jnp.asarray(x))
    for k in range(num_steps - 1):
        c, u = draws[k, 1], draws[k, 1] + 0.3 * draws[k, 2]
        step = step_of(x, 1.0, grid.r[k], 1.0)
        pair = [step.from_x0(jnp.asarray(a)) for a in (c, u)]
        guided, carry = rule(lambda *_, pair=pair: pair, step, carry)
        weight = torch.exp(log_posterior) / (torch.exp(log_posterior) - (1 - pi))
        expected = c + (weight.numpy() - 1).reshape(-1, 1, 1, 1) * (c - u)
        np.testing.assert_allclose(guided.x0, expected, atol=1e-5)
        ratio = (grid.r[k + 1] / grid.r[k]) ** 2
        spread = grid.r[k + 1] * np.sqrt(1 - ratio)
        x_next = ratio * x + (1 - ratio) * (c if k % 2 else u) + spread * draws[k, 0]
        log_posterior = update(
            log_posterior, *map(torch.tensor, (x, x_next)), *grid.r[k : k + 2],
            *map(torch.tensor, (u, c)),
        )  # fmt: skip
        x, seen = x_next, [*seen, weight.numpy()]
    assert np.ptp(seen) > 0.1


def test_smc(x64):
    """github.com/hanyang-21/CFG-Ctrl, two steps."""
    file = "CFG-Ctrl/pipeline/common_cfg_ctrl.py"
    around = {"CFGCtrlParams": None, "CFGCtrlState": None}
    apply = theirs(file, "_cfg_ctrl_apply", **around)
    params = types.SimpleNamespace(
        smc_cfg_enable=True, smc_cfg_lambda=5.0, smc_cfg_K=0.2, no_cfg_warmup_steps=0
    )
    state, rule = types.SimpleNamespace(prev_guidance_eps=None), rules.smc(5.0, 0.2)
    draws = np.random.default_rng(0).normal(size=(2, 3, 4, 6, 6, 2))
    carry = rule.init(jnp.asarray(draws[0, 0]))
    for k, (x, c, u) in enumerate(draws):
        step = step_of(x, 0.6, 0.8, 3.0)
        pair = [spaces.back(step, jnp.asarray(a), "flow") for a in (c, u)]
        found, carry = rule(lambda *_, pair=pair: pair, step, carry)
        expected = apply(
            None, noise_pred_posi=torch.tensor(c), noise_pred_nega=torch.tensor(u),
            cfg_scale=4.0, progress_id=k, params=params, state=state,
        )  # fmt: skip
        np.testing.assert_allclose(spaces.of(step, found, "flow"), expected, atol=1e-9)


@pytest.mark.parametrize("num_steps", [7, 20])
def test_tv_schedules(num_steps):
    """github.com/sqt24/tvcfg."""
    ts = levels.timesteps(1000, num_steps)
    made = theirs("tvcfg/guidance_schedulers.py", "GuidanceSchedulers")
    made = made(torch.tensor(ts), 4.0)
    expected = {
        "tv": made.symmetric(1.0, 7.0),
        "tv_interval": made.interval(0.0),
        "tv_stepup": made.stepup(4 / 3, 4.0, normalize=False),
        "tv_stepdown": made.stepdown(4 / 3, 4.0, normalize=False),
    }
    for name, w in expected.items():
        omega = schedules.make(name, 3.0, ts, 1000)
        np.testing.assert_allclose(1 + omega, w, rtol=1e-5, err_msg=name)


def test_cads():
    """github.com/v0xie/sd-webui-cads, of one image: its moments are the batch's."""
    file, keys = (
        "sd-webui-cads/scripts/cads.py",
        noise.image_keys(jax.random.key(0), [0]),
    )
    y = np.random.default_rng(0).normal(size=(1, 5, 7)).astype(np.float32)
    n = np.asarray(noise.initial_noise(keys, y.shape[1:], jnp.float32))
    gamma = theirs(file, "cads_linear_schedule")
    add = theirs(file, "add_noise", randn_like=lambda y: torch.tensor(n))
    for t in (300, 700, 850, 950):
        level = process.Level(*(jnp.full(1, v) for v in (float(t), 0.6, 0.8)))
        found = other_conditions._cads(
            lambda x, level, y: y, 1000, 0.6, 0.9, 0.25, 0.7, None, level, y, keys
        )
        share = gamma(None, t / 1000, 0.6, 0.9)
        expected = add(None, torch.tensor(y), share, 0.25, 0.7, rescale=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_swg():
    """github.com/HHU-MMBS/swg_bmvc2025_official; its images have the channels first."""
    file = "swg_bmvc2025_official/edm2/sample_edm2.py"
    windows = theirs(file, "swg_guidance", edges=theirs(file, "edges"))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)

    class Net:
        def __call__(self, x, t, labels):
            return x - x.mean((2, 3), keepdim=True)

    expected, _ = windows(torch.tensor(x.transpose(0, 3, 1, 2)), 1.0, None, Net(), 5, 2)
    fn = jax.tree_util.Partial(lambda x, *_: x - x.mean((1, 2), keepdims=True))
    model = system.System(
        branch=lambda cond: prediction.Branch(fn, cond, "x0"), noise_schedule=None,
        shape=x.shape[1:], condition=None, null=0, decode=None, origin={},
        perturbed=lambda cond, way, size: prediction.Branch(fn, cond, "x0"),
    )  # fmt: skip
    needs = {"swg": {"size": 5, "masked": False}}
    branch = references.branches(model, jnp.zeros(2, int), needs)["swg"]
    found = branch.fn(jnp.asarray(x), process.Level(*jnp.ones((3, 2))), branch.cond)
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_reg(x64):
    """github.com/zhengqigao/REG, of a DiT; a network of three channels."""
    off = torch.autocast("cpu", enabled=False)
    around = {"autocast": lambda: off, "Optional": typing.Optional}
    forward = theirs("REG/DiT/forward_with_cfg.py", "forward_with_cfg", **around)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    alpha, sigma = 0.6, 0.8

    class Net:
        training, in_channels = False, 3

        def forward(self, x, t, y):
            return torch.sin(x) + 0.2 * y.reshape(-1, 1, 1, 1) * x**2

    param = {"cfg_type": "reg_original", "cfg_scale": 1.5}
    param["alpha_bar"] = torch.full((4,), alpha**2)
    y, t = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.full((4,), 500)
    expected = forward(Net(), torch.tensor(np.concatenate([x, x])), t, y, param)[:2]

    def eps(x, label):
        return jnp.sin(x) + 0.2 * label * x**2

    step = step_of(x, alpha, sigma, 1.5, "eps")

    def evaluate(*names, x=step.x):
        return [step.from_eps(eps(x, float(name == "cond"))) for name in names]

    found, _ = rules.reg()(evaluate, step, None)
    np.testing.assert_allclose(found.eps, expected[:, :3].numpy(), atol=1e-6)
