"""A command ends with the right code and one line."""

import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from configs import base
from progguide_jax.engine import probing, training
from progguide_jax.runtime import command_line, stopping
from progguide_jax.runtime import config as config_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]

CONFIG = """
from configs import base
def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: use smoke")
    config = base.get_config()
    config.seed = 5 if arg else 0
    return config
"""


@pytest.fixture(autouse=True)
def root_logger():
    """`run` sets up the process; give the tests their logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(CONFIG)
    return str(path)


def ended(capsys, main, *arguments) -> tuple[int, list[str]]:
    """The exit code and the lines on stderr."""
    with pytest.raises(SystemExit) as end:
        command_line.run(main, ["prog", *arguments])
    return end.value.code, capsys.readouterr().err.splitlines()


def never(config, workdir):
    raise AssertionError("main ran")


def test_main_gets_the_locked_config_and_a_workdir_that_exists(recipe, tmp_path):
    seen = []
    workdir = str(tmp_path / "a" / "run")
    command_line.run(
        lambda *given: seen.append(given),
        [
            "prog",
            f"--config={recipe}:smoke",
            "--workdir",
            workdir,
            "--config.train.batch_size=64",
            "--config.model.unet.channel_mult=(1,2)",
            "--noconfig.data.flip",
            "--config.guidance.interval.t_max=50",
            "--config.sample.karras.sigma_min=0.1",
            "--config.guidance.references=('null','autoguidance')",
        ],
    )
    ((config, given),) = seen
    assert given == workdir and os.listdir(workdir) == []
    assert (config.seed, config.train.batch_size) == (5, 64)
    assert config.model.unet.channel_mult == (1, 2) and config.data.flip is False
    assert config.guidance.interval.t_min is None
    assert config.guidance.interval.t_max == 50
    assert config.sample.karras.sigma_min == 0.1
    assert config.guidance.references == ("null", "autoguidance")
    with pytest.raises(AttributeError):
        config.train.bach_size = 3


@pytest.mark.parametrize(
    "arguments, key, value",
    [
        (["experiment.schedules=static,cosine"], "experiment.schedules",
         ("static", "cosine")),
        (["experiment.schedules=('static','cosine')"], "experiment.schedules",
         ("static", "cosine")),
        (["experiment.schedules", "gn, gn_all"], "experiment.schedules",
         ("gn", "gn_all")),
        (["experiment.schedules=cosine"], "experiment.schedules", ("cosine",)),
        (["experiment.schedules="], "experiment.schedules", ()),
        (["experiment.scales=0,1.5"], "experiment.scales", (0.0, 1.5)),
        (["experiment.scales=2"], "experiment.scales", (2.0,)),
        (["experiment.scales=2,x"], "experiment.scales", (2.0, "x")),
        (["guidance.references=null,autoguidance"], "guidance.references",
         ("null", "autoguidance")),
        (["eval.metrics=fd", "--config.eval.metrics=kd"], "eval.metrics",
         ("fd", "kd")),
        (["model.unet.channel_mult=1,2.5"], "model.unet.channel_mult", (1, 2.5)),
        (["experiment.sweep.intervals=(0,9),(10,19)"], "experiment.sweep.intervals",
         ((0, 9), (10, 19))),
        (["experiment.cells=guidance.references=null,autoguidance sample.seed=1"],
         "experiment.cells",
         ("guidance.references=null,autoguidance sample.seed=1",)),
        (["experiment.cells=guidance.rule=apg guidance.scale=2; guidance.rule=cfg;"],
         "experiment.cells", ("guidance.rule=apg guidance.scale=2",
                              "guidance.rule=cfg")),
        (["experiment.cells='guidance.rule=apg guidance.scale=2','guidance.rule=cfg'"],
         "experiment.cells", ("guidance.rule=apg guidance.scale=2",
                              "guidance.rule=cfg")),
    ],
)  # fmt: skip
def test_a_tuple_needs_no_quotes(recipe, tmp_path, arguments, key, value):
    seen = []
    first, *rest = arguments
    command_line.run(
        lambda *given: seen.append(given[0]),
        ["prog", f"--config={recipe}", f"--workdir={tmp_path}", f"--config.{first}"]
        + rest,
    )
    found = config_lib.flat(seen[0].to_dict())[key]
    assert found == value
    assert [type(v) for v in found] == [type(v) for v in value]


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("train.num_steps", "1e3", 1000),
        ("train.num_steps", "2000.0", 2000),
        ("train.num_steps", "1_500", 1500),
        ("train.num_steps", "9007199254740993", 2**53 + 1),  # as no float is
        ("guidance.interval.t_max", "1e2", 100),
        ("train.learning_rate", "2e-4", 2e-4),
        ("train.learning_rate", "1", 1.0),
        ("sample.euler.churn_max", "inf", float("inf")),
        ("data.flip", "FALSE", False),
        ("sample.trace", "1", True),
    ],
)
@pytest.mark.parametrize("between", ["=", None])
def test_numbers_as_people_type_them(recipe, tmp_path, key, text, value, between):
    if between is None and isinstance(value, bool):
        pytest.skip("--config.KEY alone is true")
    typed = [f"--config.{key}={text}"] if between else [f"--config.{key}", text]
    seen = []
    command_line.run(
        lambda *given: seen.append(given[0]),
        ["prog", f"--config={recipe}", f"--workdir={tmp_path}", *typed],
    )
    found = config_lib.flat(seen[0].to_dict())[key]
    assert found == value and type(found) is type(value)


def test_the_check_is_told_which_keys_were_typed(recipe, tmp_path):
    seen = []
    command_line.run(
        lambda config, workdir: None,
        ["prog", f"--config={recipe}", "--workdir", str(tmp_path),
         "--config.seed=1", "-config.eval.metrics", "fd", "--noconfig.data.flip"],
        check=lambda config, given: seen.append(list(given)),
    )  # fmt: skip
    assert seen == [["seed", "eval.metrics", "data.flip"]]


def test_a_config_can_say_that_the_workdir_must_exist(capsys, recipe, tmp_path):
    arguments = ["prog", f"--config={recipe}", f"--workdir={tmp_path / 'typo'}"]
    with pytest.raises(SystemExit) as end:
        command_line.run(never, arguments, new_workdir=lambda config: config.seed)
    assert end.value.code == 2 and not (tmp_path / "typo").exists()
    assert "does not exist" in capsys.readouterr().err
    arguments[1] += ":smoke"  # its seed is 5
    command_line.run(lambda *_: None, arguments, new_workdir=lambda c: c.seed == 5)
    assert (tmp_path / "typo").exists()


@pytest.fixture
def workdir(tmp_path):
    """A workdir with the config.json of a training run."""
    config = base.get_config()
    config.seed, config.model.unet.channel_mult = 7, (1, 2)
    config_lib.write_provenance(str(tmp_path / "run"), config)
    return tmp_path / "run"


def test_without_config_it_is_that_of_the_workdir_with_overrides(recipe, workdir):
    seen = []
    command_line.run(
        lambda *given: seen.append(given),
        [
            "prog",
            f"--workdir={workdir}",
            "--config.guidance.schedule=interval",
            "--config.guidance.interval.t_max=50",
            "--config.model.unet.attention_resolutions=(8,)",
            "--config.train.learning_rate=1",
        ],
    )
    ((config, _),) = seen
    wanted = base.get_config()
    wanted.seed, wanted.model.unet.channel_mult = 7, (1, 2)
    wanted.guidance.schedule, wanted.guidance.interval.t_max = "interval", 50
    wanted.model.unet.attention_resolutions = (8,)
    wanted.train.learning_rate = 1.0
    assert config.to_dict() == wanted.to_dict()
    assert isinstance(config.train.learning_rate, float)
    with pytest.raises(AttributeError):
        config.train.bach_size = 3
    command_line.run(
        lambda *given: seen.append(given),
        ["prog", f"--workdir={workdir}", f"--config={recipe}"],
    )
    assert seen[1][0].seed == 0  # --config goes first


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config.train.bach_size=3"], "did you mean --config.train.batch_size"),
        (["--config.guidance.interval.t_max=late"], "holds 'late'"),
    ],
)
def test_overrides_of_a_workdirs_config_are_checked_too(
    capsys, workdir, arguments, words
):
    def check(config, given):
        if not isinstance(config.guidance.interval.t_max, int | None):
            raise ValueError(f"holds {config.guidance.interval.t_max!r}")

    with pytest.raises(SystemExit):
        command_line.run(
            never, ["prog", f"--workdir={workdir}", *arguments], check=check
        )
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_damaged_config_of_a_workdir_is_one_line(capsys, workdir):
    (workdir / "config.json").write_text("{")
    code, (line,) = ended(capsys, never, f"--workdir={workdir}")
    assert code == 2 and "config.json is damaged" in line


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("train.batch_size is 3: use 4", "--config.train.batch_size is 3: use 4"),
        ("set config.train.batch_size, or --config.data.flip", None),
        ("config.data: no; see config.json, runs/data.flip", None),
        ("seed 0, config.seed 1 and train.batch_sizes", None),
        ("model.unet.channel_mult", "--config.model.unet.channel_mult"),
        ("it's 'train.log_every=1'", "it's 'train.log_every=1'"),
    ],
)
def test_a_key_in_a_message_is_as_it_is_typed(capsys, recipe, tmp_path, said, shown):
    def main(config, workdir):
        raise ValueError(said)

    if shown is None:
        shown = said.replace(" config.train", " --config.train")
        shown = shown.replace("config.data:", "--config.data:")
        shown = shown.replace(" config.seed", " --config.seed")
    lines = ended(capsys, main, f"--config={recipe}", f"--workdir={tmp_path}")[1]
    assert lines == [f"error: {shown}"]


@pytest.mark.parametrize("error", (ValueError, FileNotFoundError))
def test_what_the_check_refuses_is_said_before_anything_is_made(
    capsys, recipe, tmp_path, error
):
    """As a misspelt key is: code 2, no log, not even a workdir."""

    def check(config, given):
        raise error(f"seed {config.seed} is no good")

    place = tmp_path / "new"
    with pytest.raises(SystemExit) as end:
        command_line.run(
            never, ["prog", f"--config={recipe}", f"--workdir={place}"], check=check
        )
    assert end.value.code == 2 and not place.exists()
    assert capsys.readouterr().err == "error: seed 0 is no good\n"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config.train.bach_size=3"], "unknown config key 'train.bach_size': did "
         "you mean --config.train.batch_size"),
        (["--config.batch_size=1"], "did you mean --config.eval.batch_size "
         "or --config.probe.batch_size or --config.sample.batch_size or "
         "--config.train.batch_size?"),
        (["--config.zzz=0"], "unknown config key 'zzz': --print_config"),
        (["--config.sample.eta=1"], "unknown config key 'sample.eta': did you mean "
         "--config.sample.ddim.eta?"),
        (["--noconfig.sample.clip_x0"], "did you mean --config.guidance.projection?"),
        (["--config.guidance.t_max=9"], "did you mean "
         "--config.guidance.interval.t_max or --config.guidance.neg_perturb.t_max?"),
        (["--config.guidance.table=w.npy"], "did you mean "
         "--config.guidance.table.file?"),
        (["--config.guidance.step=1"], "did you mean "
         "--config.guidance.autoguidance.step or "),
        (["--config.data.two_gaussians=0"], "config.data.two_gaussians is a section: "
         "set --config.data.two_gaussians.mean or --config.data.two_gaussians.std"),
        (["--config.train.batch_size=abc"], "config.train.batch_size is 'abc': type a "
         "whole number, such as 64"),
        (["--config.train.batch_size", "1.5"], "is '1.5': type a whole number"),
        (["--config.train.batch_size=true"], "is 'true': type a whole number"),
        (["--config.train.batch_size=inf"], "is 'inf': type a whole number"),
        (["--config.train.batch_size="], "is '': type a whole number"),
        (["--config.train.learning_rate=1/3"], "config.train.learning_rate is '1/3': "
         "type a decimal number, such as 0.5"),
        (["--config.guidance.scale=1,5"], "is '1,5': type a decimal number"),
        (["--config.guidance.interval.t_max=1/2"], "type a whole number"),
        (["--config.data.flip=maybe"], "config.data.flip is 'maybe': type true or "
         "false"),
        (["--workdri=x"], "Did you mean: workdir"),
        (["stray"], "unexpected argument 'stray'"),
        (["--config.data.flip", "False"], "true or false comes after an ="),
        (["--config.sample.offset=99999999999999999999999"], "does not fit into 64"),
        (["--config.experiment.scales={}"], "is '{}': type numbers or words"),
        (["--config.guidance.references=[{1: 2}]"], "type numbers or words"),
        (["--config.data.dir=a\0b"], "config.data.dir is 'a\\x00b': leave out the"),
        (["--workdir=a\0b"], "leave out the null character"),
        (["--flagfile=/no/such"], "--flagfile is not known here"),
        (["--undefok=x", "--x=1"], "--undefok is not known here"),
        (["--config.help"], "unknown config key 'help': --print_config lists"),
        ([f"--{'x' * 5000}"], "unknown flag --xxx"),
        ([f"--config.{'x' * 5000}=1"], "unknown flag --config.xxx"),
        ([f"--config.train.num_steps={'9' * 9000}"], "type a whole number"),
        ([f"--config.data.name={'x' * 9000}", "stray"], "unexpected argument 'stray'"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line_and_code_2(
    capsys, recipe, tmp_path, arguments, words
):
    code, lines = ended(
        capsys, never, f"--config={recipe}", f"--workdir={tmp_path / 'w'}", *arguments
    )
    assert code == 2 and len(lines) == 1 and len(lines[0]) <= 500
    assert lines[0].startswith("error: ") and words in lines[0]
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=missing.py"], "no file 'missing.py'"),
        (["--config"], "no file ''"),
        ([], "--config=FILE.py is missing, and {tmp}/w does not exist"),
        ([], "--config=FILE.py is missing: see configs/"),
        (["--config={recipe}:smok"], "unknown variant 'smok': use smoke"),
        (["--config={broken}"], "SyntaxError"),
        (["--config={recipe}"], "--workdir=DIR is missing"),
    ],
)
def test_a_config_that_cannot_be_had_is_one_line_and_code_2(
    capsys, recipe, tmp_path, arguments, words
):
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    arguments = [a.format(recipe=recipe, broken=broken) for a in arguments]
    words = words.format(tmp=tmp_path)
    if "--workdir" not in words and "missing: see" not in words:
        arguments.insert(0, f"--workdir={tmp_path / 'w'}")
    code, lines = ended(capsys, never, *arguments)
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("error: ") and words in lines[0]


def test_a_value_of_a_wrong_type_is_said_with_its_line(capsys, tmp_path):
    setting = "config.guidance.interval.t_min = 'a'"
    recipe = tmp_path / "recipe.py"
    recipe.write_text(CONFIG.replace("config.seed = 5 if arg else 0", setting))
    code, lines = ended(capsys, never, f"--config={recipe}", f"--workdir={tmp_path}")
    assert code == 2 and lines == [
        f"error: {setting}: use a value of type int "
        f'(File "{recipe}", line 7, in get_config)'
    ]


def test_an_unwritable_workdir_is_one_line_and_code_2(capsys, recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        code, lines = ended(capsys, never, f"--config={recipe}", f"--workdir={workdir}")
        assert code == 2 and len(lines) == 1
        assert f"--workdir {workdir} cannot be written" in lines[0]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("batch_size 100 is not divisible\nmore for the log"),
        FileNotFoundError("batch_size 100 is not divisible"),
        FloatingPointError("batch_size 100 is not divisible"),
        OSError("batch_size 100 is not divisible"),
    ],
)
def test_an_error_of_the_run_is_one_line_and_code_1(capsys, recipe, tmp_path, error):
    def main(config, workdir):
        raise error

    code, lines = ended(capsys, main, f"--config={recipe}", f"--workdir={tmp_path}")
    assert code == 1 and lines == ["error: batch_size 100 is not divisible"]
    log = (tmp_path / "error.log").read_text()
    assert "Traceback" in log and type(error).__name__ in log and "in main" in log


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 6 GiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory on GPU\nmore"),
    ],
)
def test_out_of_memory_says_what_to_lower(capsys, recipe, tmp_path, error):
    def main(config, workdir):
        raise error

    arguments = [f"--config={recipe}", f"--workdir={tmp_path}"]
    with pytest.raises(SystemExit) as end:
        command_line.run(main, ["prog", *arguments], sections=("probe",))
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and str(error).splitlines()[0] in line
    size = base.get_config().probe.batch_size
    assert f"lower --config.probe.batch_size (it is {size})" in line
    assert "train.batch_size" not in line
    assert "in main" in (tmp_path / "error.log").read_text()
    assert "train.batch_size" in ended(capsys, main, *arguments)[1][0]


def test_an_error_of_the_accelerator_is_one_line(capsys, recipe, tmp_path):
    def main(config, workdir):
        raise jax.errors.JaxRuntimeError("INTERNAL: " + "x" * 9000 + " the end")

    code, lines = ended(capsys, main, f"--config={recipe}", f"--workdir={tmp_path}")
    assert code == 1 and len(lines) == 1 and len(lines[0]) <= 500
    assert "INTERNAL: x" in lines[0] and lines[0].endswith("x the end")


def test_no_log_of_an_error_lies_beside_a_good_result(recipe, tmp_path):
    (tmp_path / "error.log").write_text("Traceback of a command before")
    arguments = ["prog", f"--config={recipe}", f"--workdir={tmp_path}"]
    command_line.run(lambda config, workdir: None, arguments)
    assert not (tmp_path / "error.log").exists()


def test_a_mistake_in_the_program_keeps_its_traceback(recipe, tmp_path):
    def main(config, workdir):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        command_line.run(main, ["prog", f"--config={recipe}", f"--workdir={tmp_path}"])


def test_ctrl_c_is_one_line_and_code_130(capsys, recipe, tmp_path):
    def main(config, workdir):
        raise KeyboardInterrupt

    code, lines = ended(capsys, main, f"--config={recipe}", f"--workdir={tmp_path}")
    assert code == 130 and lines == ["interrupted"]
    assert not (tmp_path / "error.log").exists()


@pytest.fixture
def usual_signals():
    """Those of a process that a shell started in the foreground: in the background
    Ctrl-C is ignored."""
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, usual[number]) for number in usual}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_each_signal_has_its_code(capfd, recipe, tmp_path, number, code, usual_signals):
    """EX_TEMPFAIL of sysexits.h, and 128 + SIGINT of shells; saved or not."""
    before = signal.getsignal(number)
    arguments = ["prog", f"--config={recipe}", f"--workdir={tmp_path}"]

    def between_steps(config, workdir):
        with stopping.Stop() as stop:
            for step in range(3):
                stop.check(f"step {step}")
                os.kill(os.getpid(), number)

    def while_compiling(config, workdir):
        os.kill(os.getpid(), number)
        time.sleep(5)

    for main, words in ((between_steps, "after step 1, saved"), (while_compiling, "")):
        with pytest.raises(SystemExit) as end:
            command_line.run(main, arguments)
        last = capfd.readouterr().err.splitlines()[-1]
        assert end.value.code == code and words in last
        assert signal.getsignal(number) == before
    assert not (tmp_path / "error.log").exists()


def test_print_config_and_help_need_no_workdir(capsys, recipe):
    for arguments, words in (
        (["--config=" + recipe, "--print_config", "--config.seed=9"], "seed = 9  # "),
        (["--help"], "usage: prog --config"),
    ):
        with pytest.raises(SystemExit) as end:
            command_line.run(never, ["prog", *arguments])
        assert end.value.code == 0 and words in capsys.readouterr().out


def test_logging_keeps_our_lines_and_drops_the_noise(capsys, recipe, tmp_path):
    def main(config, workdir):
        logging.info("ours")
        logging.getLogger("absl").info("noise")
        logging.getLogger("absl").warning("theirs")
        try:
            raise ValueError
        except ValueError:
            record = logging.LogRecord(
                "absl", 40, "/x/orbax/y.py", 1, "thread died", (), sys.exc_info()
            )
            logging.getLogger("absl").handle(record)

    command_line.run(main, ["prog", f"--config={recipe}", f"--workdir={tmp_path}"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["ours", "theirs"]


def test_a_warning_is_said_once_and_news_as_often_as_it_comes(capsys, recipe, tmp_path):
    def main(config, workdir):
        for count in (40, 40, 50):
            logging.warning("%d images are few", count)
            logging.info("done")

    for _ in range(2):  # in each run
        command_line.run(main, ["prog", f"--config={recipe}", f"--workdir={tmp_path}"])
        lines = [s.split(" ", 1)[1] for s in capsys.readouterr().err.splitlines()]
        assert lines == [
            "40 images are few", "done", "done", "50 images are few", "done",
        ]  # fmt: skip


PROGRAM = """
import os, sys, time
os.sched_setaffinity(0, eval(os.environ["CORES"]))
from progguide_jax.runtime import checkpoints, command_line
def main(config, workdir):
    import jax
    print("devices", jax.device_count(), flush=True)
    with checkpoints.Checkpoints(workdir + "/c") as saved:
        for step in range(2000):
            if config.seed == 5 and saved.should_stop():
                print("stopping", flush=True)
                return
            if step == 1:
                print("running", flush=True)
            if config.seed == 0:
                return
            time.sleep(0.05)
