"""The command ``meta-opt compare``, from a checkpoint to the files it leaves."""

import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_opt.cli import comparing, main
from meta_opt.cli.compare_help import HELP
from meta_opt.evaluation import compare, reports
from meta_opt.evaluation.compare import Mean
from meta_opt.locks import locked
from meta_opt.optimizers.baseline_names import UNTUNED

QUIET = ("--trainer.enable_progress_bar", "false")
FEW = ("--num_problems", "3", "--num_validation_problems", "3")
RUNS = {  # as fit is told
    "bowl": ("--optimizee.dimension", "2"),
    "digits_mlp": (
        "--optimizee.hidden_sizes",
        "[3]",
        "--optimizee.batch_size",
        "8",
        "--model.num_validation_problems=3",
        "--model.num_validation_steps=15",
    ),
}
DIGITS = ("--model.num_steps", "12", "--model.episodes_per_epoch", "2", "--trainer.max_epochs", "1")


@pytest.fixture(scope="module")
def runs(offering, tmp_path_factory):
    """A folder with a run on bowl and one on digits_mlp."""
    folder = tmp_path_factory.mktemp("runs")
    with offering(), pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        for name, options in RUNS.items():
            more = DIGITS if name == "digits_mlp" else ()
            assert main(["fit", "--optimizee", name, *options, *more, *QUIET]) == 0
    return folder


@pytest.fixture
def trained(runs, meta_opt, plugins):
    """Copies of those runs, in the current folder."""
    shutil.copytree(runs, Path(), dirs_exist_ok=True)


BOWL = "checkpoints/bowl/run_0/best.ckpt"
DIGIT = "checkpoints/digits_mlp/run_0/best.ckpt"


def test_metrics_are_those_of_the_end(trained, meta_opt):
    options = (*FEW, "--num_steps", "20", "40", "--baselines", "Adam", "Adam:cosine:lr=0.1")
    status, _, err = meta_opt("compare", "--ckpt_path", DIGIT, *options)
    assert (status, err) == (0, "")
    found = results("comparisons/digits_mlp/0")
    *went_on, scheduled = found["optimizers"].values()
    assert [entry["metrics"] for entry in went_on] == [{}, {}]
    (longest,) = found["other_horizons"]
    for entry in (scheduled, *longest["optimizers"].values()):
        assert 0 <= entry["metrics"]["accuracy"] <= 1


def test_a_network_that_stands_in(trained, meta_opt, capsys):
    """A checkpoint with a network for vectors only, on an optimizee that has matrices too."""
    assert main(["fit", "--optimizee", "bowl", *RUNS["bowl"], "--optimizer.share", "kind", *QUIET]) == 0
    capsys.readouterr()
    options = ("--ckpt_path", "checkpoints/bowl/run_1/best.ckpt", "--optimizee", "digits_mlp", *FEW, "--num_steps", "5")
    assert "has no network for matrix; it has vector. A comparison can say with network_for" in fails(
        meta_opt, *options
    )
    unknown = fails(meta_opt, *options, "--network_for.matrices", "vector")
    assert unknown == "--network_for.matrices: the optimizee has no matrices; it has matrix, vector"
    unknown = fails(meta_opt, *options, "--network_for.matrix", "matrix")
    assert unknown == "--network_for.matrix matrix: there is no such network, but vector"
    status, _, err = meta_opt("compare", *options, "--network_for.matrix", "vector", "--baselines", "Adam")
    assert (status, err) == (0, "")
    assert results("comparisons/digits_mlp/0")["optimizers"]["bowl/run_1"]["final"] > 0


def results(folder="comparisons/bowl/0"):
    return json.loads(Path(folder, "results.json").read_text())


def without_times(results):
    text = json.dumps(results)
    return re.sub(r'"seconds_per_step": [^,]*', "", text)


def fails(meta_opt, *arguments):
    """The one line that compare fails with, having made nothing."""
    before = sorted(Path().rglob("*"))
    status, out, err = meta_opt("compare", *arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"meta-opt: error: .*\n", err)
    assert sorted(Path().rglob("*")) == before
    return err.removeprefix("meta-opt: error: ").strip()


# --------------------------------------------------------------------------------------------------------- what comes


