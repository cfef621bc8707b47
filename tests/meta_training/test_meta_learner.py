"""The LightningModule, driven by a Trainer as a user of the Python interface would."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from problems_for_tests import Regression, Sometimes, Square
from reference import PaperUnroll
from trainers_for_tests import trainer

from meta_opt.errors import CheckpointError, DivergedError, MetaOptError, OptimizeeError
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators import subset
from meta_opt.meta_training.estimators.contract import Estimator, MetaGradient
from meta_opt.meta_training.estimators.first_order import FirstOrder, first_order
from meta_opt.meta_training.estimators.pes import PES
from meta_opt.meta_training.estimators.policy_gradient import PolicyGradient
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.checking import LOGGED, check_loss
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.lstm import native


def learner(optimizee: Optimizee | None = None, **options: Any) -> MetaLearner:
    defaults: dict[str, Any] = {"num_steps": 10, "unroll_length": 5, "episodes_per_epoch": 4}
    return MetaLearner(
        optimizee or Regression(),
        CoordinatewiseLSTM(hidden_size=4, inputs="log_sign+moments", base_step=0.02),
        **{**defaults, "num_validation_problems": 2, "num_test_problems": 3, **options},
    )


class StopAfter(Callback):
    """Interrupts training as Ctrl-C does, once so many episodes are done."""

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if int(pl_module.episode) == self.episodes:
            raise KeyboardInterrupt


class Losses(Callback):
    """Keeps the final loss of every episode."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self.values.append(trainer.callback_metrics["train/final_loss"])


def phi(module: MetaLearner) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.optimizer.parameters()])


def test_golden_value_through_the_trainer() -> None:
    """See test_first_order.test_golden_value: one episode of two unrolls, here with Lightning around it."""
    module = MetaLearner(
        Square(),
        CoordinatewiseLSTM(num_layers=0, inputs="none", output_scale=1.0, initial_output=0.0),
        num_steps=10,
        unroll_length=5,
        lr=0.01,
        episodes_per_epoch=1,
        num_validation_problems=1,
    )
    fit = trainer(max_epochs=1, precision="64-true")
    fit.fit(module)
    assert fit.callback_metrics["train/final_loss"].item() == pytest.approx(0.8558811952**2, abs=1e-7)
    # the losses of the first unroll are all 1
    assert fit.callback_metrics["train/meta_loss"].item() == pytest.approx(
        5 + sum((-0.5 + 1.5 * 0.98**t) ** 2 for t in range(1, 6)), abs=1e-6
    )


def test_training_lowers_the_loss() -> None:
    module = learner(episodes_per_epoch=30, lr=0.01, num_validation_problems=16)
    before = run_episodes(module.optimizee, module.trained, "validation", 16, 10, seed=0).sum.mean()
    fit = trainer(max_epochs=3)
    fit.fit(module)
    assert fit.callback_metrics["val/loss_sum"] < 0.95 * before
    assert fit.callback_metrics["val/loss_sum"].item() == pytest.approx(
        run_episodes(module.optimizee, module.trained, "validation", 16, 10, seed=0).sum.mean().item(), rel=1e-5
    )


def test_same_seed_same_phi_bit_for_bit_and_another_seed_another() -> None:
    results = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        module = learner(seed=seed, num_problems=2)
        trainer().fit(module)
        results.append(phi(module))
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


def test_a_pickled_learner_learns_alike() -> None:
    """As processes that are spawned take it, before the training and in the middle of it."""
    module = learner(num_problems=2)
    for _ in range(2):
        twin = pickle.loads(pickle.dumps(module))
        for each in (module, twin):
            trainer().fit(each)
        assert torch.equal(phi(module), phi(twin))
        averages = ([*each.average.parameters()] for each in (module, twin))
        assert all(map(torch.equal, *averages))


