"""``meta-opt recommend``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from problems_for_tests import Square
from torch import Tensor

from meta_opt.cli import main
from meta_opt.optimizees.contract import TensorDict


def test_the_command_that_is_printed_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", "--optimizee", "quadratic", "--optimizee.dimension", "3", "--num_steps", "8"]) == 0
    out = capsys.readouterr().out
    assert "3 parameters in 1 tensors; no mini-batches" in out
    command = out.split("settings for fit:\n")[1].split("\n\n")[0].replace("\\\n", " ")
    program, *arguments = shlex.split(command)
    assert program == "meta-opt"
    assert arguments[:5] == ["fit", "--optimizee", "quadratic", "--optimizee.dimension", "3"]
    short = ["--model.episodes_per_epoch", "1", "--trainer.max_epochs", "1"]
    assert main([*arguments, *short]) == 0
    assert "'model.num_steps': 8,\n" in out

    assert "subspace_lstm may do better\nin place of the options that begin with --optimizer., as it has others" in out
    options = [*zip(arguments[1::2], arguments[2::2], strict=True), ("--optimizer", "subspace_lstm")]
    other = [part for option in options if not option[0].startswith("--optimizer.") for part in option]
    assert main(["fit", *other, *short]) == 0


def test_the_command_keeps_the_optimizee_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text("class_path: quadratic\ninit_args:\n  dimension: 3\n")
    assert main(["recommend", "--num_steps", "2", "--optimizee", "small.yaml"]) == 0
    assert "meta-opt fit --optimizee small.yaml \\\n" in capsys.readouterr().out


class Long(Square):
    """Recommends episodes of many lengths."""

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        return {"model.num_steps": 2, "model.max_num_steps": 3, "model.num_validation_steps": 3}


def test_lengths_of_episodes_go_with_the_steps_that_are_recommended(capsys: pytest.CaptureFixture[str]) -> None:
    for num_steps, counted in (("2", 0), ("4", 1)):
        assert main(["recommend", "--optimizee", f"{__name__}.Long", "--num_steps", num_steps]) == 0
        out = capsys.readouterr().out
        assert out.count("--model.max_num_steps null") == out.count("--model.num_validation_steps null") == counted


def test_sizes_of_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--optimizee", "problems_for_tests.Polynomials", "--num_steps", "2"]) == 0
    assert "\n1 to 3 parameters in 1 tensors; " in capsys.readouterr().out


class Slope(Square):
    """Has no lowest loss."""

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return params["x"].sum()


def test_a_learning_rate_that_is_not_the_best_is_not_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--optimizee", f"{__name__}.Slope", "--num_steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "\nwarning: the loss still fell with the last learning rate that was tried, 3e+06: it is not the best" in out
    assert "best at" not in out


class Faint(Square):
    """Its gradients are lost beside the epsilon of Adam."""

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return 1e-30 * super().loss(params, problem, batch)


def test_a_loss_that_adam_does_not_lower_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--optimizee", f"{__name__}.Faint", "--num_steps", "2"]) == 0
    assert "\nwarning: Adam lowered the loss with no learning rate that was tried" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say what to try, with --optimizee"),
        (["--optimizee", "quadratic", "--num_steps", "0"], "--num_steps must be at least 1, not 0"),
        (["--optimizee", "quadrati"], "quadratic"),
    ],
)
def test_errors_in_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
