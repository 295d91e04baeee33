"""Guided against the same network without its condition, or against another network."""

from typing import Any

from progguide_jax.diffusion import prediction, system


def null(model: system.System, cond: Any) -> prediction.Branch:
    """The same network without a condition (Ho and Salimans 2022, arXiv:2207.12598).

    Formula: p_ref = p(x_t, t, no condition).
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
    Cost: 1 evaluation of the guide.
    Neutral: the model as its own guide.
    """
    if guide.shape != model.shape:
        raise ValueError(
            f"autoguidance: the guide makes {guide.shape} and the model {model.shape}: "
            "use a guide of the same data"
        )
    if guide.noise_schedule != model.noise_schedule:
        raise ValueError(
            f"autoguidance: the guide has the noise schedule "
            f"{guide.noise_schedule.name} and the model {model.noise_schedule.name}: "
            "use a guide of the same"
        )
    return guide.branch(cond)
