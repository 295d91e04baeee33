"""A recipe of seconds, for tests that start commands as processes and hurt them."""

_RECIPE = """
from configs import base

def get_config():
    c = base.get_config()
    c.data.name, c.data.image_size, c.data.channels = "synthetic", 8, 3
    c.data.num_classes, c.data.num_examples = 3, 96
    c.noise.num_timesteps = 20
    c.model.name, c.model.label_dim = "pix_film", 16
    c.model.pix_film.width, c.model.pix_film.depth = 16, 1
    c.train.batch_size = c.sample.batch_size = 16
    c.train.log_every, c.train.sample_every = 1, 0
    c.probe.batch_size, c.sample.num_steps, c.guidance.scale = 96, 4, 1.0
    {changes}
    return c
"""


def recipe(*changes: str) -> str:
    """The text of a config file: the above, with assignments to keys of c."""
    return _RECIPE.format(changes="\n    ".join(changes))