@pytest.mark.parametrize("estimator", [FirstOrder(), PES(pairs=2)])
def test_resume_is_exact(tmp_path: Path, estimator: Estimator) -> None:
    options = {"estimator": estimator, "average_decay": 0.9, "clip_relative": 2.0, "lr_schedule": "cosine", "lr": 0.01}
    whole = learner(**options)
    trainer(max_epochs=4).fit(whole)
    first = learner(**options)
    stopping = trainer(max_epochs=4, callbacks=[StopAfter(episodes=6)])
    with pytest.raises(SystemExit):
        stopping.fit(first)
    stopping.save_checkpoint(tmp_path / "x.ckpt")
    second = learner(**options)
    trainer(max_epochs=4).fit(second, ckpt_path=str(tmp_path / "x.ckpt"), weights_only=True)
    assert int(first.episode) == 6
    assert int(second.episode) == 16
    assert whole.get_extra_state() == second.get_extra_state() == {"episode": 16, "skipped": 0, "skipped_in_a_row": 0}
    for name, tensor in whole.named_parameters():
        assert torch.equal(tensor, second.get_parameter(name)), name
    for name, tensor in whole.named_buffers():
        assert torch.equal(tensor.nan_to_num(-1), second.get_buffer(name).nan_to_num(-1)), name


def test_checkpoint_holds_plain_values(tmp_path: Path) -> None:
    module = learner(Regression(scale=0.25), lr=0.02)
    fit = trainer(max_epochs=1)
    fit.fit(module)
    fit.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    recipe = checkpoint["meta_opt"]
    assert recipe["format"] == 2
    assert recipe["optimizee"] == {"class_path": "problems_for_tests.Regression", "init_args": {"scale": 0.25}}
    assert recipe["estimator"]["class_path"] == "first_order"
    assert recipe["estimator"]["init_args"] == {"update_every": None, "replay_fraction": 1.0}
    assert recipe["optimizer"]["class_path"] == "coordinatewise_lstm"
    assert recipe["optimizer"]["init_args"]["hidden_size"] == 4
    assert recipe["model"]["lr"] == 0.02
    assert "optimizee" not in recipe["model"]


def test_a_non_finite_episode_changes_nothing() -> None:
    """The third of the training episodes is bad."""
    options = {"num_steps": 5, "average_decay": 0.5, "clip_relative": 2.0, "lr": 0.05}
    good = learner(Sometimes([]), **options)
    fit = trainer(max_epochs=1, limit_val_batches=0, limit_train_batches=2)
    fit.fit(good)
    bad = learner(Sometimes([2]), **options)
    fit = trainer(max_epochs=1, limit_val_batches=0, limit_train_batches=3)
    fit.fit(bad)
    assert int(bad.skipped) == 1
    assert int(bad.episode) == 3
    assert fit.callback_metrics["train/skipped"].item() == 1
    assert torch.equal(phi(good), phi(bad))
    for key in ("average.module.networks.all.output_weight", "average.n_averaged", "_clip.norms"):
        assert torch.equal(good.state_dict()[key].nan_to_num(-1), bad.state_dict()[key].nan_to_num(-1))


def test_a_non_finite_unroll_late_in_an_episode_undoes_the_earlier_ones() -> None:
    module = learner(Square(), num_steps=6, unroll_length=3, lr=0.05)
    fit = trainer(max_epochs=1, limit_val_batches=0, limit_train_batches=1)
    before = phi(module)
    step, calls = module._meta_step, []

    def broken(estimate: MetaGradient) -> bool:
        calls.append(phi(module))
        if len(calls) == 2:
            estimate.grads[0].fill_(math.inf)
        return step(estimate)

    module._meta_step = broken  # type: ignore[method-assign]
    fit.fit(module)
    assert len(calls) == 2
    assert not torch.equal(calls[1], before)
    assert torch.equal(phi(module), before)
    assert not fit.optimizers[0].state_dict()["state"]
    assert int(module.skipped) == 1


class Negative(Regression):
    def loss(self, params: Any, problem: Any, batch: Any) -> Any:
        return super().loss(params, problem, batch) - 50.0


@pytest.mark.parametrize("meta_loss", ["log_sum", "log_mean"])
def test_losses_that_have_no_logarithm_are_said_to_be_the_cause(meta_loss: str) -> None:
    told = rf"model.meta_loss {meta_loss} takes logarithms, and a loss was -\d+.*: choose sum"
    with pytest.raises(MetaOptError, match=told):
        trainer().fit(learner(Negative(), meta_loss=meta_loss))
    trainer().fit(summed := learner(Negative(), meta_loss="sum"))
    assert (summed.episode, summed.skipped) == (8, 0)


def test_training_stops_when_episodes_stay_non_finite() -> None:
    module = learner(Sometimes(list(range(100))), max_skipped=2)
    with pytest.raises(DivergedError, match="3 episodes in a row were not finite"):
        trainer(max_epochs=50).fit(module)