def test_what_results_json_holds(trained, meta_opt):
    status, _, err = meta_opt("compare", "--ckpt_path", BOWL, *FEW, "--num_steps", "4")
    assert (status, err) == (0, "")
    found = results()
    assert (found["optimizee"], found["num_steps"], found["num_problems"]) == ("bowl", 4, 3)
    assert found["optimizee_options"] == {"dimension": 2, "steepness": 1.0}
    assert (found["seed"], found["num_validation_problems"], found["other_horizons"]) == (0, 3, [])
    assert found["command"] == f"meta-opt compare --ckpt_path {BOWL} {' '.join(FEW)} --num_steps 4"
    assert list(found["optimizers"]) == ["bowl/run_0", "SGD", "Nesterov", "RMSprop", "Adam", *UNTUNED]
    for name, entry in found["optimizers"].items():
        learned = name == "bowl/run_0"
        assert entry["kind"] == ("learned" if learned else "baseline")
        assert len(entry["loss_mean"]) == len(entry["loss_sem"]) == 5
        assert entry["loss_mean"][0] == found["optimizers"]["SGD"]["loss_mean"][0]  # the same problems and θ_0
        assert entry["final"] == pytest.approx(entry["loss_mean"][-1])
        assert entry["seconds_per_step"] > 0
        if learned:
            assert entry["learning_rate"] is None
            assert entry["checkpoint"] == BOWL
            assert entry["sum"] == pytest.approx(sum(entry["loss_mean"][1:]))
        else:
            tuned = entry["tuned_for"]
            assert entry["learning_rate"] == tuned["final"]["learning_rate"] > 0
            assert (entry["sum"], entry["final"]) == (tuned["sum"]["sum"], tuned["final"]["final"])
            assert tuned["final"]["sum"] == pytest.approx(sum(entry["loss_mean"][1:]))
            assert (entry["sum_sem"], entry["final_sem"]) == (tuned["sum"]["sum_sem"], tuned["final"]["final_sem"])
    baselines = [entry for entry in found["optimizers"].values() if entry.get("tuned")]
    best = min(entry["final"] for entry in baselines)
    assert found["optimizers"]["bowl/run_0"]["final_ratio"] == found["optimizers"]["bowl/run_0"]["final"] / best
    assert min(entry["steps_to_best_baseline_final"] or 99 for entry in baselines) <= 4


