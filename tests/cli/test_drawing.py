"""The command ``meta-opt landscape``, from options to pictures."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from meta_opt.cli import main
from meta_opt.cli.drawing_help import HELP
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt_optimizees.landscape import LANDSCAPES, Landscape

FEW = ("--num_steps", "8", "--num_validation_problems", "2", "--baselines", "Adam")
FIT = ("--optimizee", "landscape", "--optimizer", "alpha_opt", "--optimizer.hidden_size", "4", "--model.num_steps", "8")
SHORT = ("--model.unroll_length=8", "--model.episodes_per_epoch=2", "--model.num_problems=2", "--trainer.max_epochs=1")
QUIET = ("--model.num_validation_problems=2", "--trainer.enable_progress_bar=false")


def test_from_a_run_to_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *FIT, *SHORT, *QUIET]) == 0
    capsys.readouterr()
    assert main(["landscape", "--ckpt_path", "best", *FEW]) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "landscapes" / "landscape" / "0"
    assert {path.name for path in folder.iterdir()} == {"landscape.png", "landscape.gif", "paths.csv"}
    for name in LANDSCAPES:
        assert f"\n{name} " in printed
    with Image.open(folder / "landscape.gif") as image:
        assert image.n_frames > 5
    with (folder / "paths.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 2 * 9
    assert {row["optimizer"] for row in rows} == {"landscape/run_0", "Adam"}


def test_the_path_is_that_of_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Losses in paths.csv are those of an evaluation of the checkpoint on the same test problem."""
    from meta_opt.saved.recipes import load_optimizer

    monkeypatch.chdir(tmp_path)
    assert main(["fit", *FIT, *SHORT, *QUIET]) == 0
    arguments = ["--optimizee.name", "beale", "--problem", "3", "--num_steps", "8", "--baselines"]
    assert main(["landscape", "--ckpt_path", "best", *arguments]) == 0
    with (tmp_path / "landscapes" / "landscape" / "0" / "paths.csv").open() as file:
        found = [float(row["loss"]) for row in csv.DictReader(file)]
    optimizer = load_optimizer(tmp_path / "checkpoints" / "landscape" / "run_0" / "best.ckpt")
    assert isinstance(optimizer, AlphaOpt)
    curves = run_episodes(Landscape("beale"), optimizer, "test", 4, 8, seed=0)
    assert found == pytest.approx(curves.losses[:, 3].tolist(), rel=1e-4)


def test_help(capsys) -> None:
    assert main(["landscape", "--help"]) == 0
    assert capsys.readouterr().out == HELP


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizee", "quadratic"], "Quadratic has 10 parameters"),
        (["--optimizee", "null"], "--optimizee must be one of"),
        (["--num_steps", "0"], "--num_steps must be at least 1, not 0"),
        (["--problem", "-1"], "--problem must be at least 0, not -1"),
        (["--optimizee.name", "hill"], "optimizee.name must be all or one of"),
        (["--baselines", "Adamm"], "Adamm"),
        (["--baselines"], "nothing to draw"),
        (["rosenbrock"], "unexpected argument 'rosenbrock'"),
        (["--steps", "3"], "unknown option --steps"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt"),
        (["--out", "."], "exists"),
    ],
)
def test_errors_in_one_line(options: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert main(["landscape", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("meta-opt: error: ")
    assert error.count("\n") == 1
    assert message in error