def test_average_is_the_moving_average_of_phi() -> None:
    module = learner(average_decay=0.75, num_steps=5, lr=0.05)
    steps: list[torch.Tensor] = []
    update = module.average.update_parameters
    module.average.update_parameters = lambda model: (update(model), steps.append(phi(module)))[0]  # type: ignore[method-assign]
    trainer(max_epochs=1, limit_val_batches=0).fit(module)
    assert len(steps) == 4
    expected = steps[0]
    for step in steps[1:]:
        expected = 0.75 * expected + 0.25 * step
    average = torch.cat([parameter.flatten() for parameter in module.trained.parameters()])
    torch.testing.assert_close(average, expected, rtol=1e-6, atol=1e-7)


def test_without_an_average_phi_itself_is_tested() -> None:
    module = learner(lr=0.05)
    trainer(max_epochs=1).fit(module)
    assert torch.equal(phi(module), torch.cat([parameter.flatten() for parameter in module.trained.parameters()]))


def test_cosine_learning_rate() -> None:
    module = learner(lr=0.1, lr_schedule="cosine", num_steps=5)
    fit = trainer(max_epochs=2, limit_val_batches=0)
    seen = []
    step = module._meta_step

    def watching(estimate: MetaGradient) -> bool:
        seen.append(fit.optimizers[0].param_groups[0]["lr"])
        return step(estimate)

    module._meta_step = watching  # type: ignore[method-assign]
    fit.fit(module)
    assert seen == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])


@pytest.mark.parametrize("make", [CoordinatewiseLSTM, LearnedSOAP])
def test_an_optimizer_is_one_meta_learner_s(make: Callable[[], OptimizerNetwork]) -> None:
    first = MetaLearner(Regression(), make(), num_steps=5)
    before = phi(first).clone()
    for taken in (first.optimizer, first.trained):
        with pytest.raises(MetaOptError, match="is that of another MetaLearner: give each an optimizer of its own"):
            MetaLearner(Regression(), taken, num_steps=5, seed=1)
    assert torch.equal(phi(first), before)
    estimator = PolicyGradient()
    MetaLearner(Regression(), AlphaOpt(), num_steps=5, estimator=estimator)
    with pytest.raises(MetaOptError, match="give each an estimator of its own"):
        MetaLearner(Regression(), AlphaOpt(), num_steps=5, estimator=estimator)
    plain = FirstOrder()
    for _ in range(2):
        MetaLearner(Regression(), make(), num_steps=5, estimator=plain)  # which keeps nothing
    MetaLearner(Regression(), copy.deepcopy(first.optimizer), num_steps=5)


