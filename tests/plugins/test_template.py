"""The template of a plugin, installed into a clean folder: it passes its own test and trains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2] / "plugins" / "template"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template, with its distribution installed beside it."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(TEMPLATE, folder / "plugin", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "installed")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(folder / "plugin")], check=True)
    return folder


def run(copy: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy / "installed")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_its_own_test(copy: Path) -> None:
    out = run(copy, "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "plugin/tests")
    assert " passed" in out


def test_it_is_listed(copy: Path) -> None:
    rows = run(copy, "meta_opt.cli", "list").splitlines()
    listed = {row.split()[0]: row for row in rows if "meta-opt-example 0.1.0" in row}
    assert listed.keys() == {"balanced", "friedman", "momentum_mlp", "polyak_decay", "shrink", "two_points"}
    assert not [row for row in listed.values() if "BROKEN" in row]


def test_it_trains_from_the_command_line(copy: Path) -> None:
    few = ["--model.num_steps", "20", "--model.episodes_per_epoch", "3", "--trainer.max_epochs", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--model.num_validation_problems", "2"]
    out = run(copy, "meta_opt.cli", "fit", "--optimizee", "friedman", "--optimizer", "momentum_mlp", *few, *quiet)
    assert "finished after 3 episodes" in out
    assert (copy / "checkpoints" / "friedman" / "run_0" / "best.ckpt").is_file()


DROP_IN = """
import sys, torch
from meta_opt import LearnedOptimizer
theta = torch.ones(3, requires_grad=True)
optimizer = LearnedOptimizer([theta], checkpoint=sys.argv[1])
def closure():
    optimizer.zero_grad()
    loss = theta.square().sum()
    loss.backward()
    return loss
losses = [float(optimizer.step(closure).detach()) for _ in range(10)]
assert losses[-1] < losses[0], losses
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "estimator"),
    [("polyak_decay", "first_order"), ("balanced", "two_points"), ("shrink", "second_order")],
)
def test_networks_of_every_kind_train_and_are_used(copy: Path, optimizer: str, estimator: str) -> None:
    few = ["--model.num_steps", "20", "--model.episodes_per_epoch", "3", "--trainer.max_epochs", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--model.num_validation_problems", "2"]
    chosen = ["--optimizee", "friedman", "--optimizer", optimizer, "--model.estimator", estimator]
    root = copy / optimizer
    out = run(copy, "meta_opt.cli", "fit", *chosen, *few, *quiet, "--trainer.default_root_dir", str(root))
    assert "finished after 3 episodes" in out
    (copy / "drop_in_script.py").write_text(DROP_IN)
    run(copy, "drop_in_script", str(root / "checkpoints" / "friedman" / "run_0" / "last.ckpt"))
