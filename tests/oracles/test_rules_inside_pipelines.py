"""Rules beside the public code of their authors, where it is lines of a pipeline."""

import functools
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest
from clones import lines, theirs
from guidance import by_hand

from progguide_jax.diffusion import prediction
from progguide_jax.guidance import rules
from progguide_jax.guidance.rules import spaces

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def velocity(rule, time, omega, x, c, u):
    """What a rule makes of two velocities, all with the channels first."""
    x, c, u = (jnp.asarray(a.transpose(0, 2, 3, 1)) for a in (x, c, u))
    step = prediction.Step(
        x=x, t=500.0, alpha=1 - time, sigma=time, alpha_next=1.0, sigma_next=0.0,
        weights={"null": jnp.asarray(omega)}, index=0, keys=None, predicts="x0",
    )  # fmt: skip
    pair = [spaces.back(step, a, "flow") for a in (c, u)]
    found, _ = rule(lambda *_: pair, step, None)
    return np.asarray(spaces.of(step, found, "flow")).transpose(0, 3, 1, 2)


@pytest.fixture
def drawn(x64):
    """x and two velocities [3,4,6,6], near each other as predictions are."""
    x, c, d = np.random.default_rng(0).normal(size=(3, 3, 4, 6, 6))
    return x, c, c + 0.3 * d


@pytest.mark.parametrize("time", [0.9, 0.3, 0.1])
def test_vags(time, drawn):
    """github.com/Harvard-AI-and-Robotics-Lab/Velocity_Adaptive_Guidance_Scale."""
    folder = "Velocity_Adaptive_Guidance_Scale/VAGS_Generation"
    x, c, u = drawn
    expected = lines(
        f"{folder}/inference_sd35_vagsgen.py", "__call__", "v_u_flat", "noise_pred",
        v_cond=torch.tensor(c), v_uncond=torch.tensor(u), t=torch.tensor(1000 * time),
        t_max=1000.0, vag_kappa=0.5, guidance_scale=7.0,
    )["noise_pred"]  # fmt: skip
    found = velocity(rules.make("vags", kappa=0.5), time, 6.0, *drawn)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        ("ADG_SD3", {"max_angle": 3.14 / 3}),
        ("ADG_SD3_w_norm", {"max_angle": 3.14 / 3, "variant": "norm_restored"}),
        ("ADG_SD3_wo_clip", {"max_angle": math.inf}),
    ],
)
@pytest.mark.parametrize("w", [1.5, 3.0, 12.0])
def test_adg(function, settings, w, drawn):
    """github.com/jinc7461/ADG, of one image: for more its arrays do not match."""
    file, time = "ADG/method/ADG_SD3.py", 0.6
    helpers = ("call_cos_tensor", "compute_perpendicular_component")
    scheduler = types.SimpleNamespace(step_index=0, sigmas=[time])
    found = velocity(rules.make("adg", **settings), time, w - 1 + 1e-3, *drawn)
    for k, (x, c, u) in enumerate(zip(*drawn, strict=True)):
        expected = lines(
            file, function, "noise_pred_uncond", "noise_pred",
            **{name: theirs("ADG/method/utils.py", name) for name in helpers},
            self=types.SimpleNamespace(guidance_scale=w, scheduler=scheduler),
            latents=torch.tensor(x[None]), angle=3.14 / 3,
            noise_pred=torch.tensor(np.stack([u, c])),
        )["noise_pred"]  # fmt: skip
        np.testing.assert_allclose(found[k : k + 1], expected, atol=1e-5)


