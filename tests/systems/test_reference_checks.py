"""What a config says of references and of the noise of training, before any work."""

import pytest

from progguide_jax.systems import effects, validation


def set_keys(config, keys):
    for key, value in keys.items():
        section = config
        *path, name = key.split(".")
        for part in path:
            section = section[part]
        section[name] = value
    return config


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"guidance.references": ("classifier",)},
         "holds classifier: set guidance.classifier.workdir to the workdir of a "),
        ({"guidance.references": ("heavy_tail",)}, "set guidance.heavy_tail.workdir"),
        ({"guidance.references": ("heavy_tail",), "guidance.heavy_tail.step": -1},
         "guidance.heavy_tail.step is -1: it must be at least 0"),
        ({"guidance.references": ("cads",)}, "at least one to guide against"),
        ({"guidance.references": ("sigma_scale",), "guidance.sigma_scale.factor": 0.5},
         "guidance.sigma_scale: factor is 0.5"),
        ({"train.noise": "student"}, "unknown train.noise 'student': did you mean "),
        ({"train.noise": "student_t", "train.student_t.degrees": 0.0},
         "train.student_t: degrees must be finite and positive, got 0.0"),
        ({"train.noise": "student_t", "train.predicts": "v"},
         "what is learnt is the score; set train.predicts=eps"),
        ({"train.student_t.degrees": 3.0}, "or set train.noise=student_t"),
    ],
)  # fmt: skip
def test_one_line_that_says_what_to_do(tiny, keys, words):
    with pytest.raises(ValueError, match=words) as error:
        validation.validate(set_keys(tiny, keys))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"guidance.references": ("cads", "null"), "guidance.cads.tau1": 0.4},
        {"guidance.references": ("icg", "tsg"), "guidance.tsg.scale": 0.5},
        {"guidance.references": ("null", "tsg", "cads"), "guidance.rule": "apg"},
        {"guidance.rule": "adaptive", "guidance.adaptive.rule": "apg",
         "guidance.apg.eta": 0.5},
        {"guidance.rule": "adaptive", "guidance.adaptive.rule": "cfgpp",
         "guidance.scale": -0.5},
        {"guidance.references": ("null", "cads"), "guidance.rule": "recfg",
         "guidance.recfg.ratio": 0.9},
        {"guidance.references": ("null", "tsg"), "guidance.tsg.schedule": "pcs",
         "guidance.pcs.power": 2.0},
        {
            "guidance.references": ("self_guidance",),
            "guidance.self_guidance.delta": 0.2,
        },
        {"guidance.references": ("heavy_tail",), "guidance.heavy_tail.step": 3},
        {"train.noise": "student_t", "train.student_t.degrees": 3.0},
    ],
)  # fmt: skip
def test_what_makes_sense(tiny, keys):
    config = set_keys(tiny, keys)
    validation.validate(config)
    validation.check_unused([config])


def test_cads_acts_without_guidance(tiny):
    tiny.guidance.scale = 0.0
    tiny.guidance.references = ("icg",)
    assert any("guidance.references" in line for line in effects.idle(tiny))
    tiny.guidance.references = ("cads", "null")
    assert not effects.idle(tiny)
