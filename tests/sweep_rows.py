"""Rows of a made-up sweep, as the tests of tables and of figures take them."""

FD, IS = "fd_resnet56", "is_resnet56"


def row(schedule, scale, fd, is_=(8.0, 0.1), differences=None, **other):
    """fd, is_ and the values of differences: (value, error)."""
    made = dict(
        cell=f"{schedule}_w{scale:g}", schedule=schedule, scale=scale, num_steps=200,
        interval=None, variant=None,
        baseline=f"static_w{scale:g}" if differences else None,
        num_images=5000, features="resnet56", split="train",
        scores={FD: _entry(fd), IS: _entry(is_) | {"std": 0.3}},
        differences={k: _entry(v) for k, v in (differences or {}).items()}, made_by={},
    )  # fmt: skip
    return made | other


def _entry(pair):
    return {"value": pair[0], "error": pair[1]}