class OfOneself(MetaLearner):
    """Another meta-optimizer, with a rate of its own for what is last."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        *first, last = self.optimizer.trained_parameters()
        return torch.optim.SGD([{"params": first}, {"params": [last], "lr": 0.3}], lr=0.1)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_rates_of_ones_own_meta_optimizer_are_kept(schedule: Literal["constant", "cosine"]) -> None:
    module = OfOneself(Regression(), CoordinatewiseLSTM(hidden_size=4), num_steps=5, lr=7.0, lr_schedule=schedule)
    module.episodes_per_epoch = 4
    fit = trainer(max_epochs=1, limit_val_batches=0)
    fit.fit(module)
    factor = 0.5 * (1 + math.cos(math.pi * 3 / 4)) if schedule == "cosine" else 1.0
    assert [group["lr"] for group in fit.optimizers[0].param_groups] == pytest.approx([0.1 * factor, 0.3 * factor])


def test_a_derived_class_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    module = OfOneself("quadratic", num_steps=5, unroll_length=5, episodes_per_epoch=1, num_validation_problems=2)
    fit = trainer(max_epochs=1)
    fit.fit(module)
    fit.save_checkpoint(tmp_path / "own.ckpt")
    loaded = OfOneself.load_from_checkpoint(tmp_path / "own.ckpt")
    assert type(loaded) is OfOneself
    trainer(max_epochs=2).fit(loaded, ckpt_path=tmp_path / "own.ckpt", weights_only=True)
    assert loaded.episode == 2


def test_a_rate_that_a_callback_changes_stays(tmp_path: Path) -> None:
    class Halves(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            trainer.optimizers[0].param_groups[0]["lr"] /= 2

    fit = trainer(max_epochs=1, limit_val_batches=0, limit_train_batches=3, callbacks=[Halves()])
    fit.fit(learner(lr=0.1))
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0125)
    fit.save_checkpoint(tmp_path / "halved.ckpt")
    resumed = trainer(max_epochs=2, limit_val_batches=0, limit_train_batches=1)
    resumed.fit(learner(lr=0.4), ckpt_path=tmp_path / "halved.ckpt", weights_only=True)
    assert resumed.optimizers[0].param_groups[0]["lr"] == 0.4


def test_options_of_the_meta_optimizer_are_those_of_today(tmp_path: Path) -> None:
    fit = trainer(max_epochs=1, limit_val_batches=0)
    fit.fit(learner())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    others = {"betas": (2.0, math.nan), "eps": -1.0, "weight_decay": "", "maximize": True, "amsgrad": True}
    content["optimizer_states"][0]["param_groups"][0].update(others)
    torch.save(content, tmp_path / "changed.ckpt")
    weights = []
    for name in ("last", "changed"):
        module = learner()
        trainer(limit_val_batches=0).fit(module, ckpt_path=tmp_path / f"{name}.ckpt", weights_only=True)
        weights.append(phi(module))
    assert torch.equal(*weights)


def gone_on(make: Callable[[], MetaLearner], folder: Path, epochs: int) -> tuple[Trainer, MetaLearner]:
    """A run of so many epochs that was stopped before the last, and its module."""
    first, resumed = (trainer(max_epochs=count, limit_val_batches=0) for count in (epochs - 1, epochs))
    module = make()
    first.fit(make())
    first.save_checkpoint(folder / "own.ckpt")
    resumed.fit(module, ckpt_path=folder / "own.ckpt", weights_only=True)
    return resumed, module


def test_what_a_meta_optimizer_counts_in_its_groups_goes_on(tmp_path: Path) -> None:
    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                group["steps"] = group.get("steps", 0) + 1
            return super().step(closure)

    class Own(MetaLearner):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return Counting(self.optimizer.trained_parameters(), lr=0.01)

    def own() -> MetaLearner:
        return Own(Regression(), CoordinatewiseLSTM(hidden_size=4), num_steps=5, episodes_per_epoch=4)

    assert gone_on(own, tmp_path, 2)[0].optimizers[0].param_groups[0]["steps"] == 8


def test_a_meta_optimizer_whose_state_has_shapes_of_its_own_goes_on(tmp_path: Path) -> None:
    class Own(MetaLearner):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adafactor(self.optimizer.trained_parameters(), lr=0.01)

    def own() -> MetaLearner:
        return Own(Regression(), CoordinatewiseLSTM(hidden_size=4), num_steps=5, episodes_per_epoch=2)

    _, resumed = gone_on(own, tmp_path, 2)
    whole = own()
    trainer(max_epochs=2, limit_val_batches=0).fit(whole)
    assert torch.equal(phi(resumed), phi(whole))


def test_a_meta_optimizer_that_evaluates_the_meta_loss_itself() -> None:
    class Own(MetaLearner):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.optimizer.trained_parameters())

    with pytest.raises(MetaOptError, match="LBFGS cannot be the meta-optimizer: it evaluates the meta-loss itself"):
        trainer(max_epochs=1, limit_val_batches=0).fit(Own(Regression(), CoordinatewiseLSTM(), num_steps=5))


class Scheduled(MetaLearner):
    """A meta-optimizer with a scheduler, which takes a step at the end of every epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.optimizer.trained_parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    def on_train_epoch_end(self) -> None:
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, torch.optim.lr_scheduler.ExponentialLR)
        scheduler.step()


def test_a_scheduler_of_ones_own_goes_on(tmp_path: Path) -> None:
    def scheduled() -> MetaLearner:
        return Scheduled(Regression(), CoordinatewiseLSTM(hidden_size=4), num_steps=5, episodes_per_epoch=1)

    assert gone_on(scheduled, tmp_path, 3)[0].optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8)


def test_a_learner_that_is_fitted_again_has_its_whole_schedule_again() -> None:
    module = learner(lr=0.1, lr_schedule="cosine", num_steps=5)
    for _ in range(2):
        fit = trainer(max_epochs=1, limit_val_batches=0)
        fit.fit(module)
        assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * 3 / 4)))
    assert module.episode == 8


