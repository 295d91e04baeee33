"""What a training would take, beside what is counted by hand."""

import re

import jax

from configs import base
from progguide_jax.engine import rehearsal
from progguide_jax.runtime import sharding


def test_a_rehearsal_counts_and_leaves_nothing(tiny, tmp_path, capsys):
    tiny.model.name, tiny.model.unet = "pix_film", base.get_config().model.unet
    tiny.model.pix_film.width, tiny.model.pix_film.depth = 256, 1
    tiny.train.num_steps, tiny.train.accumulate = 36_000, 2
    rehearsal.rehearse(tiny, str(tmp_path))
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    count = int(re.search(r"parameters: ([\d,]+)", said)[1].replace(",", ""))
    # parameters, their average and Adam's two moments in float32, and three counters
    held = float(re.search(r"([\d.]+) MiB of state", said)[1]) * 2**20
    assert abs(held - 16 * count) < 0.06 * 2**20
    total, each = map(float, re.search(r"FLOPs: (\S+) a step, (\S+) an", said).groups())
    assert abs(total / tiny.train.batch_size - each) < 0.01 * each
    # 88 features to 256 to 2, of 16 images, forward and twice as much backward,
    # whatever devices share it, and in however many parts
    dense = 3 * 2 * (88 * 256 + 256 * 2) * 16
    assert dense < total < 2 * dense
    hours, seconds = re.search(r"(\S+) h here \((\S+) s a step\)", said).groups()
    assert abs(float(hours) - 10 * float(seconds)) <= 0.06 * float(hours)
    on_v4 = float(re.search(r"(\S+) h on one TPU v4", said)[1])
    expected = total * 36_000 / (0.2 * 275e12) / 3600
    assert abs(on_v4 - expected) <= 0.06 * expected
    assert f"devices: {sharding.mesh().size} x {jax.devices()[0].device_kind}" in said
