"""What the learned optimizer is measured by while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from problems_for_tests import Regression, Square
from torch import Tensor
from trainers_for_tests import trainer

from meta_opt.evaluation.reference import Reference, climb
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.meta_training.progress import EpisodeBar
from meta_opt.optimizees.contract import TensorDict
from meta_opt.optimizers.baseline_names import adam
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


@pytest.mark.parametrize("best", [1e-8, 1e-3, 0.03, 0.1, 3.0, 3e6])
def test_climbs_to_the_best(best: float) -> None:
    asked = []

    def score(rate: float) -> float:
        asked.append(rate)
        return math.inf if rate > 30 * best else abs(math.log(rate / best))

    found = climb(score, 0.1)
    assert found is not None
    assert found.is_best
    assert abs(math.log10(found.rate / best)) <= 0.25 + 1e-9
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize(("score", "end"), [(lambda rate: rate, 1e-9), (lambda rate: -rate, 1e7)])
def test_what_goes_on_getting_better_is_not_called_the_best(score: Callable[[float], float], end: float) -> None:
    found = climb(score, 0.1)
    assert found is not None
    assert not found.is_best
    assert found.rate == pytest.approx(end)


@pytest.mark.parametrize("score", [lambda rate: math.nan, lambda rate: math.inf])
def test_nothing_to_climb(score: Callable[[float], float]) -> None:
    assert climb(score, 0.1) is None


def learner(**options: object) -> MetaLearner:
    return MetaLearner(
        Regression(),
        CoordinatewiseLSTM(hidden_size=4),
        num_steps=8,
        unroll_length=4,
        episodes_per_epoch=2,
        num_validation_problems=3,
        reference_lr=0.001,
        **options,  # type: ignore[arg-type]
    )


def test_the_ratio_is_to_the_best_adam(capsys: pytest.CaptureFixture[str]) -> None:
    reference, module = Reference(), learner()
    quiet = trainer(callbacks=[reference, EpisodeBar()], enable_progress_bar=True)
    quiet.fit(module)
    assert reference.lr is not None
    curves = {
        rate: run_episodes(Regression(), adam(rate), "validation", 3, 8, seed=0).sum.mean().item()
        for rate in (reference.lr, reference.lr * 10**0.5, reference.lr / 10**0.5)
    }
    assert curves[reference.lr] == min(curves.values())
    mine = run_episodes(Regression(), module.trained, "validation", 3, 8, seed=0).sum.mean().item()
    assert reference.ratio == pytest.approx(mine / curves[reference.lr], rel=1e-6)
    assert float(quiet.callback_metrics["val/times_adam"]) == pytest.approx(reference.ratio)
    assert reference.best is not None
    assert reference.best <= reference.ratio
    assert f"learning rate of {reference.lr:.2g}" in capsys.readouterr().err


class Slope(Square):
    """Has no lowest loss."""

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return params["x"].sum()


def test_an_adam_that_is_not_tuned_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    module = MetaLearner(Slope(), CoordinatewiseLSTM(hidden_size=4), num_steps=2, num_validation_problems=2)
    quiet = trainer(callbacks=[Reference(), EpisodeBar()], max_epochs=1, enable_progress_bar=True)
    with pytest.warns(
        UserWarning, match=r"no best learning rate up to 1e\+05, where the search ended; val/times_adam is"
    ):
        quiet.fit(module)
    assert "is best with" not in capsys.readouterr().err


def test_what_was_found_is_not_sought_again(capsys: pytest.CaptureFixture[str]) -> None:
    reference = Reference()
    reference.load_state_dict({"lr": 0.5, "best": 0.25})
    trainer(callbacks=[reference, EpisodeBar()], max_epochs=1, enable_progress_bar=True).fit(learner())
    assert reference.lr == 0.5
    expected = run_episodes(Regression(), adam(0.5), "validation", 3, 8, seed=0)
    assert reference.curves is not None
    assert torch.equal(reference.curves.losses, expected.losses)
    assert "best with a learning rate" not in capsys.readouterr().err
    assert reference.state_dict() == {"lr": 0.5, "best": min(0.25, reference.ratio or math.inf)}


@pytest.mark.parametrize("steps", [8, 5])
def test_what_was_found_counts_only_where_validation_is_the_same(steps: int, tmp_path: Path) -> None:
    first, second = Reference(), Reference()
    fit = trainer(callbacks=[first], max_epochs=1)
    fit.fit(learner())
    fit.save_checkpoint(tmp_path / "one.ckpt")
    first.lr = 12.0
    fit.save_checkpoint(tmp_path / "one.ckpt")
    trainer(callbacks=[second], max_epochs=2).fit(
        learner(num_validation_steps=steps), ckpt_path=tmp_path / "one.ckpt", weights_only=True
    )
    assert (second.lr == 12.0) is (steps == 8)
    assert second.best is not None
    assert (second.best == second.ratio) or steps == 8


def test_without_validation_there_is_none() -> None:
    reference = Reference()
    trainer(callbacks=[reference], max_epochs=1, limit_val_batches=0).fit(learner())
    assert (reference.lr, reference.curves, reference.ratio) == (None, None, None)


def test_ratios() -> None:
    mine, other = torch.tensor([[1.0, 8.0], [3.0, 8.0]]), torch.tensor([[4.0, 2.0], [4.0, 2.0]])
    assert float(MetaLoss("sum", "constant").ratio(mine, other)) == pytest.approx(20 / 12)
    assert float(MetaLoss("log_mean", "constant").ratio(mine, other)) == pytest.approx(math.sqrt(0.5 * 4))
    assert math.isnan(float(MetaLoss("sum", "constant").ratio(mine, -other)))