def test_another_estimator_with_other_weights_cannot_go_on(tmp_path: Path) -> None:
    module = MetaLearner(Regression(), AlphaOpt(), num_steps=4, unroll_length=4, estimator=PolicyGradient())
    fit = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    fit.fit(module)
    fit.save_checkpoint(tmp_path / "agent.ckpt")
    for estimator, mine in ((FirstOrder(), "no weights"), (PolicyGradient(critic_size=3), "estimator.critic")):
        other = MetaLearner(Regression(), AlphaOpt(), num_steps=4, unroll_length=4, estimator=estimator)
        with pytest.raises(
            CheckpointError, match=rf"^model.estimator \w+ has {mine}.*, and the estimator of the run est"
        ):
            trainer(max_epochs=2).fit(other, ckpt_path=tmp_path / "agent.ckpt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MetaLearner(CoordinatewiseLSTM(), Square()),  # type: ignore[arg-type]
            "optimizee must be an Optimizee, or the name of one, not CoordinatewiseLSTM",
        ),
        (
            lambda: MetaLearner(Square(), Square()),
            "optimizer must be an OptimizerNetwork, or the name of one, not Square",
        ),  # type: ignore[arg-type]
        (lambda: MetaLearner(None), "optimizee must be an Optimizee, or the name of one, not NoneType"),  # type: ignore[arg-type]
        (lambda: MetaLearner(torch.nn.Linear), "optimizee must be an Optimizee, or the name of one, not Linear"),  # type: ignore[arg-type]
        (lambda: learner(estimator=3), "estimator must be an Estimator, or the name of one, not int"),
        (lambda: learner(lr=None), "model.lr must be a number, not None"),
        (lambda: learner(lr_schedule="Cosine"), "model.lr_schedule must be constant or cosine, not 'Cosine'"),
        (lambda: learner(meta_loss="logsum"), "model.meta_loss must be sum, log_sum, log_mean or best, not 'logsum'"),
        (lambda: learner(normalize_gradient="false"), "model.normalize_gradient must be True or False, not 'false'"),
        (lambda: learner(monitor="loss"), "model.monitor must be objective, final_loss or loss_sum, not 'loss'"),
        (lambda: AlphaOpt(unit="Secant"), "optimizer.unit must be base or secant, not 'Secant'"),  # type: ignore[arg-type]
        (lambda: PolicyGradient(algorithm="PPO"), "model.estimator.algorithm must be reinforce or ppo, not 'PPO'"),  # type: ignore[arg-type]
        (lambda: CoordinatewiseLSTM(engine=3), "optimizer.engine must be auto, native or torch, not 3"),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_are_none_of_their_choices(make: Callable[[], object], message: str) -> None:
    with pytest.raises(MetaOptError) as raised:
        make()
    assert str(raised.value) == message


@pytest.mark.parametrize("within", [torch.no_grad, torch.inference_mode])
def test_whatever_the_caller_is_in_makes_no_difference(within: Any) -> None:
    plain = learner()
    with within():
        module = learner()
        losses = run_episodes(Regression(), module.trained, "test", 2, 6, seed=0).losses
        check_loss(Regression(), torch.Generator().manual_seed(0))
    assert torch.equal(phi(module), phi(plain))
    assert not phi(module).is_inference()
    assert torch.equal(losses, run_episodes(Regression(), plain.trained, "test", 2, 6, seed=0).losses)
    trainer(max_epochs=1).fit(module)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_type_makes_no_difference(dtype: torch.dtype, tmp_path: Path) -> None:
    plain = learner()
    torch.set_default_dtype(dtype)
    try:
        module = learner()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(phi(module), phi(plain))


@pytest.mark.parametrize("base", [CoordinatewiseLSTM, LearnedSOAP])
def test_a_step_of_a_derived_class_is_the_one_that_is_taken(base: type[OptimizerNetwork]) -> None:
    class Halves(base):  # type: ignore[valid-type, misc]
        def step(self, evaluation: Any, state: Any, noise: Any = None) -> Any:
            step = super().step(evaluation, state, noise)
            return step._replace(update=0.5 * step.update)

    found = []
    for make in (base, Halves):
        module = MetaLearner(Regression(), make(), num_steps=6, unroll_length=6, num_validation_problems=2)
        curves = run_episodes(Regression(), module.optimizer, "test", 2, 6, seed=0)
        problems = Problems(Regression(), "train", range(2), seed=0)
        start = begin(problems, module.optimizer, num_steps=6, grads=True)
        trajectory = unroll(problems, module.optimizer, start, 6)
        grads = first_order(trajectory, module.optimizer, module._meta_loss).grads
        found.append((curves.losses, torch.cat([grad.flatten() for grad in grads])))
    (plain, grad), (halved, other) = found
    assert not torch.equal(plain[1:], halved[1:])
    assert not torch.allclose(grad, other)
    assert torch.equal(plain[0], halved[0])


