import contextlib
import io
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from meta_opt.cli import main
from meta_opt.saved.pretrained import pretrained_path

QUIET = ("--trainer.enable_progress_bar", "false")
COMMAND = [sys.executable, "-m", "meta_opt.cli"]


def checkpoint(path):
    return torch.load(path, weights_only=True)


def settings(meta_opt, *arguments):
    """What a command would run with."""
    status, out, err = meta_opt(*arguments, "--print_config")
    assert (status, err) == (0, "")
    return yaml.safe_load(out)


def files():
    """What is in the current folder, but for what Python keeps of modules."""
    return sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts)


def fails(meta_opt, *arguments):
    """The one line that a command fails with, having made nothing."""
    before = files()
    status, out, err = meta_opt(*arguments)
    assert status == 2
    assert out == ""
    assert re.fullmatch(r"meta-opt: error: .*\n", err)
    assert files() == before
    return err.removeprefix("meta-opt: error: ").strip()


@pytest.fixture(scope="module")
def run(offering, tmp_path_factory):
    """The folder of a run of two epochs of three episodes each, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    with offering(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        assert main(["fit", "--optimizee", "bowl", "--optimizee.dimension", "2", *QUIET]) == 0
    return folder, out.getvalue()


@pytest.fixture
def trained(run, meta_opt, plugins):
    """A copy of that run, in the current folder; what it printed."""
    folder, out = run
    shutil.copytree(folder, Path(), dirs_exist_ok=True)
    return out


# ------------------------------------------------------------------------------------------------- without torch


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list"], ["compare", "--help"], ["nonsense"], []], ids=" ".join
)
def test_light_commands_import_no_torch(arguments, plugin_folder):
    code = (
        "import sys, meta_opt.cli as cli; cli.main(sys.argv[1:]);"
        "assert not {'torch', 'lightning', 'offered'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(plugin_folder)}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, env=environment)


def test_list_answers_at_once():
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, "list"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of the processor, which other work on the machine does not add to.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_a_reader_may_have_enough():
    process = subprocess.Popen([*COMMAND, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 128 + signal.SIGPIPE
    process.stderr.close()


def test_help_names_the_commands(meta_opt):
    status, out, _ = meta_opt("--help")
    assert status == 0
    for command in ("fit", "validate", "test", "compare", "list"):
        assert f"\n  {command} " in out


def test_unknown_command(meta_opt):
    assert "did you mean 'fit'?" in fails(meta_opt, "fitt")
    assert "say what to do" in fails(meta_opt)


# ---------------------------------------------------------------------------------------------------------- list


def test_list_shows_what_is_installed(meta_opt, plugins):
    status, out, _ = meta_opt("list")
    out = out.partition("pretrained optimizers")[0]
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    assert status == 0
    assert rows["bowl"] == "meta-opt-offered 1.2  A bowl: the squared distance to a random point."
    assert rows["quadratic"].startswith("meta-opt 0.")
    assert rows["coordinatewise_lstm"].startswith("meta-opt 0.")


BROKEN = {
    "contested": "the name is claimed by meta-opt-offered 1.2 and rival 3.4; uninstall one",
    "needs_missing": "offered.needs_missing imports a_module_that_is_not_installed, which is not installed",
    "no_such_class": "module offered.wrong has no NoSuchClass",
    "no_such_module": "there is no module offered.nowhere",
    "not_an_optimizee": "offered.wrong:NotAnOptimizee is not a subclass of the optimizee contract",
    "of_the_future": "it is written for version 99 of meta-opt's plugin interface, and this meta-opt has 2",
    "syntax_error": "offered.syntax_error does not parse",
    "evaluation": "meta_opt has a module of that name; meta-opt-offered must choose another",
}


def test_list_says_what_is_broken_and_why(meta_opt, plugins):
    _, out, _ = meta_opt("list")
    broken = {line.split()[0]: line for line in out.splitlines() if "BROKEN" in line}
    for name, reason in BROKEN.items():
        assert f"BROKEN: {reason}" in broken[name]
    assert set(broken) == set(BROKEN)


def test_list_check_imports(meta_opt, plugins):
    _, out, _ = meta_opt("list", "--check")
    assert "BROKEN: does not import: OSError: no luck today" in out


def test_list_of_names_shows_what_they_recommend(meta_opt, plugins):
    status, out, _ = meta_opt("list", "bowl", "coordinatewise_lstm")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == "optimizee bowl  meta-opt-offered 1.2  A bowl: the squared distance to a random point."
    assert lines[1] == (
        "  --model.num_steps 7 --model.unroll_length 4 --model.episodes_per_epoch 3 --optimizer.hidden_size 5"
    )
    assert lines[2].split() == ["--trainer.max_epochs", "2"]
    assert lines[3].startswith("optimizer coordinatewise_lstm  meta-opt 0.")
    assert len(lines) == 4
    config = settings(meta_opt, "fit", "--optimizee", "Valley", *lines[1].split())  # they are options as they stand
    assert (config["model"]["num_steps"], config["optimizer"]["init_args"]["hidden_size"]) == (7, 5)


def test_list_of_an_unknown_name(meta_opt, plugins):
    assert "did you mean 'bowl'?" in fails(meta_opt, "list", "bowll")
    assert fails(meta_opt, "list", "--chekc") == "list takes no --chekc; its only option is --check"


# ------------------------------------------------------------------------------------------------------- settings


def test_recommended_settings_are_defaults(meta_opt, plugins):
    config = settings(meta_opt, "fit", "--optimizee", "bowl")
    assert config["model"]["num_steps"] == 7
    assert config["optimizer"]["init_args"]["hidden_size"] == 5
    assert config["trainer"]["max_epochs"] == 2
    assert config["model"]["lr"] == 0.001  # of the class


def test_what_is_recommended_of_a_pair(meta_opt, plugins):
    """Settings of the optimizee for one optimizer are for that one alone, and stand above what that recommends."""
    config = settings(meta_opt, "fit", "--optimizee", "landscape", "--optimizer", "alpha_opt")
    assert config["optimizer"]["init_args"]["unit"] == "secant"
    assert config["model"]["estimator"]["init_args"]["discount"] == 1.0
    other = ("--model.estimator", "first_order")  # which has no discount
    config = settings(meta_opt, "fit", "--optimizee", "landscape", "--optimizer", "alpha_opt", *other)
    assert (config["optimizer"]["init_args"]["unit"], config["model"]["lr"]) == ("secant", 0.01)
    config = settings(meta_opt, "fit", "--optimizee", "digits_mlp", "--optimizer", "alpha_opt")
    assert config["optimizer"]["init_args"]["unit"] == "base"
    config = settings(meta_opt, "fit", "--optimizee", "digits_mlp", "--optimizer", "alpha_opt", *other)
    assert config["model"]["estimator"]["init_args"]["replay_fraction"] == 1.0  # a part of them is for LSTMs alone
    config = settings(meta_opt, "fit", "--optimizee", "landscape")
    assert "unit" not in config["optimizer"]["init_args"]
    _, out, _ = meta_opt("list", "landscape")
    assert "\n  with optimizer alpha_opt: --optimizer.direction gradient --optimizer.unit secant" in out


def test_recommended_weights_are_for_the_default_optimizer(meta_opt, plugins):
    momentum = Path(__file__).parents[2] / "plugins" / "template" / "meta_opt_example" / "momentum_mlp.py"
    config = settings(meta_opt, "fit", "--optimizee", "cifar_cnn")
    assert config["model"]["warm_start"] == "general_mlp"
    config = settings(meta_opt, "fit", "--optimizee", "cifar_cnn", "--optimizer", f"{momentum}:MomentumMlp")
    assert config["model"]["warm_start"] is None
    assert config["model"]["max_num_steps"] == 1000


def test_what_the_optimizer_recommends_is_above_what_the_optimizee_does(meta_opt, plugins):
    config = settings(meta_opt, "fit", "--optimizee", "quadratic")
    assert (config["model"]["lr"], config["model"]["meta_loss"]) == (0.005, "sum")
    config = settings(meta_opt, "fit", "--optimizee", "quadratic", "--optimizer", "subspace_lstm")
    assert (config["model"]["lr"], config["model"]["meta_loss"]) == (0.0005, "log_mean")
    assert config["model"]["num_steps"] == 100  # recommended by the optimizee
    config = settings(meta_opt, "fit", "--optimizee", "quadratic", "--optimizer", "subspace_lstm", "--model.lr", 0.1)
    assert config["model"]["lr"] == 0.1


def test_what_an_optimizee_recommends_of_an_optimizer_is_taken_where_it_fits(meta_opt, plugins):
    def options(optimizee, optimizer):
        return settings(meta_opt, "fit", "--optimizee", optimizee, "--optimizer", optimizer)["optimizer"]["init_args"]

    assert options("quadratic", "coordinatewise_lstm")["inputs"] == "none"
    assert options("digits_mlp", "coordinatewise_lstm")["inputs"] == "log_sign+moments+scales+orthogonal"
    assert options("quadratic", "lstm_gac")["inputs"] == "none"
    assert options("digits_mlp", "lstm_gac")["inputs"] == "log_sign+moments"  # its own: it lacks the optimizee's
    for optimizee in ("quadratic", "digits_mlp"):  # its own, above the optimizee's
        assert options(optimizee, "ntm_bfgs")["initial_output"] == 0.01
    assert "inputs" not in options("quadratic", "hierarchical_rnn")
    assert options("digits_mlp", "hierarchical_rnn")["base_step"] == 0.03


def test_what_an_optimizer_recommends_of_the_estimator_is_for_the_default_one(meta_opt, plugins):
    options = ("fit", "--optimizee", "small_mlps", "--optimizer", "lstm_gac")
    estimator = settings(meta_opt, *options)["model"]["estimator"]
    assert estimator["init_args"]["replay_fraction"] == 1.0  # small_mlps says 0.25
    other = settings(meta_opt, *options, "--model.estimator", "second_order")["model"]["estimator"]
    assert other["class_path"] == "meta_opt.second_order"
    assert "replay_fraction" not in other.get("init_args", {})


PICKY = """
from typing import Any, Literal
from meta_opt.optimizers.lstm_gac import LSTMGAC

