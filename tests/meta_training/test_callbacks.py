import errno
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_opt import cli
from meta_opt.evaluation.monitoring import ValidationCurves
from meta_opt.locks import locked

RUN = Path("checkpoints/bowl/run_0")
QUIET = ["--trainer.enable_progress_bar", "false"]
# Two epochs of three episodes, with all that a checkpoint has to hold for exact resuming.
FIT = ["fit", "--optimizee", "bowl", "--model.lr_schedule", "cosine", "--model.average_decay", "0.9", *QUIET]
FIT += ["--model.clip_relative", "2"]
RESUME = ["fit", "--ckpt_path", "last", *QUIET]


def outcome(folder):
    """What must not depend on interruptions: the weights, last and best, the log, and what validation has told."""
    events = EventAccumulator(str(folder / "logs/bowl/run_0"), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag not in ("train/steps_per_s", "train/seconds")]
    scalars = {tag: sorted((event.step, event.value) for event in events.Scalars(tag)) for tag in tags}
    weights = {name: torch.load(folder / RUN / name, weights_only=True) for name in ("best.ckpt", "last.ckpt")}
    return {name: content["state_dict"] for name, content in weights.items()}, scalars | told(weights["last.ckpt"])


def later():
    """Until the next second, by which TensorBoard tells which file of a log comes first."""
    time.sleep(1.0 - time.time() % 1.0 + 0.05)


def told(checkpoint):
    callbacks = checkpoint["callbacks"]
    (best,) = (state["best_model_score"] for state in callbacks.values() if state.get("monitor"))
    return {"best": float(best), "curves": callbacks["ValidationCurves"]["means"]}


def same(left, right):
    torch.testing.assert_close(left[0], right[0], rtol=0, atol=0, equal_nan=True)
    assert left[1] == right[1]


def send(hook, episode, number, times=1):
    arguments = {"hook": hook, "episode": episode, "number": int(number), "times": times}
    return ["--trainer.callbacks+", json.dumps({"class_path": "sends_signals.SendSignal", "init_args": arguments})]