def test_cosine_without_an_end_is_an_error() -> None:
    with pytest.raises(MetaOptError, match="set trainer.max_epochs"):
        trainer(max_epochs=-1).fit(learner(lr_schedule="cosine"))


def test_validation_and_test_problems_differ() -> None:
    module = learner()
    assert not torch.equal(
        module.curves(module.trained, "validation", 2).losses, module.curves(module.trained, "test", 2).losses
    )


def test_test_logs_losses_and_metrics() -> None:
    module = learner()
    (results,) = trainer(inference_mode=True).test(module, verbose=False)
    curves = module.curves(module.trained, "test", 3)
    assert results["test/final_loss"] == pytest.approx(curves.final.mean().item())
    assert results["test/loss_sum"] == pytest.approx(curves.sum.mean().item())
    assert results["test/root"] == pytest.approx(curves.metrics["root"].mean().item())
    # No metric of an optimizee may have one of the other names, or one would hide the other.
    assert {name.removeprefix("test/") for name in results} == {*LOGGED, *curves.metrics}


def test_second_derivatives_take_another_path() -> None:
    modules = [learner(estimator=estimator, lr=0.05) for estimator in (FirstOrder(), SecondOrder())]
    for module in modules:
        trainer(max_epochs=1).fit(module)
    assert not torch.allclose(phi(modules[0]), phi(modules[1]))


def test_a_sliding_window_updates_after_every_few_steps_over_the_last_losses() -> None:
    """With φ at rest, each window's meta-gradient is that of the unroll which begins where it begins."""
    module = learner(
        num_steps=6,
        unroll_length=4,
        estimator=FirstOrder(update_every=2),
        num_problems=2,
        lr=0.0,
        episodes_per_epoch=1,
    ).double()
    estimates, step = [], module._meta_step

    def recorded(estimate: MetaGradient) -> bool:
        estimates.append(estimate)
        return step(estimate)

    module._meta_step = recorded  # type: ignore[method-assign]
    trainer(max_epochs=1).fit(module)
    for estimate, lengths in zip(estimates, ([2], [4], [2, 4]), strict=True):
        reference = PaperUnroll(
            Problems(Regression(), "train", range(2), seed=0, dtype=torch.float64), module.optimizer
        )
        for length in lengths:
            loss, grads = reference.run(length, torch.ones(length, dtype=torch.float64))
        torch.testing.assert_close(estimate.loss, loss, rtol=1e-12, atol=0)
        for ours, theirs in zip(estimate.grads, grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()))


def test_a_window_that_does_not_slide_is_an_unroll() -> None:
    modules = [learner(lr=0.05, estimator=FirstOrder(update_every=every)) for every in (None, 5, 1)]
    for module in modules:
        trainer(max_epochs=1).fit(module)
    assert torch.equal(phi(modules[0]), phi(modules[1]))
    assert not torch.allclose(phi(modules[0]), phi(modules[2]))


