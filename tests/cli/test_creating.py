"""``meta-opt new`` and ``meta-opt check``: what they make, say and refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meta_opt.cli import main
from meta_opt.evaluation.compare import Contestant, compare
from meta_opt.evaluation.setting import Setting
from meta_opt.optimizers.baseline_names import baseline
from meta_opt.registry import path_in_file, resolve
from meta_opt.saved.recipes import load_optimizer

QUIET = ("--trainer.enable_progress_bar", "false")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(list(arguments)) == status
    out, err = capsys.readouterr()
    return err if status == 2 else out


def test_a_new_plugin_is_complete(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = output(capsys, "new", "tiny_moons")
    names = ["README.md", "pyproject.toml", "test_tiny_moons.py", "tiny_moons.py"]
    assert sorted(path.name for path in Path("tiny_moons").iterdir()) == names
    assert not any("$" in path.read_text() for path in Path("tiny_moons").iterdir())
    assert 'tiny_moons = "tiny_moons:TinyMoons"' in Path("tiny_moons/pyproject.toml").read_text()
    assert "  meta-opt fit --optimizee tiny_moons.py:TinyMoons\n" in out


def test_a_new_plugin_passes_its_own_test(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output(capsys, "new", "near_moons", "--out", "some/folder")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_near_moons.py"]
    result = subprocess.run(command, cwd="some/folder", capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "13 passed" in result.stdout


def test_check_has_a_line_for_each_check(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output(capsys, "new", "far_moons")
    lines = output(capsys, "check", "far_moons/far_moons.py:FarMoons", "--hidden_size", "3").splitlines()
    assert lines[0] == "optimizee far_moons/far_moons.py:FarMoons:"
    assert lines[1].startswith("  ok      shapes: ")
    assert len(lines) == 15
    assert lines[-1].startswith("13 of 13 checks passed in ")


BROKEN = '''
import torch
from meta_opt.api import Optimizee
class Broken(Optimizee):
    """A bowl whose loss is none."""
    def init_params(self, generator):
        return {"theta": torch.ones(2)}
    def loss(self, params, problem, batch):
        return params["theta"].square()
class Raises(Broken):
    def loss(self, params, problem, batch):
        return params["missing"]
'''


def test_check_says_what_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.py").write_text(BROKEN)
    out = output(capsys, "check", "broken.py:Broken", status=1)
    assert "  FAILED  shapes: Broken: loss must be a scalar tensor (shape [])" in out
    assert "  ok      plain arguments: " in out
    assert "KeyError: 'missing' (broken.py:12 in loss)" in output(capsys, "check", "broken.py:Raises", status=1)


@pytest.mark.parametrize("name", ["shrink", "second_order"])
def test_check_of_the_other_kinds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    template = Path(__file__).parents[2] / "plugins/template/meta_opt_example"
    wanted = f"{template}/shrink.py:Shrink" if name == "shrink" else name
    out = output(capsys, "check", wanted)
    assert out.startswith(("optimizer", "estimator")[name == "second_order"])
    assert "FAILED" not in out


WRONG = {
    "check": "say what to check: FILE.py:CLASS",
    "check quadratc": "no plugin is called 'quadratc'; did you mean 'quadratic'?",
    "check json.JSONDecoder": "json.JSONDecoder is no optimizee, optimizer or estimator",
    "check quadratic --dimensio 3": "unknown option --dimensio; did you mean --dimension?",
    "check quadratic --dimension many": "--dimension must be int, not many",
    "check quadratic --dimension 0": "dimension",
    "check quadratic --condition -1e3": "optimizee.condition must be at least 1, not -1000.0",
    "check mixture": "--parts must be given",
    "new": "say what to call it, with one name",
    "new one two": "say what to call it, with one name",
    "new quadratic": "optimizee 'quadratic' of meta-opt 0.1.0 has that name",
    "new first_order": "has that name; choose another",
    "new a-b": "a plugin's name must be a Python identifier",
    "new Moons": "in small letters",
    "new json": "there is a module json already",
    "new cli": "meta_opt has a module of that name",
    "new moons --folder x": "new takes no --folder",
    "new moons --out": "--out must be followed by a folder",
    "new moons --out there": "there exists already",
    f"new moons --out {'a' * 300}": "File name too long",
}


@pytest.mark.parametrize("command", WRONG)
def test_what_is_refused(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    assert WRONG[command] in output(capsys, *command.split(), status=2)
    assert [path.name for path in here.iterdir()] == ["there"]


@pytest.mark.slow
def test_a_new_plugin_learns_to_beat_tuned_adam(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output(capsys, "new", "own_moons")
    output(capsys, "fit", "--optimizee", "own_moons/own_moons.py:OwnMoons", *QUIET, "--trainer.max_epochs", "4")
    optimizee = resolve("optimizee", path_in_file("own_moons/own_moons.py:OwnMoons"))()
    learned = load_optimizer(next(here.glob("checkpoints/*/run_0/best.ckpt")))
    setting = Setting(optimizee, [100], num_problems=16, num_validation_problems=8)
    (comparison,) = compare(setting, {"learned": Contestant(learned)}, {"Adam": baseline("Adam")})
    assert comparison.ratio(comparison.entries[0], "sum") < 1
    assert comparison.ratio(comparison.entries[0], "final") < 1