def test_rectified_cfgpp(x64):
    """github.com/shreshthsaini/Rectified-CFGpp without its noise; the network knows
    the time of what it gets, of which their code tells it another."""
    grid, omega = by_hand.GRID, np.append(np.linspace(0.4, 2.0, 7), 0.0)
    time = grid.sigma / (grid.alpha + grid.sigma)
    z = torch.tensor(by_hand.start() / (grid.alpha + grid.sigma)[0])
    for k in range(8):
        knows, told = list(time[k : k + 2]), []

        def transformer(hidden_states, timestep, knows=knows, told=told, **_):
            now = knows[len(told)]
            told.append(timestep[0].item())
            u, c = (a.numpy() for a in hidden_states.chunk(2))
            pair = by_hand.velocity(u, now, False), by_hand.velocity(c, now, True)
            return [torch.tensor(np.concatenate(pair))]

        def step(v, t, z, return_dict, dt=time[k + 1] - time[k]):
            return [z + dt * v]

        z = lines(
            "Rectified-CFGpp/rect-cfg-SD3-pipeline/pipeline.py", "__call__", "dt",
            "latents",
            self=types.SimpleNamespace(
                scheduler=types.SimpleNamespace(sigmas=torch.tensor(time), step=step),
                do_classifier_free_guidance=True, transformer=transformer,
                joint_attention_kwargs=None,
            ),
            timesteps=time[:-1], i=k, t=torch.tensor(1000 * time[k]), latents=z,
            prompt_embeds=None, pooled_prompt_embeds=None, num_inference_steps=8,
            skip_guidance_layers=None, skip_layer_guidance_start=0.0,
            skip_layer_guidance_stop=0.0, sigma_noise=0.0, true_cfg=omega[k],
        )["latents"]  # fmt: skip
        assert told[1] == pytest.approx(1000 * time[k] + time[k + 1] - time[k])
    found = by_hand.ours(rules.make("rectified_cfgpp", reach=1 - 1e-9), omega)
    np.testing.assert_allclose(found, z, atol=1e-6)
    assert np.abs(found - by_hand.ours(rules.cfg(), omega)).max() > 0.01


def test_fsg(x64):
    """github.com/Ka1b0/Foresight-Guidance; its steps go from each time that it names
    to the next, which those of diffusers do not."""
    file = "Foresight-Guidance/utils/pipeline_stable_diffusion_xl.py"
    ts = torch.tensor(by_hand.GRID.t[:-1]).long()
    alpha_bar = torch.tensor(by_hand.NS.alpha_bar)

    class Scheduler:
        timesteps, alphas_cumprod = ts, alpha_bar

        def __init__(self, way):
            self.way = way

        def scale_model_input(self, x, t):
            return x

        def step(self, eps, t, x, return_dict):
            k = self.timesteps.tolist().index(t) + self.way
            to = alpha_bar[self.timesteps[k]] if k < len(self.timesteps) else 1.0
            x0 = (x - (1 - alpha_bar[t]) ** 0.5 * eps) / alpha_bar[t] ** 0.5
            return [to**0.5 * x0 + (1 - to) ** 0.5 * eps]

    def unet(x, t, **_):
        alpha, sigma = alpha_bar[t].item() ** 0.5, (1 - alpha_bar[t].item()) ** 0.5
        labels = 0 * by_hand.LABEL - 1, by_hand.LABEL
        eps = by_hand.network(np, x.numpy(), alpha, sigma, np.concatenate(labels))
        return [torch.tensor(eps)]

    pipe = types.SimpleNamespace(
        scheduler=Scheduler(1), inv_scheduler=Scheduler(-1), unet=unet,
        guidance_scale=3.0, guidance_rescale=0.0, cross_attention_kwargs=None,
    )  # fmt: skip
    for name in (
        "noise_pred", "apply_guidance", "cfg_plusplus_update",
        "foresight_sampling_update",
    ):  # fmt: skip
        setattr(pipe, name, functools.partial(theirs(file, name), pipe))
    x = torch.tensor(by_hand.start())
    for k, t in enumerate(ts):
        x = lines(
            file, "__call__", "added_cond_kwargs", "latents", self=pipe, i=k, t=t,
            timesteps=ts, latents=x, method="Foresight-sampling", guidance_scale=3.0,
            foresight_dict={0: (2, 2), 1: (2, 1), 3: (2, 1), 6: (2, 1)},
            foresight_steps=1, inv_guidance_scale=0, guidance_lambda=0.6, T_max=1,
            lambda_step=0, prompt_embeds=None, add_text_embeds=None, add_time_ids=None,
        )["latents"]  # fmt: skip
    starts = (0.0, 0.0, 1 / 8, 3 / 8, 6 / 8)
    rule = rules.make("fsg", weight=3.0, interval=2 / 8, starts=starts)
    found = by_hand.ours(rule, np.full(8, -0.4))
    np.testing.assert_allclose(found, x, atol=1e-6)
    others = by_hand.ours(rules.make("cfgpp"), np.full(8, -0.4))
    assert np.abs(found - others).max() > 0.01