def test_the_other_files(trained, meta_opt):
    meta_opt("compare", "--ckpt_path", BOWL, *FEW, "--num_steps", "5", "9", "--baselines", "Adam", "SGD")
    folder = Path("comparisons/bowl/0")
    assert sorted(path.name for path in folder.iterdir()) == ["curves.csv", "curves.png", "results.json", "tensorboard"]
    found = results()
    horizons = {found["num_steps"]: found["optimizers"]}
    horizons |= {other["num_steps"]: other["optimizers"] for other in found["other_horizons"]}
    assert list(horizons) == [5, 9]

    with (folder / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (6 + 10) * (1 + 2 + 2)  # one curve of the learned, two of each baseline
    for steps, optimizers in horizons.items():
        for name, entry in optimizers.items():
            tuned_for = "final" if entry["kind"] == "baseline" else ""
            mine = [row for row in rows if (row["num_steps"], row["optimizer"]) == (str(steps), name)]
            curve = [float(row["loss_mean"]) for row in mine if row["tuned_for"] == tuned_for]
            assert curve == entry["loss_mean"]
            assert {row["learning_rate"] for row in mine if row["tuned_for"] == tuned_for} == {
                str(entry["learning_rate"] or "")
            }

    names = {str(path.parent.relative_to(folder / "tensorboard")) for path in folder.rglob("events.*")}
    assert names == {"bowl/run_0", "Adam", "SGD"}
    for name in names:
        scalars = EventAccumulator(str(folder / "tensorboard" / name))
        scalars.Reload()
        assert scalars.Tags()["scalars"] == ["log10 of the loss/5_steps", "log10 of the loss/9_steps"]
        for steps, optimizers in horizons.items():
            curve = [10**event.value for event in scalars.Scalars(f"log10 of the loss/{steps}_steps")]
            assert curve == pytest.approx(optimizers[name]["loss_mean"], rel=1e-5, abs=1e-6)

    one = Image.open(folder / "curves.png")
    assert one.size == pytest.approx((2800, 920), abs=1)
    assert len(one.convert("RGB").getcolors(maxcolors=1 << 20)) > 20


def test_the_table(trained, meta_opt):
    _, out, _ = meta_opt("compare", "--ckpt_path", BOWL, *FEW, "--num_steps", "5", "9", "--baselines", "Adam")
    assert max(map(len, out.splitlines())) <= 100
    assert "bowl, 5 steps, 3 test problems" in out
    assert "bowl, 9 steps, 3 test problems" in out
    entry = results()["optimizers"]["bowl/run_0"]
    (line, _, _) = (line for line in out.splitlines() if line.startswith("bowl/run_0"))
    assert f"{entry['sum']:.4g} ± {entry['sum_sem']:.2g} " in line
    assert f" {entry['final_ratio']:.3f} " in line
    assert "comparisons/bowl/0\n" in out


@pytest.mark.parametrize(
    ("baselines", "said"),
    [
        (
            ["Adam"],
            "rate: the learning rate tuned on validation problems for that figure; ratio: to the best baseline\n",
        ),
        (
            ["Adam:lr=0.1"],
            "rate: fixed, not tuned; ratio: to the best baseline, none of them tuned\n",
        ),
        (
            ["Adam:lr=0.1", "SGD"],
            "for that figure, or fixed; ratio: to the best tuned baseline\n",
        ),
    ],
)
def test_the_legend_says_what_was_tuned(baselines, said, trained, meta_opt):
    _, out, _ = meta_opt("compare", "--ckpt_path", BOWL, *FEW, "--num_steps", "5", "--baselines", *baselines)
    assert said in out
    assert max(map(len, out.splitlines())) <= 110


def test_the_same_seed_gives_the_same(trained, meta_opt):
    for seed in ("0", "0", "1"):
        meta_opt("compare", "--ckpt_path", BOWL, *FEW, "--baselines", "SGD", "--seed_everything", seed)
    first, second, third = (results(f"comparisons/bowl/{number}") for number in range(3))
    assert without_times(first) == without_times(second)
    mine = [found["optimizers"]["bowl/run_0"] for found in (first, third)]
    assert mine[0]["sum"] != mine[1]["sum"]
    assert mine[0]["validation"] == mine[1]["validation"]  # which is training's


@pytest.mark.parametrize("path", [BOWL, DIGIT], ids=["bowl", "digits_mlp"])
def test_a_fresh_process_reports_what_training_logged(trained, path, plugin_folder):
    """Bit for bit, for the same validation problems."""
    scalars = EventAccumulator(str(Path(path).parents[3] / "logs" / Path(path).parent.relative_to("checkpoints")))
    scalars.Reload()
    content = torch.load(path, weights_only=True)
    command = [
        sys.executable,
        "-m",
        "meta_opt.cli",
        "compare",
        "--ckpt_path",
        path,
        *FEW,
        "--baselines",
        "RMSprop",
    ]
    environment = {**os.environ, "PYTHONPATH": str(plugin_folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")  # no progress bar either: this is no terminal
    (found,) = (results(folder) for folder in Path("comparisons").glob("*/0"))
    (validation,) = (entry["validation"] for entry in found["optimizers"].values() if entry["kind"] == "learned")
    for name, tag in (("final", "val/final_loss"), ("sum", "val/loss_sum")):
        assert validation[name] == scalars.Scalars(tag)[content["epoch"]].value


def test_several_checkpoints_share_the_baselines(trained, meta_opt):
    shutil.copy(BOWL, "SGD.ckpt")
    last = BOWL.replace("best", "last")
    options = ("--ckpt_path", BOWL, "SGD.ckpt", last, BOWL, "--baselines", "SGD", "SGD")
    assert meta_opt("compare", *options, *FEW)[0] == 0
    optimizers = results()["optimizers"]
    assert list(optimizers) == ["bowl/run_0", "SGD.ckpt", "bowl/run_0/last", "SGD"]  # each once, by names of their own
    assert optimizers["SGD.ckpt"]["loss_mean"] == optimizers["bowl/run_0"]["loss_mean"]
    assert optimizers["SGD"]["kind"] == "baseline"
    alone = "comparisons/bowl/1"
    meta_opt("compare", "--ckpt_path=best", "--optimizee", "bowl", *FEW, "--baselines", "SGD")
    for name in ("bowl/run_0", "SGD"):
        assert without_times(results(alone)["optimizers"][name]) == without_times(optimizers[name])


def test_pretrained_by_name(trained, meta_opt, monkeypatch):
    monkeypatch.setattr("meta_opt.saved.pretrained._FOLDERS", (Path("checkpoints/bowl/run_0"),))
    assert meta_opt("compare", "--pretrained", "best", *FEW, "--baselines", "Adam")[0] == 0
    assert list(results()["optimizers"]) == ["best", "Adam"]
    assert "did you mean 'best'?" in fails(meta_opt, "--pretrained", "bestt")


# ------------------------------------------------------------------------------------------------------ what is asked


def test_only_the_option_that_is_named_changes(trained, meta_opt):
    meta_opt("compare", "--ckpt_path", BOWL, "--optimizee.steepness", "2", *FEW, "--baselines", "SGD")
    found = results()
    assert found["optimizee_options"] == {"dimension": 2, "steepness": 2.0}
    assert found["num_steps"] == 7
    assert found["optimizers"]["bowl/run_0"]["validation"] is None  # training validated on other problems


def test_another_optimizee(trained, meta_opt):
    meta_opt("compare", "--ckpt_path", DIGIT, BOWL, "--optimizee", "Valley", *FEW, "--baselines", "SGD")
    found = results("comparisons/Valley/0")
    assert found["optimizee_options"] == {"dimension": 3, "steepness": 1.0}  # its own
    assert found["num_steps"] == 9  # which it recommends
    meta_opt("compare", "--ckpt_path", DIGIT, BOWL, "--optimizee", "bowl", *FEW, "--baselines", "SGD")
    found = results("comparisons/bowl/0")
    assert found["optimizee_options"]["dimension"] == 2  # of the one that was trained on bowls
    assert [entry.get("validation") is None for entry in found["optimizers"].values()] == [True, False, True]


def test_nothing_is_overwritten(trained, meta_opt):
    options = ("--ckpt_path", BOWL, *FEW, "--baselines", "SGD", "--out")
    Path("empty").mkdir()
    for out in ("mine/first", "empty"):
        assert meta_opt("compare", *options, out)[0] == 0
        assert results(out)["optimizee"] == "bowl"
    assert fails(meta_opt, *options, "mine/first").startswith("mine/first exists, and nothing is overwritten")
    assert "exists, and nothing is overwritten" in fails(meta_opt, *options, BOWL)
    assert "cannot write to" in fails(meta_opt, *options, f"{BOWL}/below")
    assert not list(Path("mine").glob(".*"))


def test_the_command_does_it_again(trained, meta_opt, monkeypatch):
    few = " ".join(FEW)
    for options, again in (
        (f"--ckpt_path best --optimizee bowl {few} --out mine", f"--ckpt_path {BOWL} --optimizee bowl {few}"),
        (f"--ckpt_path=best --optimizee=bowl --out=other {few}", f"--ckpt_path={BOWL} --optimizee=bowl {few}"),
    ):
        assert meta_opt("compare", *options.split(), "--baselines", "SGD")[0] == 0
        out = "mine" if "mine" in options else "other"
        assert results(out)["command"] == f"meta-opt compare {again} --baselines SGD"


def test_the_table_is_there_even_if_nothing_can_be_written(trained, meta_opt, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("meta_opt.evaluation.reports.Report._write_curves", full)
    status, out, err = meta_opt("compare", "--ckpt_path", BOWL, *FEW, "--baselines", "SGD")
    assert status == 2
    assert "\nSGD " in out
    assert err == "meta-opt: error: cannot write to comparisons/bowl: No space left on device\n"


def test_an_interruption_leaves_nothing(trained, meta_opt, monkeypatch):
    def interrupt(self, path):
        assert path.parent.joinpath("results.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("meta_opt.evaluation.reports.Report._write_curves", interrupt)
    assert meta_opt("compare", "--ckpt_path", BOWL, *FEW, "--baselines", "SGD", "--out", "mine")[0] == 130
    assert not [path for path in Path().iterdir() if path.name not in ("checkpoints", "logs")]


def test_what_is_not_finite_is_null(trained, meta_opt, monkeypatch):
    def diverged(*arguments):
        run = make(*arguments)
        run.loss_mean[-1] = torch.inf
        return replace(run, merits=dict.fromkeys(run.merits, Mean(torch.nan, torch.nan)))

    make = compare._run
    monkeypatch.setattr(compare, "_run", diverged)
    status, out, _ = meta_opt("compare", "--ckpt_path", BOWL, *FEW, "--baselines", "SGD")
    assert status == 0
    assert out.count("diverged") == 4
    entry = results()["optimizers"]["SGD"]
    assert (entry["final"], entry["final_ratio"], entry["loss_mean"][-1]) == (None, None, None)


WRONG = {
    "": "say what to compare, with --ckpt_path or --pretrained",
    "--optimizee bowl": "say what to compare",
    "--ckpt_path": "--ckpt_path: expected at least one argument",
    "--ckpt_path last --optimizee Valley": "there is no run in checkpoints/Valley",
    "--ckpt_path nowhere.ckpt": "there is no checkpoint nowhere.ckpt",
    "--pretrained nothing_like_it": "no pretrained optimizer is called 'nothing_like_it'",
    f"--ckpt_path {BOWL} --optimizee bowll": "no optimizee is called 'bowll'; did you mean 'bowl'?",
    f"--ckpt_path {BOWL} --optimizee null": "--optimizee must be one of ",
    f"--ckpt_path {BOWL} --optimizee.dimensions 3": "unknown option --optimizee.dimensions; did you mean --optimizee.",
    f"--ckpt_path {BOWL} --optimizee.dimension x": "--optimizee.dimension must be int, not x",
    f"--ckpt_path {BOWL} --optimizee.dimension 0": "optimizee.dimension must be at least 1, not 0",
    f"--ckpt_path {BOWL} --num_step 3": "unknown option --num_step; did you mean --num_steps?",
    f"--ckpt_path {BOWL} --num_steps 3 x": "--num_steps must be int, not x",
    f"--ckpt_path {BOWL} --num_steps 3 0": "--num_steps must be at least 1, not 0",
    f"--ckpt_path {BOWL} --num_problems 1": "--num_problems must be at least 2, not 1",
    f"--ckpt_path {BOWL} --num_validation_problems 0": "--num_validation_problems must be at least 1, not 0",
    f"--ckpt_path {BOWL} --baselines Adm": "no baseline is called 'Adm'; did you mean 'Adam'?",
    f"--ckpt_path {BOWL} --baselines SGD:cosine:linear": "SGD:cosine:linear cannot be a baseline: the schedule is said",
    f"--ckpt_path {BOWL} --baselines Adam:lr=1:lr=2": "Adam:lr=1:lr=2 cannot be a baseline: lr is said twice",
    f"--ckpt_path {BOWL} --baselines SparseAdam": "SparseAdam cannot be a baseline: it is for sparse gradients",
    f"--ckpt_path {BOWL} --baselines Adam --baselines SGD": "--baselines is said twice; say it once, with all its val",
    f"--ckpt_path {BOWL} --ckpt_path={BOWL}": "--ckpt_path is said twice",
    f"--ckpt_path {BOWL} --seed_everything -1": "--seed_everything must be from 0 to 4294967295, not -1",
    f"--ckpt_path {BOWL} --device nothing": "--device nothing cannot be used",
    f"--ckpt_path {BOWL} --device meta": "--device meta cannot be used: it computes nothing",
    f"--ckpt_path {BOWL} --optimizer subspace_lstm": "subspace_lstm: no checkpoint holds one",
    f"--ckpt_path {BOWL} --optimizee infinite_loss": "InfiniteLoss.loss is not finite at θ_0",
    f"--ckpt_path {BOWL} {DIGIT}": (
        f"{BOWL} and {DIGIT} were trained on different problems (bowl dimension=2 steepness=1.0; digits_mlp "
    ),
}


@pytest.mark.parametrize("options", WRONG)
def test_what_is_wrong_is_said_in_one_line(trained, meta_opt, options):
    assert WRONG[options] in fails(meta_opt, *options.split())


@pytest.mark.parametrize("value", ["x", -3, {"a": 1}])
def test_a_checkpoint_with_nonsense_in_it(trained, meta_opt, value):
    content = torch.load(BOWL, weights_only=True)
    content["meta_opt"]["model"] |= {"num_steps": value, "seed": value, "num_validation_problems": value}
    torch.save(content, "changed.ckpt")
    fails(meta_opt, "--ckpt_path", "changed.ckpt", *FEW)


@pytest.mark.parametrize("value", ["x", -3, {"a": 1}, 0])
def test_a_checkpoint_with_nonsense_for_the_steps_of_validation(trained, meta_opt, value):
    content = torch.load(BOWL, weights_only=True)
    content["meta_opt"]["model"]["num_validation_steps"] = value
    torch.save(content, "changed.ckpt")
    assert "is damaged: meta_opt.model.num_validation_steps is" in fails(meta_opt, "--ckpt_path", "changed.ckpt", *FEW)


def test_a_checkpoint_from_before_there_were_steps_of_validation(trained, meta_opt):
    content = torch.load(BOWL, weights_only=True)
    del content["meta_opt"]["model"]["num_validation_steps"]
    torch.save(content, "before.ckpt")
    status, _, err = meta_opt("compare", "--ckpt_path", "before.ckpt", BOWL, *FEW, "--baselines", "SGD")
    assert status == 0, err
    (found,) = (results(folder) for folder in Path("comparisons").glob("*/0"))
    first, second = (entry["validation"] for entry in found["optimizers"].values() if entry["kind"] == "learned")
    assert first == second


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["meta_opt"]["optimizer"]["init_args"].update(unheard_of=1),
        lambda content: content["meta_opt"]["optimizer"].update(class_path=1),
        lambda content: content["meta_opt"]["layout"].update(names=[]),
        lambda content: content.update(state_dict=None),
        lambda content: content.update(state_dict={1: 2}),
        lambda content: content.pop("state_dict"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(trained, meta_opt, damage):
    content = torch.load(DIGIT, weights_only=True)
    damage(content)
    torch.save(content, "changed.ckpt")
    fails(meta_opt, "--ckpt_path", "changed.ckpt", "--optimizee", "bowl", *FEW)


def test_help_of_an_optimizee(trained, meta_opt):
    status, out, _ = meta_opt("compare", "--optimizee.help", "bowl")
    assert status == 0
    assert "(float, default 1.0) Factor of the squared distance." in " ".join(out.split())


def test_help_names_every_option_and_no_other(meta_opt):
    assert meta_opt("compare", "--help") == (0, HELP, "")
    options = {option for action in comparing._parser(None)._actions for option in action.option_strings}
    named = set(re.findall(r"--[a-z_]+(?:\.[a-z]+)?", HELP))
    assert options - {"--help", "-h"} <= named | {"--optimizee.help"}
    assert named - {"--optimizee.hidden"} <= options
    assert max(map(len, HELP.splitlines())) <= 120


def test_it_needs_no_lightning(trained, plugin_folder):
    code = "import sys, meta_opt.cli as cli; assert cli.main(sys.argv[1:]) == 0; assert 'lightning' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(plugin_folder)}
    command = [sys.executable, "-c", code, "compare", "--ckpt_path", BOWL, *FEW, "--baselines", "SGD"]
    subprocess.run(command, check=True, capture_output=True, env=environment)


def test_leftovers_of_killed_comparisons_are_removed(tmp_path):
    dead, alive = tmp_path / ".unfinished.1", tmp_path / ".unfinished.2"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "results.json").write_text("{")
    with locked(alive):
        reports._remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [alive]


def test_precision_is_that_of_training(meta_opt, plugins):
    few = ("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false")
    assert (
        meta_opt("fit", "--optimizee", "bowl", "--optimizee.dimension", "2", "--trainer.precision=64-true", *few)[0]
        == 0
    )
    _, out, _ = meta_opt("validate", "--ckpt_path", "last", "--trainer.enable_progress_bar", "false")
    expected = float(re.search(r"val/final_loss\W+([\d.e+-]+)", out)[1])
    small = ("--num_problems", "2", "--num_validation_problems", "1", "--baselines", "SGD")
    found = {}
    for precision in ((), ("--precision", "32-true")):
        status, _, err = meta_opt("compare", "--ckpt_path", "last", *small, *precision, "--out", f"out{len(precision)}")
        assert status == 0, err
        results = json.loads(Path(f"out{len(precision)}/results.json").read_text())
        (learned,) = (entry for entry in results["optimizers"].values() if entry["kind"] == "learned")
        found[results["precision"]] = learned["validation"]["final"]
    assert found["64-true"] == pytest.approx(expected, rel=1e-7)  # weights are loaded for use in float32
    assert found["32-true"] != found["64-true"]
    assert found["32-true"] == pytest.approx(expected, rel=1e-3)