@pytest.fixture(scope="module")
def reference(offering, tmp_path_factory):
    """The outcome of the run that is not interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with offering(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(FIT) == 0
    return outcome(folder)


def test_resuming_is_exact_in_float64(plugins, meta_opt):
    double = ["--trainer.precision", "64-true"]
    assert meta_opt(*FIT, *double)[0] == 0
    whole = outcome(Path())
    shutil.rmtree("checkpoints")
    shutil.rmtree("logs")
    assert meta_opt(*FIT, *double, *send("episode", 1, signal.SIGINT))[0] == 130
    assert meta_opt(*RESUME)[0] == 0
    same(outcome(Path()), whole)


MOMENTS = [
    ("episode", 0, signal.SIGINT, 1),
    ("episode", 1, signal.SIGTERM, 2),
    ("episode", 2, signal.SIGINT, 3),  # the last of its epoch: validation comes first
    ("validation", 3, signal.SIGTERM, 3),
    ("epoch_end", 3, signal.SIGINT, 3),
    ("episode", 4, signal.SIGTERM, 5),
    ("episode", 5, signal.SIGINT, 6),
    ("validation", 6, signal.SIGTERM, 6),
]


@pytest.mark.parametrize(("hook", "episode", "number", "stopped"), MOMENTS)
def test_resuming_is_exact(reference, plugins, meta_opt, hook, episode, number, stopped):
    handlers = [signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM)]
    status, out, _ = meta_opt(*FIT, *send(hook, episode, number))
    assert status == 128 + number
    assert f"stopped after {stopped} episodes" in out
    assert f"--ckpt_path {RUN}/last.ckpt\n" in out
    assert meta_opt(*RESUME)[0] == 0
    same(outcome(Path()), reference)
    assert [signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_resuming_from_a_checkpoint_of_lightning_is_exact(reference, plugins, meta_opt):
    """Of every episode, also the last of an epoch."""
    arguments = {"every_n_train_steps": 1, "save_top_k": -1, "dirpath": "own"}
    save = ["--trainer.callbacks+", json.dumps({"class_path": "ModelCheckpoint", "init_args": arguments})]
    assert meta_opt(*FIT, *save)[0] == 0
    saved = sorted(Path("own").rename("kept").iterdir())
    assert len(saved) == 6
    for path in saved:
        shutil.copy(path, RUN / "own.ckpt")
        assert meta_opt("fit", "--ckpt_path", RUN / "own.ckpt", *save, *QUIET)[0] == 0
        weights = torch.load(RUN / "last.ckpt", weights_only=True)["state_dict"]
        torch.testing.assert_close(weights, reference[0]["last.ckpt"], rtol=0, atol=0, equal_nan=True)


OFTEN = {
    "in every epoch": ("--trainer.val_check_interval", "2"),
    "over epochs": ("--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "4"),
}


@pytest.mark.parametrize(("often", "episode"), [("in every epoch", 1), ("in every epoch", 4), ("over epochs", 3)])
@pytest.mark.parametrize("stopped_by", ["signal", "max_steps"])
def test_a_validation_where_a_run_is_stopped_counts(plugins, meta_opt, often, episode, stopped_by):
    """Within an epoch; the best is then not forgotten."""
    assert meta_opt(*FIT, *OFTEN[often])[0] == 0
    whole = outcome(Path())
    shutil.rmtree("checkpoints")
    shutil.rmtree("logs")
    if stopped_by == "signal":
        assert meta_opt(*FIT, *OFTEN[often], *send("episode", episode, signal.SIGINT))[0] == 130
        assert meta_opt(*RESUME)[0] == 0
    else:  # two meta-steps an episode
        assert meta_opt(*FIT, *OFTEN[often], "--trainer.max_steps", 2 * episode + 2)[0] == 0
        assert episode + 1 in told(torch.load(RUN / "last.ckpt", weights_only=True))["curves"]
        assert meta_opt(*RESUME, "--trainer.max_steps=-1")[0] == 0
    same(outcome(Path()), whole)


def test_the_log_of_a_run_that_goes_back_is_one_history(plugins, meta_opt):
    """What came after the checkpoint that it goes on from is left out."""
    assert meta_opt(*FIT, "--trainer.val_check_interval", "2")[0] == 0
    _, before = outcome(Path())
    shutil.copy(RUN / "best.ckpt", "kept.ckpt")
    seen = torch.load("kept.ckpt", weights_only=True)["state_dict"]["_extra_state"]["episode"]
    shutil.copy("kept.ckpt", RUN / "kept.ckpt")
    later()
    assert meta_opt("fit", "--ckpt_path", RUN / "kept.ckpt", "--model.lr", "0.1", *QUIET)[0] == 0
    _, after = outcome(Path())
    for tag in ("train/meta_loss", "val/objective", "val/hp_final_loss"):
        steps = [step for step, _ in after[tag]]
        assert steps == sorted({*steps})
        assert [pair for pair in before[tag] if pair[0] < seen] == [pair for pair in after[tag] if pair[0] < seen]
    assert seen < 6
    assert before["train/meta_loss"] != after["train/meta_loss"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("stopped", "options"), [(2, []), (3, []), (3, ["--trainer.min_epochs", "2"])])
def test_a_signal_that_reaches_only_another_process(
    reference, plugins, meta_opt, monkeypatch, number, stopped, options
):
    agreements = itertools.count(1)  # one after each episode

    def reduce(self, tensor, *_, reduce_op="mean"):
        return torch.tensor(int(number)) if reduce_op == "max" and next(agreements) == stopped else tensor

    with monkeypatch.context() as patch:
        patch.setattr(SingleDeviceStrategy, "reduce", reduce)
        status, out, _ = meta_opt(*FIT, *options)
    assert status == 128 + number
    assert f"stopped after {stopped} episodes" in out
    assert f"--ckpt_path {RUN}/last.ckpt\n" in out
    assert meta_opt(*RESUME)[0] == 0
    same(outcome(Path()), reference)


def test_the_signal_of_slurm_stops_a_run_as_others_do(reference, plugins, meta_opt, slurm):
    before = signal.getsignal(signal.SIGUSR1)
    status, out, _ = meta_opt(*FIT, *send("episode", 1, signal.SIGUSR1))
    assert status == 128 + signal.SIGUSR1
    assert "stopped after 2 episodes" in out
    assert f"--ckpt_path {RUN}/last.ckpt\n" in out
    assert not list(Path().glob("*.ckpt"))
    assert signal.getsignal(signal.SIGUSR1) == before
    assert meta_opt(*RESUME)[0] == 0
    same(outcome(Path()), reference)


def test_a_signal_before_training_says_that_nothing_was_saved(plugins, meta_opt):
    status, out, _ = meta_opt(*FIT, *send("validation", 0, signal.SIGINT), "--trainer.num_sanity_val_steps", "1")
    assert status == 130
    assert out.endswith("stopped after 0 episodes\nbegin anew: no checkpoint was saved\n")
    assert not Path("checkpoints").exists()


def test_every_episode_interrupted(reference, plugins, meta_opt):
    meta_opt(*FIT, *send("episode", 0, signal.SIGTERM))
    for episode in range(1, 6):
        status, out, _ = meta_opt(*RESUME, *send("episode", episode, signal.SIGINT))
        assert status == 130
        assert f"stopped after {episode + 1} episodes" in out
    same(outcome(Path()), reference)


def test_the_command_to_resume_is_that(reference, plugins, meta_opt):
    _, out, _ = meta_opt(*FIT, *send("episode", 1, signal.SIGTERM))
    (line,) = re.findall(r"next:\n  .* (fit .*)\n", out)
    assert meta_opt(*shlex.split(line))[0] == 0
    same(outcome(Path()), reference)


def test_the_second_signal_stops_at_once(reference, plugins, meta_opt):
    status, out, _ = meta_opt(*FIT, *send("episode", 4, signal.SIGINT, times=2))
    assert status == 130
    assert "stopped after 4 episodes" in out
    assert (
        int(torch.load(RUN / "last.ckpt", weights_only=True)["state_dict"]["_extra_state"]["episode"]) == 3
    )  # of the last epoch's end
    later()
    assert meta_opt(*RESUME)[0] == 0
    same(outcome(Path()), reference)


@pytest.mark.slow
def test_killed(reference, plugins, meta_opt, plugin_folder):
    environment = {**os.environ, "PYTHONPATH": f"{plugin_folder}:{Path(__file__).parents[1]}"}
    command = [sys.executable, "-m", "meta_opt.cli", *FIT, *send("episode", 4, signal.SIGKILL)]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
    later()
    assert meta_opt(*RESUME)[0] == 0
    same(outcome(Path()), reference)


def test_a_run_is_trained_by_one_process(reference, plugins, meta_opt):
    meta_opt(*FIT, *send("episode", 0, signal.SIGTERM))
    before = (RUN / "last.ckpt").read_bytes()
    with locked(RUN):
        status, out, err = meta_opt(*RESUME)
    assert (status, out) == (2, "")
    assert err == (
        f"meta-opt: error: another process is training {RUN}: wait until it ends, or leave --ckpt_path out for a new "
        "run\n"
    )
    assert (RUN / "last.ckpt").read_bytes() == before
    assert meta_opt(*RESUME)[0] == 0
    same(outcome(Path()), reference)
    with locked(RUN):  # it is free afterwards
        pass


def test_a_full_disk_is_one_line_and_the_command_to_go_on(reference, plugins, meta_opt, monkeypatch):
    meta_opt(*FIT, *send("episode", 0, signal.SIGTERM))
    before = {path.name: path.read_bytes() for path in RUN.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        status, _, err = meta_opt(*RESUME)
    assert status == 2
    assert re.search(r"cannot write .*: No space left on device; when it can be, go on with: meta-opt fit ", err)
    assert err.endswith(f" --ckpt_path {RUN}/last.ckpt\n")
    assert len(err.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in RUN.iterdir()} == before
    assert meta_opt(*RESUME)[0] == 0
    same(outcome(Path()), reference)


def test_a_folder_that_vanishes_is_made_anew_and_said(reference, plugins, meta_opt, monkeypatch):
    validated = ValidationCurves.on_validation_end

    def vanishes(self, trainer, module):
        shutil.rmtree("checkpoints")
        validated(self, trainer, module)

    monkeypatch.setattr(ValidationCurves, "on_validation_end", vanishes)
    status, _, err = meta_opt(*FIT)
    assert status == 2
    assert f"{RUN} vanished while training; it was made anew; when it can be, go on with" in err
    assert {"config.yaml", "last.ckpt"} <= {path.name for path in RUN.iterdir()}
