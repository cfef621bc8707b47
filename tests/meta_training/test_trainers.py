"""What a trainer is asked for that meta-training cannot do, or does in its own way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.tuner import Tuner
from problems_for_tests import Regression
from trainers_for_tests import trainer

from meta_opt.errors import MetaOptError
from meta_opt.meta_training import meta_learner
from meta_opt.meta_training.estimators.contract import Episode, MetaGradient
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.trainers import check_device, check_trainer
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


def learner(**options: Any) -> MetaLearner:
    small: dict[str, Any] = {"num_steps": 4, "unroll_length": 2, "episodes_per_epoch": 3, "num_validation_problems": 2}
    return MetaLearner(Regression(), CoordinatewiseLSTM(hidden_size=4), **{**small, **options})


def test_apples_gpus_are_neither_chosen_nor_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no float64."""
    assert "accelerator" not in learner().trainer_settings
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert learner().trainer_settings["accelerator"] == "cpu"
    with pytest.raises(MetaOptError, match="need float64, .* set trainer.accelerator cpu"):
        check_device(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("mps"))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overfit_batches": 1}, "trainer.overfit_batches repeats no episode"),
        ({"callbacks": StochasticWeightAveraging(0.1)}, "StochasticWeightAveraging averages no φ .*average_decay"),
        ({"callbacks": LearningRateFinder()}, "LearningRateFinder finds no learning rate .*model.lr"),
        ({"callbacks": GradientAccumulationScheduler({0: 2})}, "accumulates no meta-gradient: set model.num_problems"),
        ({"callbacks": ModelPruning("l1_unstructured", amount=0.5)}, "ModelPruning prunes no φ"),
    ],
)
def test_what_would_do_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    mine = learner()
    before = {name: value.clone() for name, value in mine.optimizer.state_dict().items()}
    with pytest.raises(MetaOptError, match=message):
        trainer(**options).fit(mine)
    assert mine.episode == 0
    assert all(torch.equal(value, before[name]) for name, value in mine.optimizer.state_dict().items())


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_strategies_that_divide_weights_are_refused(strategy: type[Strategy]) -> None:
    """Which Lightning makes on GPUs only."""
    quiet = trainer()
    quiet._accelerator_connector.strategy = strategy()
    with pytest.raises(MetaOptError, match=rf"{strategy.__name__} divides φ, .* set trainer.strategy ddp"):
        check_trainer(quiet, learner(), cosine=False)


class KeepsGraphs(FirstOrder):
    """Gives losses that have a graph behind them, and a loss in float64."""

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        weight = episode.network.trained_parameters()[0]
        for each in super().estimates(episode):
            graph = 0.0 * weight.sum()
            yield replace(each, loss=each.loss.double() + graph, losses=each.losses + graph)


def test_what_has_a_graph_is_not_kept() -> None:
    module, plain = learner(estimator=KeepsGraphs(), clip_relative=1.0), learner(clip_relative=1.0)
    for each in (module, plain):
        trainer(max_epochs=1).fit(each)
    assert not module._clip.norms.requires_grad
    copy.deepcopy(module)
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tuner_is_refused() -> None:
    with pytest.raises(MetaOptError, match="LearningRateFinder finds no learning rate of meta-training"):
        Tuner(trainer()).lr_find(learner())


def test_a_compiled_module_is_refused() -> None:
    with pytest.raises(MetaOptError, match="a compiled MetaLearner cannot be trained"):
        trainer().fit(torch.compile(learner()))  # type: ignore[arg-type]


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: object) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_a_cosine_ends_with_the_steps_where_epochs_have_no_end() -> None:
    seen = Rates()
    with pytest.raises(MetaOptError, match="model.lr_schedule cosine needs a length: set trainer.max_epochs"):
        trainer(max_epochs=-1, callbacks=seen).fit(learner(lr_schedule="cosine"))
    assert not seen.rates
    trainer(max_epochs=-1, max_steps=8, callbacks=seen).fit(learner(lr_schedule="cosine", lr=1.0))
    assert seen.rates == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])  # two meta-steps an episode


@pytest.mark.filterwarnings("ignore:Be aware that when using")  # of callbacks that are not there
def test_nothing_is_pretrained_or_begun_anew_where_weights_were_averaged(tmp_path: Any, monkeypatch: Any) -> None:
    """What such a callback saves says that no episode was done."""
    path = tmp_path / "last.ckpt"
    save = ModelCheckpoint(dirpath=tmp_path, filename="last")
    mine = learner(pretraining=2)
    trainer(max_epochs=1, enable_checkpointing=True, callbacks=[EMAWeightAveraging(), save]).fit(mine)
    assert path.is_file()
    pretrained = []
    monkeypatch.setattr(meta_learner, "pretrain", lambda *_, **__: pretrained.append(1))
    with pytest.raises(MetaOptError, match="a callback that averages weights: go on with the same trainer.callbacks"):
        trainer().fit(learner(pretraining=2), ckpt_path=path, weights_only=True)
    again = learner(pretraining=2)
    trainer(callbacks=EMAWeightAveraging()).fit(again, ckpt_path=path, weights_only=True)
    assert (again.episode, pretrained) == (6, [])


def test_load_from_checkpoint(tmp_path: Any, meta_opt: Any) -> None:
    few = ("--model.num_steps", "2", "--model.episodes_per_epoch", "1", "--model.num_validation_problems", "1")
    options = ("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false")
    assert meta_opt("fit", "--optimizee", "quadratic", *few, *options)[0] == 0
    path = "checkpoints/quadratic/run_0/last.ckpt"
    loaded = MetaLearner.load_from_checkpoint(path)
    assert (loaded.episode, loaded.num_steps) == (1, 2)
    saved = torch.load(path, weights_only=True)["state_dict"]
    own = loaded.state_dict()
    assert own.pop("_extra_state") == saved["_extra_state"]
    for name, value in own.items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0, equal_nan=True)


def test_load_from_checkpoint_with_classes_of_ones_own(tmp_path: Any) -> None:
    run = trainer(max_epochs=1)
    run.fit(mine := learner())
    run.save_checkpoint(tmp_path / "mine.ckpt")
    loaded = MetaLearner.load_from_checkpoint(tmp_path / "mine.ckpt", optimizee=Regression)
    assert isinstance(loaded.optimizee, Regression)
    for name, weight in mine.trained.state_dict().items():
        assert torch.equal(weight, loaded.trained.state_dict()[name])
    with pytest.raises(MetaOptError, match="optimizee must be a class, not "):
        MetaLearner.load_from_checkpoint(tmp_path / "mine.ckpt", optimizee=Regression())  # type: ignore[arg-type]
