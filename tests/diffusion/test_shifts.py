"""Levels between timesteps, and levels of more noise."""

import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import process, shifts

NS = process.ddpm_linear()
ZERO_SNR = process.zero_terminal_snr(NS)


@pytest.mark.parametrize("ns", [NS, ZERO_SNR])
def test_whole_timesteps_are_those_of_the_schedule(ns, x64):
    t = np.array([0.0, 1, 500, 998, 999])
    found = shifts.at_time(jnp.asarray(t), jnp.asarray(shifts.known(ns)))
    np.testing.assert_allclose(found.alpha, ns.alpha[t.astype(int)], rtol=1e-9)
    np.testing.assert_allclose(found.sigma, ns.sigma[t.astype(int)], rtol=1e-9)


def test_between_timesteps_it_is_the_inverse_of_time_of(x64):
    t = np.array([0.25, 17.5, 998.9])
    found = shifts.at_time(jnp.asarray(t), jnp.asarray(shifts.known(NS)))
    np.testing.assert_allclose(NS.time_of(np.log(found.sigma / found.alpha)), t)


def test_more_noise_by_hand(x64):
    """r' = 1.5 r, at most that of T-1; beyond it, and at pure noise, nothing moves."""
    r = np.array([0.02, 1.0, 0.9 * np.exp(NS.log_r[-1]), 1000.0, np.inf])
    alpha = 1 / np.sqrt(1 + r**2)
    sigma = np.append(r[:-1] * alpha[:-1], 1.0)
    level = process.Level(*map(jnp.asarray, (np.array([9.0] * 5), alpha, sigma)))
    found = shifts.noisier(level, 1.5, jnp.asarray(shifts.known(NS)))
    wanted = [0.03, 1.5, np.exp(NS.log_r[-1]), 1000.0]
    np.testing.assert_allclose((found.sigma / found.alpha)[:4], wanted, rtol=1e-9)
    np.testing.assert_allclose(found.alpha**2 + found.sigma**2, 1.0, rtol=1e-12)
    np.testing.assert_allclose(found.t[:3], NS.time_of(np.log(wanted[:3])), rtol=1e-9)
    assert found.alpha[4] == 0 and found.sigma[4] == 1 and found.t[4] == 9