command_line.run(main)
"""


def start(recipe, tmp_path, cores, **environment):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    inherited = {
        k: v
        for k, v in os.environ.items()
        if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    }
    return subprocess.Popen(
        [sys.executable, program, f"--config={recipe}", f"--workdir={tmp_path / 'w'}"],
        env={
            **inherited,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "CORES": repr(set(cores)),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
@pytest.mark.parametrize(
    "environment, expected",
    [({}, None), ({"JAX_NUM_CPU_DEVICES": "3"}, 3)],
)
def test_each_usable_core_is_a_device_unless_the_user_chose(
    recipe, tmp_path, environment, expected
):
    usable = sorted(os.sched_getaffinity(0))
    cores = usable[: max(1, len(usable) - 1)]
    process = start(recipe, tmp_path, cores, **environment)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert f"devices {expected or len(cores)}\n" in out


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_sigterm_ends_a_run_cleanly(recipe, tmp_path):
    process = start(recipe + ":smoke", tmp_path, os.sched_getaffinity(0))
    try:
        for line in process.stdout:
            if line == "running\n":
                break
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and out == "stopping\n", err
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "cores, sizes, devices",
    [(2, (32, 256, 16), 2), (6, (64, 258, 516), 2), (8, (7, 256, 512), 8)],
)
def test_devices_are_as_many_as_can_share_the_batches(cores, sizes, devices):
    """Six cores and a batch of 64: two; where not even two can, the check tells."""
    config = base.get_config()
    config.train.batch_size, config.probe.batch_size, config.sample.batch_size = sizes
    assert command_line._devices(cores, config) == devices


def test_print_config_marks_what_was_typed(capsys, recipe):
    argv = ["prog", f"--config={recipe}:smoke", "--print_config"]
    with pytest.raises(SystemExit):
        command_line.run(
            never, [*argv, "--config.train.keep=2", "--noconfig.data.flip"]
        )
    lines = capsys.readouterr().out.splitlines()
    typed = [line.partition("  # typed: ")[0] for line in lines if "# typed" in line]
    assert typed == ["data.flip = False", "train.keep = 2"]


def test_print_config_says_what_each_key_is(capsys):
    argv = ["train.py", "--config=configs/cifar10.py:smoke", "--print_config"]
    with pytest.raises(SystemExit) as end:
        command_line.run(lambda config, workdir: None, argv)
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train.num_steps = 20  # updates" in lines
    held = [line for line in lines if line.startswith("guidance.normalize = ")]
    assert held == [
        "guidance.normalize = 'default'  # default (the schedule's own) | sampling | "
        "train | continuous | dt | none"
    ]
    assert all("  # " in line for line in lines), "a key without a comment"


def test_a_switch_runs_something_else_and_leaves_nothing(recipe, tmp_path):
    ran, workdir = [], tmp_path / "new"
    for words, expected in ((["--dry_run"], "instead"), ([], "main")):
        command_line.run(
            lambda config, workdir: ran.append("main"),
            ["train.py", f"--config={recipe}", f"--workdir={workdir}", *words],
            switches={"dry_run": lambda config, workdir: ran.append("instead")},
        )
        assert ran.pop() == expected
        assert workdir.exists() == (expected == "main")


def test_hosts_that_run_other_commands_differ(monkeypatch):
    said = []
    monkeypatch.setattr(command_line.hosts, "agree", said.append)
    monkeypatch.setattr(command_line.hosts, "code_digest", str)
    for main in (training.train, probing.probe):
        command_line._compare_hosts(base.get_config(), main)
    first, second = said
    differ = {key for key in first if first[key] != second[key]}
    assert differ == {"command"} and first["command"].endswith("training.train")