class Picky(LSTMGAC):
    def __init__(self, inputs: Literal["moments", "log_sign"] = "moments", base_step: int = 1):
        super().__init__(1, 2, 1, inputs=inputs)

    @classmethod
    def recommended_settings(cls):
        return {}

class Mistaken(Picky):
    @classmethod
    def recommended_settings(cls):
        return {"optimizer.inptus": "moments"}
"""


def test_a_value_that_an_optimizer_does_not_take_is_left_out(meta_opt, plugins):
    Path("picky.py").write_text(PICKY)
    config = settings(meta_opt, "fit", "--optimizee", "digits_mlp", "--optimizer", "picky.py:Picky")
    assert config["optimizer"]["init_args"] == {"inputs": "moments", "base_step": 1}


def test_an_optimizer_may_not_recommend_options_that_it_lacks(meta_opt, plugins):
    Path("mistaken.py").write_text(PICKY)
    message = fails(meta_opt, "fit", "--optimizee", "digits_mlp", "--optimizer", "mistaken.py:Mistaken")
    assert "mistaken.Mistaken recommends a setting optimizer.inptus, but there is no such option" in message


def test_a_warm_start_that_cannot_be_leaves_nothing(meta_opt, plugins):
    status, out, err = meta_opt("fit", "--optimizee", "bowl", "--model.warm_start", "nobody")
    assert (status, out) == (2, "")
    assert err.startswith("meta-opt: error: no pretrained optimizer is called 'nobody'")
    assert not Path("checkpoints").exists()


def test_whatever_the_user_says_is_above_recommended_settings(meta_opt, plugins):
    Path("mine.yaml").write_text("optimizee: bowl\nmodel: {num_steps: 8, unroll_length: 8}\n")
    config = settings(meta_opt, "fit", "--config", "mine.yaml", "--model.unroll_length=9", "--optimizer.hidden_size", 6)
    assert (config["model"]["num_steps"], config["model"]["unroll_length"]) == (8, 9)
    assert config["optimizer"]["init_args"]["hidden_size"] == 6
    assert config["model"]["episodes_per_epoch"] == 3


@pytest.mark.parametrize(
    "text",
    [
        "optimizee: bowl",
        "optimizee: {class_path: bowl, init_args: {dimension: 4}}",
        "optimizee: {class_path: offered.good.Bowl, init_args: {dimension: 4}}",
    ],
)
def test_an_optimizee_in_yaml(meta_opt, plugins, text):
    Path("mine.yaml").write_text(text)
    config = settings(meta_opt, "fit", "--config", "mine.yaml", "--optimizee.steepness", "2")
    dimension = 4 if "dimension" in text else 3
    assert config["optimizee"]["init_args"] == {"dimension": dimension, "steepness": 2.0}
    assert config["model"]["num_steps"] == 7


@pytest.mark.parametrize("name", ["bowl", "Valley", "offered.good.Bowl", "{class_path: bowl}", "meta_opt.bowl"])
def test_an_optimizee_on_the_command_line(meta_opt, plugins, name):
    for _ in range(2):  # nothing that the first call leaves behind changes the second
        config = settings(meta_opt, "fit", "--optimizee.dimension", "4", "--optimizee", name)
        assert config["optimizee"]["init_args"]["dimension"] == 4
        assert config["model"]["num_steps"] == (9 if name == "Valley" else 7)


def test_printed_settings_give_the_same_settings(meta_opt, plugins):
    _, out, _ = meta_opt("fit", "--optimizee", "bowl", "--model.lr", "0.5", "--print_config")
    Path("mine.yaml").write_text(out)
    assert settings(meta_opt, "fit", "--config", "mine.yaml") == yaml.safe_load(out)


def test_help_of_fit_lists_names_and_imports_no_plugin(meta_opt, plugins):
    status, out, _ = meta_opt("fit", "--help")
    assert status == 0
    text = " ".join(out.split())
    for name in ("bowl", "mnist_mlp", "raises"):
        assert name in text


def test_help_of_an_optimizee(meta_opt, plugins):
    status, out, _ = meta_opt("fit", "--optimizee.help", "bowl")
    assert status == 0
    assert "(float, default 1.0) Factor of the squared distance." in " ".join(out.split())


def test_an_option_is_not_abbreviated(meta_opt, plugins):
    message = fails(meta_opt, "fit", "--optimizee", "bowl", "--model.unrol", "3")
    assert message == "unknown option --model.unrol; did you mean --model.unroll_length?"


WRONG = {
    "": "say what to learn on, with --optimizee",
    "--optimizee bowll": "no optimizee is called 'bowll'; did you mean 'bowl'?",
    "--optimizee contested": "claimed by meta-opt-offered 1.2 and rival 3.4",
    "--optimizee needs_missing": "ModuleNotFoundError: No module named 'a_module_that_is_not_installed'",
    "--optimizee not_an_optimizee": "must be a subclass of Optimizee",
    "--optimizee vector_loss": "loss must return a scalar tensor (shape []), found shape [3]",
    "--optimizee infinite_loss": "VectorLoss.loss is not finite at θ_0".replace("Vector", "Infinite"),
    "--optimizee constant_loss": "ConstantLoss.loss is not differentiable",
    "--optimizee bad_advice": "optimizee bad_advice recommends a setting model.number_of_steps, but there is no such",
    "--optimizee bowl --optimizer coordinatewise": "did you mean 'coordinatewise_lstm'?",
    "--optimizee bowl --optimizee.dimensions 3": "unknown option --optimizee.dimensions; did you mean --optimizee.dim",
    "--optimizee bowl --optimizee.dimension x": "--optimizee.dimension must be int, not x",
    "--optimizee bowl --model.clip_norm x": "--model.clip_norm must be float or null, not x",
    "--optimizee subsets": "--optimizee.part must be given",
    "--optimizee bowl --model.meta_loss x": "--model.meta_loss must be sum, log_sum, log_mean or best, not x",
    "--optimizee bowl --optimizer.hidden_size 0": "optimizer.hidden_size must be 1 or more, not 0",
    "--optimizee bowl --optimizee.dimension 0": "optimizee.dimension must be at least 1, not 0",
    "--optimizee bowl --model.num_steps 0": "model.num_steps must be at least 1, not 0",
    "--optimizee bowl --model.num_steps": "--model.num_steps: expected one argument",
    "--optimizee bowl --model.seed 3": 'Linked "model.seed" must be given via "seed_everything"',
    "--optimizee bowl --trainer.accelerator x": "invalid accelerator name",
    "--optimizee bowl stray": "unexpected argument 'stray'",
    "--config nowhere.yaml": "File does not exist",
    "--ckpt_path nowhere.ckpt": "there is no checkpoint nowhere.ckpt",
    "--optimizee bowl --model.lr -1e-3": "model.lr must be at least 0, not -0.001",
    "--optimizee bowl --model.meta_loss -sum": "--model.meta_loss must be sum, log_sum, log_mean or best, not -sum",
    "--optimizee digits_mlp --optimizee.hidden_sizes 40": "hidden_sizes must be a list, as in [40], not 40",
    "--optimizee bowl --early_stopping.patience 0": "early_stopping.patience must be at least 1, not 0",
    "--optimizee bowl --early_stopping.min_delta -1": "early_stopping.min_delta must be a number of 0 or more, not -1",
    "--ckpt_path=": "there is no checkpoint ''",
    "--ckpt_path last": "there is no run in checkpoints",
    "--ckpt_path last --optimizee bowl": "there is no run in checkpoints/bowl",
}


@pytest.mark.parametrize("options", WRONG)
def test_what_is_wrong_is_said_in_one_line(meta_opt, plugins, options):
    assert WRONG[options] in fails(meta_opt, "fit", *options.split())


@pytest.mark.parametrize("text", ["optimizee: [", "optimizee: bowl\nmodel: {num_stepz: 3}"])
def test_a_config_file_that_is_wrong(meta_opt, plugins, text):
    Path("mine.yaml").write_text(text)
    message = fails(meta_opt, "fit", "--config", "mine.yaml")
    assert "did you mean --model.num_steps?" in message or message.startswith(
        "--config mine.yaml: it is no YAML: line 2,"
    )


@pytest.mark.parametrize("command", ["validate", "test"])
def test_nothing_is_tested_without_a_checkpoint(meta_opt, plugins, command):
    message = fails(meta_opt, command, "--optimizee", "bowl")
    ways = "--ckpt_path, a path, or last or best of the newest run, or with --pretrained, a name"
    assert message == f"say what to {command}, with {ways}"
    assert fails(meta_opt, command) == f"say what to {command}, with {ways}"


@pytest.mark.parametrize("said", [("--pretrained", "quadratic"), ("--pretrained=quadratic",)])
def test_a_pretrained_optimizer_is_tested_by_its_name(meta_opt, said):
    few = ("--model.num_test_problems", "2", "--model.num_steps", "3", *QUIET)
    _, expected, _ = meta_opt("test", "--ckpt_path", str(pretrained_path("quadratic")), *few)
    assert "test/final_loss" in expected
    assert meta_opt("test", *said, *few) == (0, expected, "")


@pytest.mark.parametrize(
    ("said", "message"),
    {
        (
            "--pretrained",
            "quadratc",
        ): "no pretrained optimizer is called 'quadratc'; did you mean 'quadratic'? There are",
        ("--pretrained",): "no pretrained optimizer is called ''; there are",
        ("--pretrained", "quadratic", "--ckpt_path", "best"): "say one --pretrained or one --ckpt_path",
        ("--pretrained", "quadratic", "--pretrained=mnist_mlp"): "say one --pretrained or one --ckpt_path",
    }.items(),
)
def test_one_pretrained_optimizer_is_tested(meta_opt, said, message):
    assert fails(meta_opt, "test", *said).startswith(message)


def test_steps_that_are_asked_for_are_those_of_the_test(meta_opt, plugins):
    """Where a checkpoint was validated over another number of steps, that one is not asked for."""
    few = ("--trainer.max_epochs", "1", "--model.num_validation_steps", "7", "--model.num_test_problems", "2")
    assert meta_opt("fit", *BOWL, *few)[0] == 0
    path = ("--ckpt_path", "checkpoints/bowl/run_0/best.ckpt", *QUIET)
    said = {
        steps: meta_opt("test", *path, *steps)
        for steps in ((), ("--model.num_steps", "7"), ("--model.num_steps", "2"), ("--model.num_steps=4",))
    }
    assert all(status == 0 for status, _, _ in said.values())
    outputs = [out for _, out, _ in said.values()]
    assert outputs[0] == outputs[1]
    assert len(set(outputs)) == 3
    asked = ("--model.num_steps", "2", "--model.num_validation_steps", "7")
    assert meta_opt("test", *path, *asked)[1] == outputs[0]


def test_what_ended_a_run_is_said_and_what_would_go_on_with_it(meta_opt, plugins):
    for number, (options, cut) in enumerate(
        {
            ("--trainer.max_steps", "4"): "--trainer.max_steps 4",
            ("--trainer.max_time", "00:00:00:01", "--trainer.max_epochs", "99999"): "--trainer.max_time",
            ("--early_stopping.stopping_threshold", "1e9"): "--early_stopping (val/objective crossed a threshold)",
            ("--early_stopping.patience", "1", "--early_stopping.min_delta", "1e9"): (
                "--early_stopping (val/objective no longer fell)"
            ),
        }.items()
    ):
        epochs = () if "--trainer.max_epochs" in options else ("--trainer.max_epochs", "9")
        status, out, err = meta_opt("fit", *BOWL, *epochs, *options)
        assert status == 0, err
        assert re.search(rf"finished after \d+ episodes: stopped by {re.escape(cut)}\n", out), out
        assert "--trainer.max_epochs" not in out  # which would change nothing
        assert Path(f"checkpoints/bowl/run_{number}/last.ckpt").is_file()
    first = ("fit", "--ckpt_path", "checkpoints/bowl/run_0/last.ckpt", *QUIET)
    _, out, _ = meta_opt(*first, "--trainer.max_epochs", "10")
    assert "had finished after 2 episodes; a higher --trainer.max_steps, or -1, goes on with it\n" in out
    time = ("--trainer.max_time", "00:00:00:01")
    _, out, _ = meta_opt("fit", "--ckpt_path", "checkpoints/bowl/run_1/last.ckpt", *time, *QUIET)
    assert "; a higher --trainer.max_time, which is that of the whole run, goes on with it\n" in out
    _, out, _ = meta_opt(*first, "--trainer.max_steps=-1", "--trainer.max_epochs", "1")
    assert "finished after 3 episodes\n" in out


def test_callbacks_that_a_run_had_are_missed(meta_opt, plugins):
    once = ("--trainer.max_epochs", "1", "--trainer.max_time", "00:01:00:00")  # which is a callback, too
    stop = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/final_loss")
    assert meta_opt("fit", *BOWL, *once, *stop)[0] == 0
    with pytest.warns(UserWarning, match="the run goes on without EarlyStopping: say --trainer.callbacks as before"):
        assert meta_opt("fit", "--ckpt_path", "last", "--trainer.max_epochs", "2", *QUIET)[0] == 0


def test_a_profile_and_a_summary_are_shown_where_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--trainer.fast_dev_run", "true", "--trainer.profiler", "simple", "--trainer.enable_model_summary=true")
    command = [*COMMAND, "fit", "--optimizee", "quadratic", "--model.num_steps", "2", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    shown = done.stdout + done.stderr
    assert "FIT Profiler Report" in shown
    assert "Total params" in shown


def test_a_callback_finds_the_log(meta_opt, plugins):
    pytest.importorskip("psutil", reason="DeviceStatsMonitor needs it")
    assert meta_opt("fit", *BOWL, "--trainer.max_epochs", "1", "--trainer.callbacks+=DeviceStatsMonitor")[0] == 0


def test_a_default_that_is_an_enum_is_its_value(meta_opt, plugins):
    assert meta_opt("fit", *BOWL, "--trainer.max_epochs", "1", "--trainer.callbacks+=Timer")[0] == 0
    assert "interval: step" in Path("checkpoints/bowl/run_0/config.yaml").read_text()


@pytest.mark.parametrize("option", ["max_epochs", "max_steps", "limit_train_batches"])
def test_a_run_trains_something(meta_opt, plugins, option):
    message = fails(meta_opt, "fit", *BOWL, f"--trainer.{option}", "0")
    assert message == f"trainer.{option} must not be 0: there would be nothing to train"


@pytest.mark.parametrize(("command", "option"), [("test", "limit_test_batches"), ("validate", "limit_val_batches")])
def test_an_evaluation_evaluates_something(meta_opt, command, option):
    message = fails(meta_opt, command, "--pretrained", "quadratic", f"--trainer.{option}", "0")
    assert message == f"trainer.{option} must not be 0: there would be nothing to {command}"


def test_a_run_that_had_finished_says_what_goes_on_with_it(trained, meta_opt):
    status, out, _ = meta_opt("fit", "--ckpt_path", "last", "--trainer.max_epochs", "1", *QUIET)
    assert status == 0
    assert "had finished after 6 episodes; a higher --trainer.max_epochs goes on with it\n" in out
    assert "no better" not in out


# ----------------------------------------------------------------------------------------------------------- runs


def test_a_run_leaves_checkpoints_settings_and_log(trained):
    folder = Path("checkpoints/bowl/run_0")
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "config.yaml", "last.ckpt"]
    assert list(Path("logs/bowl/run_0").glob("events.*"))
    assert int(checkpoint(folder / "last.ckpt")["state_dict"]["_extra_state"]["episode"]) == 6
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["optimizee"] == {"class_path": "bowl", "init_args": {"dimension": 2, "steepness": 1.0}}


def test_a_run_ends_by_saying_where_things_are(trained):
    assert "finished after 6 episodes" in trained
    for path in ("checkpoints/bowl/run_0/best.ckpt", "checkpoints/bowl/run_0/config.yaml", "logs/bowl/run_0"):
        assert path in trained
    assert "test --ckpt_path checkpoints/bowl/run_0/best.ckpt\n" in trained


def test_the_next_run_gets_the_next_name_and_the_same_weights(trained, meta_opt):
    assert meta_opt("fit", "--config", "checkpoints/bowl/run_0/config.yaml", *QUIET)[0] == 0
    one, two = (checkpoint(f"checkpoints/bowl/run_{i}/last.ckpt")["state_dict"] for i in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def test_another_seed_gives_other_weights(trained, meta_opt):
    config = ("--config", "checkpoints/bowl/run_0/config.yaml")
    assert meta_opt("fit", *config, "--seed_everything", "1", *QUIET)[0] == 0
    one, two = (checkpoint(f"checkpoints/bowl/run_{i}/last.ckpt") for i in range(2))
    assert (one["meta_opt"]["model"]["seed"], two["meta_opt"]["model"]["seed"]) == (0, 1)
    name = "optimizer.networks.all.output_weight"
    assert not torch.equal(one["state_dict"][name], two["state_dict"][name])


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_alone_knows_how_it_was_made(trained, meta_opt, command):
    path = "checkpoints/bowl/run_0/best.ckpt"
    config = settings(meta_opt, command, "--ckpt_path", path)
    assert config["optimizee"]["init_args"]["dimension"] == 2
    assert config["optimizer"]["init_args"]["hidden_size"] == 5
    assert config["model"]["num_steps"] == 7
    before = sorted(Path().rglob("*"))
    status, out, _ = meta_opt(command, "--ckpt_path", "best", *QUIET)
    assert status == 0
    assert "final_loss" in out
    assert sorted(Path().rglob("*")) == before


def test_what_the_user_says_is_above_the_checkpoint(trained, meta_opt):
    options = ("--ckpt_path", "last", "--model.num_steps", "11", "--optimizee.steepness", "3", "--seed_everything", "5")
    config = settings(meta_opt, "test", *options)
    assert config["model"]["num_steps"] == 11
    assert config["seed_everything"] == 5
    assert config["optimizee"]["init_args"] == {"dimension": 2, "steepness": 3.0}


def test_the_same_learned_optimizer_on_another_optimizee(trained, meta_opt):
    path = "checkpoints/bowl/run_0/best.ckpt"
    config = settings(meta_opt, "test", "--ckpt_path", path, "--optimizee", "Valley")
    assert config["optimizee"]["init_args"]["dimension"] == 3  # not the checkpoint's, which is of another class
    assert config["optimizer"]["init_args"]["hidden_size"] == 5  # the checkpoint's, whatever Valley recommends
    assert config["model"]["num_steps"] == 9  # recommended by Valley
    assert config["model"]["episodes_per_epoch"] == 3
    status, out, _ = meta_opt("test", "--ckpt_path", path, "--optimizee", "Valley", *QUIET)
    assert status == 0
    assert "test/final_loss" in out


def test_weights_that_do_not_fit(trained, meta_opt):
    message = fails(meta_opt, "test", "--ckpt_path", "last", "--optimizer.share", "tensor", *QUIET)
    assert message.startswith("the learned optimizer in checkpoints/bowl/run_0/last.ckpt does not fit: it lacks")
    message = fails(meta_opt, "test", "--ckpt_path", "last", "--optimizer.hidden_size", "4", *QUIET)
    assert "output_weight is [1, 5], not [1, 4]" in message


def test_resuming_goes_on_in_the_same_run(trained, meta_opt):
    status, out, _ = meta_opt("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3", *QUIET)
    assert status == 0
    assert "finished after 9 episodes" in out
    assert [path.name for path in Path("checkpoints/bowl").iterdir()] == ["run_0"]
    assert [path.name for path in Path("logs/bowl").iterdir()] == ["run_0"]
    assert int(checkpoint("checkpoints/bowl/run_0/last.ckpt")["state_dict"]["_extra_state"]["episode"]) == 9


def test_resuming_a_run_that_had_finished_changes_nothing(trained, meta_opt):
    path = Path("checkpoints/bowl/run_0/last.ckpt")
    before = path.read_bytes()
    status, out, _ = meta_opt("fit", "--ckpt_path", path, *QUIET)
    assert status == 0
    assert "had finished after 6 episodes" in out
    assert path.read_bytes() == before


def test_a_run_that_goes_on_with_other_validations_chooses_its_best_anew(trained, meta_opt):
    path = Path("checkpoints/bowl/run_0")
    before = (path / "best.ckpt").read_bytes()
    more = ("--model.num_steps", "30", "--trainer.max_epochs", "3")  # more steps, and so a larger sum of losses
    status, out, _ = meta_opt("fit", "--ckpt_path", "last", *more, *QUIET)
    assert status == 0
    assert "than before, or by another figure: best.ckpt is chosen anew" in out
    assert (path / "best.ckpt").read_bytes() != before
    assert checkpoint(path / "best.ckpt")["epoch"] == 2
    status, out, _ = meta_opt("fit", "--ckpt_path", "last", "--trainer.max_epochs", "4", *QUIET)
    assert status == 0
    assert "chosen anew" not in out


def test_another_figure_that_chooses_the_best_is_said(trained, meta_opt):
    more = ("--model.monitor", "final_loss", "--trainer.max_epochs", "3")
    status, out, _ = meta_opt("fit", "--ckpt_path", "last", *more, *QUIET)
    assert status == 0
    assert "by another figure: best.ckpt is chosen anew" in out


def test_weights_of_steps_are_not_of_validation(trained, meta_opt):
    """Whole episodes are judged without them, and so the best so far stays the best."""
    path = Path("checkpoints/bowl/run_0")
    before = (path / "best.ckpt").read_bytes()
    more = ("--model.step_weights", "last", "--model.lr", "10", "--trainer.max_epochs", "3")
    status, out, _ = meta_opt("fit", "--ckpt_path", "last", *more, *QUIET)
    assert status == 0
    assert "chosen anew" not in out
    assert (path / "best.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    "option", [("--model.warm_start", "quadratic"), ("--model.pretraining", "50"), ("--preset", "paper")]
)
def test_what_is_for_the_beginning_of_a_run_is_refused_when_it_goes_on(trained, meta_opt, option):
    config = Path("checkpoints/bowl/run_0/config.yaml")
    before = config.read_text()
    status, _, err = meta_opt("fit", "--ckpt_path", "last", *option, *QUIET)
    assert status == 2
    assert f"{option[0]} {option[1]} is for the beginning of a run, and this one goes on: leave it out" in err
    assert config.read_text() == before


def test_a_run_goes_on_with_what_it_was_begun_with(meta_opt, plugins):
    begun = ("--preset", "paper", "--model.pretraining", "2", "--trainer.max_epochs", "1")
    assert meta_opt("fit", *BOWL, *begun)[0] == 0
    config = Path("checkpoints/bowl/run_0/config.yaml")
    own = ("--config", config)
    for number, options in enumerate(((), begun[:4], own), start=2):
        resumed = ("--ckpt_path", "checkpoints/bowl/run_0/last.ckpt", "--trainer.max_epochs", str(number), *QUIET)
        status, _, err = meta_opt(
            "fit", *(own if options is own else ()), *resumed, *(() if options is own else options)
        )
        assert status == 0, err
        assert "preset: paper" in config.read_text()


def test_resuming_keeps_the_length_of_the_run(meta_opt, plugins):
    assert meta_opt("fit", "--optimizee", "bowl", "--trainer.max_epochs", "4", *QUIET)[0] == 0
    assert settings(meta_opt, "fit", "--ckpt_path", "last")["trainer"]["max_epochs"] == 4
    assert settings(meta_opt, "test", "--ckpt_path", "last")["trainer"]["max_epochs"] == 2


def test_a_run_that_was_moved_resumes_where_it_is(trained, meta_opt):
    score = checkpoint("checkpoints/bowl/run_0/best.ckpt")["callbacks"]
    Path("elsewhere").mkdir()
    shutil.move("checkpoints", "elsewhere/checkpoints")
    path = Path("elsewhere/checkpoints/bowl/run_0")
    assert meta_opt("fit", "--ckpt_path", path / "last.ckpt", "--trainer.max_epochs", "3", *QUIET)[0] == 0
    assert not Path("checkpoints").exists()
    monitored = [state for name, state in score.items() if "RunCheckpoint" in name and "val/objective" in name]
    resumed = checkpoint(path / "last.ckpt")["callbacks"]
    (state,) = [state for name, state in resumed.items() if "RunCheckpoint" in name and "val/objective" in name]
    assert state["best_model_score"] <= monitored[0]["best_model_score"]
    assert state["best_model_path"] == str((path / "best.ckpt").resolve())


def test_another_optimizee_cannot_go_on_with_a_run(trained, meta_opt):
    message = fails(meta_opt, "fit", "--ckpt_path", "checkpoints/bowl/run_0/last.ckpt", "--optimizee", "Valley")
    assert "was trained on bowl" in message


def test_early_stopping(meta_opt, plugins):
    options = ("--optimizee", "bowl", "--model.lr", "0", "--trainer.max_epochs", "9", "--early_stopping.patience", "2")
    status, out, _ = meta_opt("fit", *options, *QUIET)
    assert status == 0
    assert "finished after 9 episodes" in out  # one epoch that sets the mark, two that do not improve on it
    path = Path("checkpoints/bowl/run_0/last.ckpt")
    meta_opt("fit", "--ckpt_path", path, *QUIET)
    assert int(checkpoint(path)["state_dict"]["_extra_state"]["episode"]) == 9
    meta_opt("fit", "--ckpt_path", path, "--early_stopping.patience", "3", *QUIET)
    assert int(checkpoint(path)["state_dict"]["_extra_state"]["episode"]) == 12


def test_a_run_that_was_stale_in_its_first_epoch_does_not_go_on(meta_opt, plugins):
    """And what stops one that goes on with more patience is not what stopped it before."""
    often = ("--trainer.val_check_interval", "1", "--early_stopping.patience", "1", "--early_stopping.min_delta", "1e9")
    again = ("fit", "--ckpt_path", "last", *QUIET)
    for command in (("fit", *BOWL, *often), again):
        _, out, _ = meta_opt(*command)
        assert "finished after 2 episodes: stopped by --early_stopping (val/objective no longer fell)\n" in out
    time = ("--trainer.max_epochs", "99999", "--trainer.max_time", "00:00:00:01")
    _, out, _ = meta_opt(*again, "--early_stopping.patience", "99999", *time)
    assert re.search(r"finished after \d+ episodes: stopped by --trainer.max_time\n", out), out


def test_patience_is_that_of_the_best_checkpoint_too(meta_opt, plugins):
    """A run that goes on from it is stale when the one before was."""
    stale = ("--early_stopping.patience", "1", "--early_stopping.min_delta", "1e9", "--trainer.max_epochs", "9")
    assert "finished after 6 episodes: stopped" in meta_opt("fit", *BOWL, *stale)[1]
    path = Path("checkpoints/bowl/run_0/first.ckpt")
    assert meta_opt("fit", *BOWL, *stale, "--trainer.max_epochs", "1")[0] == 0
    shutil.copy("checkpoints/bowl/run_1/best.ckpt", path)
    assert "finished after 6 episodes: stopped" in meta_opt("fit", "--ckpt_path", path, *stale, *QUIET)[1]


def test_fast_dev_run_writes_nothing(meta_opt, plugins):
    assert meta_opt("fit", "--optimizee", "bowl", "--trainer.fast_dev_run", "true", *QUIET)[0] == 0
    assert list(Path().iterdir()) == []


# ------------------------------------------------------------------------------------------- checkpoints not trusted


def change(path, edit):
    content = checkpoint(path)
    edit(content)
    torch.save(content, "changed.ckpt")
    return "changed.ckpt"


def test_damaged_and_foreign_checkpoints(trained, meta_opt):
    path = Path("checkpoints/bowl/run_0/last.ckpt")
    Path("half.ckpt").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Path("text.ckpt").write_text("not a checkpoint")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    torch.save(torch.nn.Linear(1, 1), "pickle.ckpt")
    for name in ("half.ckpt", "text.ckpt", "pickle.ckpt"):
        assert f"{name} is damaged or not a checkpoint" in fails(meta_opt, "test", "--ckpt_path", name)
    assert fails(meta_opt, "fit", "--ckpt_path", "foreign.ckpt") == "foreign.ckpt is not a checkpoint of meta-opt"
    newer = change(path, lambda content: content["meta_opt"].update(format=99))
    assert "has format 99" in fails(meta_opt, "test", "--ckpt_path", newer)
    partial = change(path, lambda content: content["meta_opt"].pop("optimizer"))
    assert "its entry meta_opt is incomplete" in fails(meta_opt, "test", "--ckpt_path", partial)
    unknown = change(path, lambda content: content["meta_opt"]["model"].update(new_option=1))
    assert "has a setting model.new_option" in fails(meta_opt, "test", "--ckpt_path", unknown)


@pytest.mark.parametrize("entry", ["callbacks", "loops", "optimizer_states", "epoch", "pytorch-lightning_version"])
@pytest.mark.parametrize("value", [None, 5, "x", [1], {"x": [None]}], ids=str)
def test_a_run_that_cannot_be_restored(trained, meta_opt, entry, value):
    path = change("checkpoints/bowl/run_0/last.ckpt", lambda content: content.update({entry: value}))
    status, _, err = meta_opt("fit", "--ckpt_path", path, "--trainer.max_epochs", "3", *QUIET)
    assert status in (0, 2)  # not every entry matters
    assert len(err.splitlines()) == (status == 2)
    if status == 2 and entry in ("loops", "optimizer_states"):
        assert "changed.ckpt is damaged, and fit cannot go on with it" in err


def test_networks_that_an_optimizee_has_no_use_for(meta_opt, plugins):
    few = ("--model.num_steps", "4", "--model.episodes_per_epoch", "1", "--trainer.max_epochs", "1")
    digits = ("--optimizee", "digits_mlp", "--optimizee.hidden_sizes", "[2]", "--optimizer.share", "kind")
    assert meta_opt("fit", *digits, *few, *QUIET)[0] == 0
    message = fails(meta_opt, "test", "--ckpt_path", "checkpoints/digits_mlp/run_0/last.ckpt", *BOWL[:2])
    assert message.endswith("networks for what the optimizee does not have; meta-opt compare leaves them out")


META_OPTIMIZER = {
    "another shape": lambda saved: saved["state"][0].update(exp_avg=torch.zeros(77)),
    "none": lambda saved: saved["state"][0].update(exp_avg=None),
    "a list": lambda saved: saved["state"][0].update(exp_avg_sq=[]),
    "a tensor for a state": lambda saved: saved["state"].update({0: torch.zeros(0)}),
    "not finite": lambda saved: saved["state"][0]["exp_avg_sq"].fill_(torch.nan),
    "before the first step": lambda saved: saved["state"][0]["step"].fill_(-1.0),
    "squares below zero": lambda saved: saved["state"][0]["exp_avg_sq"].sub_(1.0),
    "no mean": lambda saved: saved["state"][0].pop("exp_avg"),
    "one mean for all": lambda saved: saved["state"][0].update(exp_avg=torch.tensor(0.0)),
}


@pytest.mark.parametrize("damage", META_OPTIMIZER)
def test_a_meta_optimizer_that_cannot_be_restored(trained, meta_opt, damage):
    edit = META_OPTIMIZER[damage]
    path = change("checkpoints/bowl/run_0/last.ckpt", lambda content: edit(content["optimizer_states"][0]))
    status, _, err = meta_opt("fit", "--ckpt_path", path, "--trainer.max_epochs", "3", *QUIET)
    assert status == 2
    assert re.fullmatch(r"meta-opt: error: .* is damaged.*\n", err), err


@pytest.mark.parametrize("value", [math.nan, -1, "x"])
def test_counters_that_count_nothing(trained, meta_opt, value):
    def edit(content):
        content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = value

    path = change("checkpoints/bowl/run_0/last.ckpt", edit)
    message = fails(meta_opt, "fit", "--ckpt_path", path, "--trainer.max_epochs", "3", *QUIET)
    assert message == f"the checkpoint is damaged: its loops.fit_loop.epoch_progress.current.processed is {value!r}"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("early_stopping.patience", None),
        ("early_stopping.patience", "x"),
        ("early_stopping.min_delta", "x"),
        ("early_stopping.stopping_threshold", "x"),
        ("trainer.max_epochs", "x"),
        ("trainer.limit_val_batches", "x"),
    ],
)
def test_settings_that_are_of_another_type(trained, meta_opt, option, value):
    path = change("checkpoints/bowl/run_0/last.ckpt", lambda content: content["meta_opt_run"].update({option: value}))
    message = fails(meta_opt, "fit", "--ckpt_path", path, *QUIET)
    assert message == f"changed.ckpt is damaged: its {option} is {value!r}"


def test_escape_codes_of_a_checkpoint_are_not_printed(trained, meta_opt):
    path = change(
        "checkpoints/bowl/run_0/last.ckpt", lambda content: content["callbacks"].update({"\x1b[31mRed\n": {}})
    )
    with pytest.warns(UserWarning, match=r"the run goes on without \[31mRed: say"):
        assert meta_opt("fit", "--ckpt_path", path, "--trainer.max_epochs", "3", *QUIET)[0] == 0


def test_a_checkpoint_names_no_class_by_its_path(trained, meta_opt):
    def edit(content):
        content["meta_opt"]["optimizee"]["class_path"] = "offered.good.Bowl"

    path = change("checkpoints/bowl/run_0/last.ckpt", edit)
    message = fails(meta_opt, "test", "--ckpt_path", path)
    assert message == (
        "the optimizee in changed.ckpt is offered.good.Bowl, not an installed one, and a checkpoint may not say what "
        "to import; name its class with --optimizee MODULE.CLASS, or --optimizee FILE.py:CLASS"
    )
    assert meta_opt("test", "--ckpt_path", path, "--optimizee", "bowl", *QUIET)[0] == 0


@pytest.fixture
def importable(trained):
    """A module in the current folder, which is on the path, that tells that it was imported."""
    Path("never_imported.py").write_text("from pathlib import Path\nPath('imported').touch()\nclass Class: ...")
    with pytest.MonkeyPatch.context() as patch:  # one that ends before the path is what it was before the plugins
        patch.syspath_prepend(Path.cwd())
        yield


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("optimizee", "init_args", "dimension"), [{"class_path": "never_imported.Class"}]),
        (("optimizee", "init_args", "dimension"), "never_imported.Class"),
        (("model", "estimator"), "never_imported.Class"),
        (("model", "estimator"), {"class_path": "never_imported.Class", "init_args": {}}),
        (("model", "optimizee"), "never_imported.Class"),
        (("model", "estimator.class_path"), "never_imported.Class"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_imports_nothing(trained, meta_opt, importable, command, where, value):
    def edit(content):
        inner = content["meta_opt"]
        for name in where[:-1]:
            inner = inner[name]
        inner[where[-1]] = value

    message = fails(meta_opt, command, "--ckpt_path", change("checkpoints/bowl/run_0/last.ckpt", edit))
    assert (
        "has an argument that names a class or a file: dimension" in message or "is damaged: meta_opt.model." in message
    )
    assert not Path("imported").exists()


def test_a_part_of_a_mixture_is_not_imported(trained, meta_opt, importable):
    def edit(content):
        content["meta_opt"]["optimizee"] = {"class_path": "mixture", "init_args": {"parts": ["never_imported.Class"]}}

    message = fails(meta_opt, "test", "--ckpt_path", change("checkpoints/bowl/run_0/last.ckpt", edit))
    assert "has an argument that names a class or a file: parts" in message
    assert not Path("imported").exists()


# ------------------------------------------------------------------------------------------------- from a checkout


def test_cli_py_is_the_same_command():
    script = Path(__file__).parents[2] / "cli.py"
    done = subprocess.run([sys.executable, str(script), "list"], capture_output=True, text=True, check=True)
    assert "coordinatewise_lstm" in done.stdout


BOWL = ("--optimizee", "bowl", "--trainer.enable_progress_bar", "false")


@pytest.mark.parametrize(
    ("options", "episodes"),
    [
        (("--trainer.max_steps", "2"), 1),  # two meta-steps an episode: the first of an epoch of three
        (("--trainer.max_epochs", "2", "--trainer.limit_val_batches", "0"), 6),
        (("--trainer.max_epochs", "2", "--trainer.val_check_interval", "2"), 6),
        (("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "5"), 6),
        (("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2"), 4),
        (("--trainer.max_epochs", "2", "--trainer.callbacks+=EMAWeightAveraging"), 6),
    ],
)
def test_trainer_options_keep_the_work(meta_opt, plugins, options, episodes):
    status, out, err = meta_opt("fit", *BOWL, *options)
    assert status == 0, err
    assert f"finished after {episodes} episodes" in out
    (last,) = Path("checkpoints").glob("bowl/*/last.ckpt")
    assert torch.load(last, weights_only=True)["state_dict"]["_extra_state"]["skipped"] == 0


@pytest.mark.parametrize("stops", [("3",), ("7", "9"), ("6", "9"), ("6", "9", "11")])
def test_a_run_that_max_steps_stopped_goes_on_exactly(meta_opt, plugins, stops):
    """Two meta-steps an episode, three episodes an epoch, so that 6 is the end of an epoch."""
    size = ("--model.episodes_per_epoch", "3", "--trainer.max_epochs", "3")
    assert meta_opt("fit", *BOWL, *size)[0] == 0
    going_on = BOWL[2:]
    assert meta_opt("fit", *BOWL, *size, "--trainer.max_steps", stops[0])[0] == 0
    for stop in (*stops[1:], "-1"):
        assert meta_opt("fit", *going_on, "--ckpt_path", "last", "--trainer.max_steps", stop)[0] == 0
    whole, cut = (checkpoint(f"checkpoints/bowl/run_{number}/last.ckpt") for number in (0, 1))
    assert (cut["epoch"], cut["global_step"]) == (whole["epoch"], whole["global_step"]) == (2, 18)
    assert cut["state_dict"]["_extra_state"] == whole["state_dict"]["_extra_state"]
    for name, value in whole["state_dict"].items():
        assert name == "_extra_state" or torch.equal(value.nan_to_num(), cut["state_dict"][name].nan_to_num())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trainer.num_nodes", "2"), "trainer.num_nodes 2 needs processes that were started on every node"),
        (("--trainer.gradient_clip_val", "1"), "clips no meta-gradient: set model.clip_norm"),
        (("--trainer.accumulate_grad_batches", "2"), "set model.num_problems"),
        (("--trainer.barebones", "true"), "keeps neither checkpoints nor a log: set trainer.fast_dev_run"),
        (
            ("--trainer.strategy", "ddp_spawn", "--trainer.devices", "2", "--trainer.accelerator", "cpu"),
            "trainer.strategy must be ddp",
        ),
        (("--trainer.val_check_interval", "0"), "val_check_interval must be more than 0"),
        (("--trainer.check_val_every_n_epoch", "0"), "check_val_every_n_epoch must be more than 0"),
        (("--trainer.accelerator", "tpu"), "the trainer cannot be made: Requirement 'torch_xla"),
        (("--trainer.precision", "transformer-engine"), "the trainer cannot be made: Requirement 'transformer_engine"),
        (("--trainer.strategy", "nonsense"), "You selected an invalid strategy name"),
        (("--trainer.callbacks+=BackboneFinetuning",), "cannot work with these options: 'MetaLearner' object has no"),
        (("--model.num_steps", "1000000000000"), "model.num_steps must be at least 1 and less than 1e+12"),
        (("--model.num_problems", "900000000000"), "not enough memory: at least"),
        (("--model.num_validation_problems", "900000000000"), "for the losses of model.num_validation_problems"),
        (("--model.episodes_per_epoch", "1" + "0" * 400), "not an integer of 1329 bits"),
        (("--optimizer.hidden_size", "1000000"), "1000000 units, see optimizer.hidden_size"),
        (("--optimizer.num_layers", "900000000000"), "900000000000 layers of 5 units"),
        (("--optimizee.dimension", "1" + "0" * 14), "there is not enough memory"),
        (("--model.num_problems", "2" + "0" * 9), "there is not enough memory"),
    ],
)
def test_trainer_options_that_cannot_work(meta_opt, plugins, options, message, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert message in fails(meta_opt, "fit", *BOWL, *options)


def test_what_the_trainer_notices_when_it_starts(meta_opt, plugins):
    status, _, err = meta_opt("fit", *BOWL, "--trainer.val_check_interval", "100")
    assert status == 2
    assert re.fullmatch(r"meta-opt: error: the trainer cannot work with these options: `val_check_int.*\n", err)
    assert not Path("logs").exists()
    assert not Path("checkpoints").exists()
    status, _, err = meta_opt("fit", *BOWL, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x")
    assert status == 2
    assert "Early stopping conditioned on metric `x`" in err


@pytest.mark.parametrize(
    ("monitor", "name"),
    [("objective", "val/objective"), ("loss_sum", "val/loss_sum"), ("final_loss", "val/final_loss")],
)
def test_what_chooses_the_best_checkpoint(meta_opt, plugins, monitor, name):
    status, _, err = meta_opt("fit", *BOWL, "--model.monitor", monitor, "--trainer.max_epochs", "1")
    assert status == 0, err
    (best,) = Path("checkpoints").glob("bowl/*/best.ckpt")
    callbacks = torch.load(best, weights_only=True)["callbacks"]
    assert {state["monitor"] for state in callbacks.values() if state.get("monitor")} == {name}
    assert any(f"'{name}'" in key for key in callbacks if key.startswith("StopWhenStale"))


NEGATIVE = '''
from meta_opt.api import Optimizee

import torch

class Below(Optimizee):
    """A bowl, below zero in validation."""

    def sample_problem(self, split, generator):
        return {"depth": torch.tensor(100.0 if split == "validation" else 0.0)}

    def init_params(self, generator):
        return {"x": torch.randn(2, generator=generator)}

    def loss(self, params, problem, batch):
        return params["x"].square().sum() - problem["depth"]
'''


def test_says_where_nothing_finite_was_there_to_choose_by(tmp_path, monkeypatch, capsys):
    """The logarithm of a negative loss: the best checkpoint is not chosen, and that is said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below.py").write_text(NEGATIVE)
    short = ("--model.num_steps=4", "--model.episodes_per_epoch=2", "--trainer.max_epochs=2")
    quiet = ("--model.num_validation_problems=2", "--trainer.enable_progress_bar=false", "--model.max_skipped=100")
    fit = ["fit", "--optimizee", "below.py:Below", *short, *quiet]
    assert main([*fit, "--model.meta_loss", "log_mean"]) == 0
    printed = capsys.readouterr().out
    assert "val/objective was never finite, and best.ckpt is that of the first validation" in printed
    assert main(fit) == 0
    assert "never finite" not in capsys.readouterr().out
