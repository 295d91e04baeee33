"""Guided against the same network without its condition, or against another network."""

from typing import Any

from progguide_jax.diffusion import prediction, system


def null(model: system.System, cond: Any) -> prediction.Branch:
    """The same network without a condition (Ho and Salimans 2022, arXiv:2207.12598).

    Formula: p_ref = p(x_t, t, no condition).
    Space: any.
    Cost: 1 evaluation.
    Neutral: a model that ignores its condition.
    """
    return model.branch(system.null_like(model.null, cond))


def autoguidance(
    model: system.System, cond: Any, guide: system.System
) -> prediction.Branch:
    """Autoguidance (Karras et al. 2024, arXiv:2406.02507).

    Formula: p_ref = p_guide(x_t, t, condition), a weaker network for the same task:
        smaller, or trained for a shorter time, on the same data.
    Convention: theirs is w = 1 + omega.
    Space: any.
    Cost: 1 evaluation of the guide.
    Neutral: the model as its own guide.
    """
    return _checked("autoguidance", model, guide).branch(cond)


def heavy_tail(
    model: system.System, cond: Any, guide: system.System
) -> prediction.Branch:
    """Heavy-tail guidance: against a network of Student-t noise (talk, no paper).

    Formula: eps_ref = -sigma_t grad log p_t(x_t | condition) of x_t = alpha_t x0 +
        sigma_t n, n multivariate Student-t: what a network says that was trained with
        train.noise=student_t (the noise of arXiv:2410.14171).
    Convention: w = 1 + omega.
    Space: eps, the score.
    Cost: 1 evaluation of the guide.
    Neutral: the model as its own guide; nearly so with many degrees of freedom.

    In d dimensions the noise has length sigma sqrt(d / kappa), with one kappa an image:
    in pixels it is nearly Gaussian noise of a random sigma, so that little but the
    spread over sigma is left of the heavy tail.
    """
    return _checked("heavy_tail", model, guide).branch(cond)


def _checked(name: str, model: system.System, guide: system.System) -> system.System:
    """The guide; ValueError if it is not one of the model's data and schedule."""
    system.of(guide, f"{name}: guide")
    if guide.shape != model.shape:
        raise ValueError(
            f"{name}: the guide makes {guide.shape} and the model {model.shape}: "
            "use a guide of the same data"
        )
    if guide.noise_schedule != model.noise_schedule:
        raise ValueError(
            f"{name}: the guide has the noise schedule "
            f"{guide.noise_schedule.name} and the model {model.noise_schedule.name}: "
            "use a guide of the same"
        )
    return guide