def test_engines_learn_alike() -> None:
    """The learning curves of 20 episodes, up to what float32 accumulates."""
    if not native.available():
        pytest.skip("there is no compiler")
    curves = []
    for engine in ("native", "torch"):
        losses = Losses()
        module = learner(lr=0.003)
        module.optimizer.engine = engine
        trainer(max_epochs=5, callbacks=[losses]).fit(module)
        curves.append(torch.stack(losses.values))
    assert len(curves[0]) == 20
    assert curves[0][-4:].mean() < 0.9 * curves[0][:4].mean()
    torch.testing.assert_close(*curves, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_steps", 0, "model.num_steps must be at least 1, not 0"),
        ("num_steps", "10", "model.num_steps must be a whole number, not '10'"),
        ("num_steps", 1.5, "model.num_steps must be a whole number, not 1.5"),
        ("lr", "0.1", "model.lr must be a number, not '0.1'"),
        ("unroll_length", 0, "model.unroll_length must be at least 1, not 0"),
        ("max_num_steps", 9, "model.max_num_steps must be at least model.num_steps, 10, not 9"),
        ("num_validation_steps", 0, "model.num_validation_steps must be at least 1, not 0"),
        ("num_problems", 0, "model.num_problems must be at least 1, not 0"),
        ("lr", -1.0, "model.lr must be at least 0, not -1.0"),
        ("lr", math.nan, "model.lr must be at least 0, not nan"),
        ("lr", 1e39, r"model.lr must be at least 0 and less than 1e\+10, not 1e\+39"),
        ("reference_lr", math.inf, r"model.reference_lr must be at least 0 and less than 1e\+10, not inf"),
        ("average_decay", 1.0, "model.average_decay must be at least 0 and less than 1, not 1.0"),
        ("clip_norm", 0.0, "model.clip_norm must be more than 0"),
        ("num_steps", True, "model.num_steps must be a whole number, not True"),
        ("seed", np.int64(3), r"model.seed must be a plain value, which int\(\) or float\(\) make of it, not "),
        ("lr", torch.tensor(0.1), r"model.lr must be a plain value, which int\(\) or float\(\) make of it, not "),
        ("seed", 1.5, "model.seed must be a whole number, not 1.5"),
        ("seed", True, "model.seed must be a whole number, not True"),
        ("seed", None, "model.seed must be a whole number, not None"),
        ("seed", 1 << 32, "model.seed must be at least 0 and less than 4294967296, not 4294967296"),
        ("seed", -1, "model.seed must be at least 0 and less than 4294967296, not -1"),
        ("step_weights", "first", "model.step_weights must be"),
        ("step_weights", None, "model.step_weights must be text, not None"),
        ("warm_start", 5, "model.warm_start must be text, not 5"),
    ],
)
def test_values_out_of_range(option: str, value: object, message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        learner(**{option: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_every": 0}, "model.estimator.update_every must be at least 1, not 0"),
        ({"update_every": 2}, "model.estimator.update_every must divide model.unroll_length, 5, and 2 does not"),
        ({"update_every": 10}, "model.estimator.update_every must divide model.unroll_length, 5, and 10 does not"),
        ({"replay_fraction": 0.0}, "model.estimator.replay_fraction must be more than 0 and at most 1, not 0.0"),
        ({"replay_fraction": 1.5}, "model.estimator.replay_fraction must be more than 0 and at most 1, not 1.5"),
    ],
)
def test_values_out_of_range_of_the_estimator(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        learner(estimator=FirstOrder(**options))


class Wrong(Estimator):
    """Gives what no step can be taken with."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def estimates(self, episode: Any) -> Any:
        for estimate in FirstOrder().estimates(episode):
            if self.what == "number":
                yield 3
            elif self.what == "fewer":
                yield replace(estimate, grads=estimate.grads[:1])
            elif self.what == "transposed":
                yield replace(estimate, grads=tuple(grad.unsqueeze(0) for grad in estimate.grads))
            elif self.what == "double":
                yield replace(estimate, grads=tuple(grad.double() for grad in estimate.grads))
            elif self.what == "one of none":
                yield replace(estimate, grads=(None, *estimate.grads[1:]))  # type: ignore[arg-type]
            elif self.what in ("grads", "own_grads", "losses"):
                yield replace(estimate, **{self.what: None})  # type: ignore[arg-type]
            elif self.what == "loss":
                yield replace(estimate, loss=estimate.loss.item())  # type: ignore[arg-type]
            elif self.what == "vector":
                yield replace(estimate, loss=estimate.losses)
            elif self.what == "mean":
                yield replace(estimate, losses=estimate.losses.mean(1))
            elif self.what == "no steps":
                yield replace(estimate, losses=estimate.losses[:0])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("number", "Wrong.estimates must yield MetaGradients, found int"),
        ("fewer", "Wrong.estimates must yield a gradient of the shape of each weight"),
        ("transposed", "Wrong.estimates must yield a gradient of the shape of each weight"),
        ("nothing", "Wrong.estimates gave nothing in 10 steps"),
        ("double", "Wrong.estimates must yield gradients of the type of the weights, torch.float32, found torch.float"),
        ("one of none", "Wrong.estimates must yield a gradient of the shape of each weight, .*, found .'NoneType', "),
        ("grads", "Wrong.estimates must yield grads as a tuple of tensors, found NoneType"),
        ("own_grads", "Wrong.estimates must yield own_grads as a tuple of tensors, found NoneType"),
        ("losses", r"Wrong.estimates must yield losses \[steps, 1\], found NoneType"),
        ("no steps", "Wrong.estimates gave losses of no step"),
        ("mean", r"Wrong.estimates must yield losses \[steps, 1\], found shape \[5\]"),
        ("loss", r"Wrong.estimates must yield a loss that is a tensor of shape \[\], found float"),
        ("vector", r"Wrong.estimates must yield a loss that is a tensor of shape \[\], found shape \[5, 1\]"),
    ],
)
def test_estimates_that_no_step_can_be_taken_with(what: str, message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        trainer(max_epochs=1).fit(learner(estimator=Wrong(what)))


def test_episodes_of_random_length() -> None:
    estimator = FirstOrder(update_every=1)
    module = learner(num_steps=5, max_num_steps=20, unroll_length=5, estimator=estimator, episodes_per_epoch=30, lr=0.0)
    lengths, draw = [], module._draw_num_steps
    module._draw_num_steps = lambda: lengths.append(draw()) or lengths[-1]  # type: ignore[method-assign,func-returns-value]
    fit = trainer(max_epochs=1, limit_val_batches=0)
    fit.fit(module)
    assert fit.optimizers[0].state_dict()["state"][0]["step"] == sum(lengths)
    assert min(lengths) >= 5
    assert max(lengths) <= 20
    assert 0.3 < sum(length < 10 for length in lengths) / 30 < 0.7  # the logarithm is uniform
    assert module.curves(module.trained, "validation", 2).losses.shape == (6, 2)


def test_validation_may_be_longer() -> None:
    short, longer = learner(num_steps=5), learner(num_steps=5, num_validation_steps=9)
    curves = [module.curves(module.trained, "validation", 2) for module in (short, longer)]
    assert [len(each.losses) for each in curves] == [6, 10]
    assert torch.equal(curves[0].losses, curves[1].until(5).losses)
    assert longer._draw_num_steps() == 5


def test_a_part_of_the_coordinates_is_drawn_anew_and_reproducibly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset, "SMALL", 1)
    modules = [learner(lr=0.05, estimator=FirstOrder(replay_fraction=fraction)) for fraction in (0.5, 0.5, 1.0)]
    for module in modules:
        trainer(max_epochs=1).fit(module)
    assert torch.equal(phi(modules[0]), phi(modules[1]))
    assert not torch.allclose(phi(modules[0]), phi(modules[2]))


class Infinite(Square):
    def loss(self, params: Any, problem: Any, batch: Any) -> Any:
        return super().loss(params, problem, batch) / 0


def test_a_broken_optimizee_is_refused_at_once() -> None:
    with pytest.raises(OptimizeeError, match="not finite at θ_0"):
        learner(Infinite())


def test_warm_start(tmp_path: Path) -> None:
    source = learner()
    first = trainer(max_epochs=1)
    first.fit(source)
    path = str(tmp_path / "source.ckpt")
    first.save_checkpoint(path)
    module = learner(seed=1, lr=0.0, warm_start=path)
    trainer(max_epochs=1).fit(module)
    assert all(map(torch.equal, module.optimizer.parameters(), source.trained.parameters()))
    assert all(map(torch.equal, module.trained.parameters(), source.trained.parameters()))


def test_a_resumed_run_does_not_start_warm_again(tmp_path: Path) -> None:
    first = trainer(max_epochs=1)
    first.fit(learner())
    source, half = (str(tmp_path / f"{name}.ckpt") for name in ("source", "half"))
    first.save_checkpoint(source)
    whole, part, rest = (learner(warm_start=source) for _ in range(3))
    trainer(max_epochs=2).fit(whole)
    second = trainer(max_epochs=1)
    second.fit(part)
    second.save_checkpoint(half)
    Path(source).unlink()
    trainer(max_epochs=2).fit(rest, ckpt_path=half)
    assert all(map(torch.equal, rest.optimizer.parameters(), whole.optimizer.parameters()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "quadratic",
            "^model.warm_start quadratic: the two learned optimizers do not read the same inputs ",
        ),
        ("quadratics", "no pretrained optimizer is called 'quadratics'; did you mean 'quadratic'"),
        ("gone.ckpt", "there is no checkpoint gone.ckpt"),
    ],
)
def test_a_warm_start_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        trainer().fit(learner(warm_start=name))
