"""How far meta-training is, in a terminal and in a log."""

from __future__ import annotations

import re

import pytest
from problems_for_tests import Regression
from trainers_for_tests import trainer

from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.progress import EpisodeBar, summary
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


def fit(**options: object) -> None:
    module = MetaLearner(
        Regression(), CoordinatewiseLSTM(hidden_size=4), num_steps=4, unroll_length=4, episodes_per_epoch=3
    )
    trainer(callbacks=[EpisodeBar()], enable_progress_bar=True, **options).fit(module)


def test_a_line_for_each_epoch_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    first, second = capsys.readouterr().err.splitlines()
    number = r"[\d.e+-]+"
    metrics = rf"val/final_loss={number}, train/final_loss={number}, val/root={number}"
    assert re.fullmatch(rf"epoch 1/2, 3 episodes, {metrics}, after 00:\d\d, 00:\d\d left", first)
    assert re.fullmatch(rf"epoch 2/2, 6 episodes, {metrics}, after 00:\d\d, 00:00 left", second)


def test_without_an_end_there_is_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    fit(max_epochs=-1, max_steps=6)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("epoch 1, 3 episodes, val/final_loss=")
    assert "left" not in lines[0]


@pytest.mark.parametrize(("terminal", "width"), [(200, 80), (60, 60)])
def test_a_bar_of_80_columns_or_as_wide_as_a_narrower_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: int, width: int
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(terminal))
    fit()
    shown = re.split(r"[\r\n]+", capsys.readouterr().err)
    assert max(map(len, shown)) == width
    last = [line for line in shown if line.strip()][-1]
    assert re.fullmatch(r"val \S+, train \S+, root \S+ +\|.*\| 6/6 00:00 left", last)


def test_what_is_said_of_metrics() -> None:
    metrics = {
        "val/not_finite": 0.0,
        "val/accuracy": 0.91234,
        "val/final_loss": 0.5,
        "val/times_adam": 0.3123,
        "a": 1.0,
    }
    assert summary(metrics) == "0.31x Adam, val 0.5, accuracy 0.912"
    assert summary(metrics, names=True) == "0.31x Adam, val/final_loss=0.5, val/accuracy=0.9123"
